"""Make a large COCO file by repeating a small one with new ids.

python benchmarks/make_big_coco.py SRC DEST --megabytes 260
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def make(source: Path, destination: Path, *, megabytes: float) -> int:
    """Write complete copies of ``source`` until the file has about that size.

    Returns:
        Number of annotations written.
    """
    data = json.loads(source.read_bytes())
    images, annotations = data["images"], data["annotations"]
    once = sum(len(json.dumps(element)) + 2 for element in images + annotations)
    copies = max(1, round(megabytes * 1e6 / once))
    image_step = 1 + max(image["id"] for image in images)
    annotation_step = 1 + max(annotation["id"] for annotation in annotations)
    rest = {key: value for key, value in data.items() if key not in ("images", "annotations")}
    with destination.open("w", encoding="utf-8") as file:
        file.write(json.dumps(rest)[:-1] + (", " if rest else "") + '"images": [')
        for copy in range(copies):
            for i, image in enumerate(images):
                changed = {**image, "id": image["id"] + copy * image_step, "file_name": f"{copy}/{image['file_name']}"}
                file.write((", " if copy or i else "") + json.dumps(changed))
        file.write('], "annotations": [')
        for copy in range(copies):
            for i, annotation in enumerate(annotations):
                changed = {
                    **annotation,
                    "id": annotation["id"] + copy * annotation_step,
                    "image_id": annotation["image_id"] + copy * image_step,
                }
                file.write((", " if copy or i else "") + json.dumps(changed))
        file.write("]}")
    return copies * len(annotations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--megabytes", type=float, default=260)
    arguments = parser.parse_args()
    count = make(arguments.source, arguments.destination, megabytes=arguments.megabytes)
    size = arguments.destination.stat().st_size / 1e6
    print(f"{arguments.destination}: {size:.1f} MB, {count:,} annotations")


if __name__ == "__main__":
    main()
