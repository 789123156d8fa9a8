"""Documents and bytes with something wrong in them: values replaced, removed, doubled or moved, bytes changed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

DEEP = 3000
RAW = {
    "@huge": "1" + "0" * 400,
    "@digits": "9" * 6000,
    "@float": "1e999",
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@deep": "[" * DEEP + "]" * DEEP,
}
"""What no Python value is written as."""

HOSTILE: list[Any] = [
    *RAW, None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 1e308, 0.5, -0.0,
    "", " ", "1", "\x00", "a\x00b", "\ud800", "é" * 300, "x" * 100_000,
    "../../etc/passwd", "/etc/passwd", "C:\\windows\\x.png", "..\\..\\x.png", "./001.png", "001.PNG",
    [], {}, [[]], [None], [[None]], [1], [1, 2], [[1, 2]], [[1, 2, 3]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], ["a"] * 6,
    [[1e308, -1e308] * 4], [[0, 0] * 500], [[float(i) for i in range(7)]],
    [0, 0, -5, 10], [0, 0, 0, 0], [1e9, 1e9, 5, 5],
    {"size": [48, 64]}, {"counts": []}, {"size": [10**9, 10**9], "counts": [1]}, {"size": [48, 64], "counts": [10**12]},
    {"size": [48, 64], "counts": "\x00\xff"}, {"size": [48, 64], "counts": "`" * 50}, {"size": [-1, 5], "counts": [3]},
    {"size": [48, 64], "counts": [-5, 10]}, {"size": ["48", None], "counts": "abc"}, {"size": [0, 0], "counts": []},
    "(.*(.*(.*)*)*)*!", "olora", "pissa", "all", "yes", "1:30", "2020-99-99", {"Regex": "(a*)*b"}, 10**9, 7, ["a", "b"],
]  # fmt: skip

YAML = [
    "&x", "*x", "!!bool maybe", "!!python/name:os.system", "<<: *x", "? [a]", "- ", "{", "}", "[" * 300, "]", "\t",
    "2020-99-99", "1:30", "0o17", "yes", "~", ".inf", "'", '"', '"\\ud800"', "|", ">", "%TAG ! !", "---", "...", ": ",
    "&a [" + "*a," * 9 + "]", "9" * 5000, "1e999", "#", "\x00", "\ufeff", "\u2028", "a: " * 50, "1_" * 3000,
]  # fmt: skip
"""Pieces of YAML that mean something else than they look like."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def mutated(document: Any, rng: random.Random) -> Any:
    """The document with some values of it replaced, removed, doubled or added."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        spots = places(document)
        if not spots:
            break
        container, key = rng.choice(spots)
        how = rng.randrange(5)
        if how == 0:
            del container[key]
        elif how == 1 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif how == 2:
            other, place = rng.choice(spots)
            try:
                container[key] = json.loads(json.dumps(other[place]))
            except (KeyError, IndexError, ValueError):
                continue
        elif how == 3 and isinstance(container, dict) and rng.random() < 0.3:
            container[rng.choice(["", "extra", "auto_map", str(key).upper(), "x" * 5000])] = rng.choice(HOSTILE)
        else:
            container[key] = copy.deepcopy(rng.choice(HOSTILE))
    return document


def written(document: Any, rng: random.Random) -> bytes:
    """As JSON in some encoding, with names of keys given twice now and then."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.8, indent=rng.choice([None, None, 1]))
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    if rng.random() < 0.05 and ":" in text:
        name = text[: text.index(":")].rpartition('"')[0].rpartition('"')[2]
        text = text.replace(f'"{name}":', f'"{name}": 1, "{name}":', 3)
    encoding = rng.choice(["utf-8"] * 20 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
    return text.encode(encoding, errors="surrogatepass" if encoding.startswith("utf") else "replace")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut off, or with bytes changed, added, removed or repeated."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(len(data) + 1) if data else 0
        how = rng.randrange(5)
        if how == 0:
            del data[at:]
        elif how == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
        elif how == 3:
            del data[at : at + rng.choice([1, 4, 100])]
        else:
            data[at:at] = data[max(0, at - 50) : at] * rng.choice([1, 40])
    return bytes(data)


def odd_yaml(text: str, rng: random.Random) -> bytes:
    """YAML with pieces put in, or put in the place of values, and lines moved or doubled."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        how = rng.randrange(5)
        if how == 0 and ":" in lines[at]:
            lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(YAML)}"
        elif how == 1:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(YAML) + lines[at][place:]
        elif how == 2:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif how == 3:
            lines[at] = " " * rng.randrange(9) + lines[at].strip()
        else:
            del lines[at]
        text = "\n".join(lines)
    encoding = rng.choice(["utf-8"] * 20 + ["utf-8-sig", "utf-16", "latin-1"])
    return text.encode(encoding, errors="surrogatepass" if encoding.startswith("utf") else "replace")


def json_of(document: Any, rng: random.Random) -> bytes:
    """A document with wrong values, or with damaged bytes, as JSON."""
    if rng.random() < 0.25:
        return damaged(json.dumps(document).encode(), rng)
    content = written(mutated(copy.deepcopy(document), rng), rng)
    return damaged(content, rng) if rng.random() < 0.1 else content
