"""Draw the picture of README.md: example images of a run's report, before and after fine-tuning.

Run ``make demo``, then ``.venv/bin/python docs/make_picture.py out/demo/both/report.html --image 0035.jpg``.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

OUTPUT = Path(__file__).resolve().parent / "before_after.png"
PANELS = ("Truth", "Before", "After")
WIDTH, GAP, CAPTION = 300, 12, 26
"""Width of a panel, space between panels and height of a caption, in pixels."""


def examples(report: str, image: str) -> list[list[tuple[str, Image.Image]]]:
    """Return the panels of one image, (caption, picture) in the order of ``PANELS``, for each teacher."""
    rows = []
    for name, section in re.findall(r'<h2 id="\w+">(.*?)</h2>(.*?)</section>', report, flags=re.DOTALL):
        figures = re.findall(rf'<figure>(<img[^>]*alt="\w+, {re.escape(image)}:.*?)</figure>', section, flags=re.DOTALL)
        if len(figures) == len(PANELS):
            rows.append([_panel(name, figure) for figure in figures])
    if not rows:
        raise SystemExit(f"the report has no examples of {image}")
    return rows


def _panel(teacher: str, figure: str) -> tuple[str, Image.Image]:
    found = re.search(r'base64,([^"]+)".*<figcaption><b>(.*?)</b>(.*?)</figcaption>', figure, flags=re.DOTALL)
    if found is None:
        raise SystemExit("the report embeds no picture")
    picture = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
    return f"{teacher}, {found[2].lower()}: {found[3].strip()}".replace("\u00d7", "x").replace(" x 1", ""), picture


def compose(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """Place one example per row, with its caption above each panel."""
    height = max(round(picture.height * WIDTH / picture.width) for row in rows for _, picture in row)
    size = (len(PANELS) * (WIDTH + GAP) + GAP, len(rows) * (height + CAPTION + GAP))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for y, row in enumerate(rows):
        for x, (caption, picture) in enumerate(row):
            left, top = GAP + x * (WIDTH + GAP), y * (height + CAPTION + GAP)
            draw.text((left, top + 6), caption, fill="black", font=font)
            panel = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
            canvas.paste(panel, (left, top + CAPTION))
    return canvas.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html of a run")
    parser.add_argument("--image", required=True, help="file name of an example image of every teacher")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    rows = examples(arguments.report.read_text(encoding="utf-8"), arguments.image)
    compose(rows).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
