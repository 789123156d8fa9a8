"""Wrong inputs of every kind that a person or a bucket can hand in, for as long as one likes::

    python tests/fuzz/fuzz.py --seconds 600 --seed 1 [--kind manifest]

Each is read as a run would read it. It may be refused in a sentence, or repaired or left out and counted; anything
else (another error, a count that does not add up, over 5 seconds, or over a gigabyte of memory) is a fault: its input
is kept in ``--keep``, and the exit code is 1. ``tests/fuzz/inputs.py`` has the kinds.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from coco_files import write_images  # noqa: E402
from inputs import NAMES, Kind, all_kinds  # noqa: E402

SECONDS, WAITING = 5, 30
"""Longest time of one input, of the processor, which a busy machine does not change; and by the clock."""

GIGABYTE = 1 << 30
"""Most memory that one input may take beside what was taken before."""

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class HungError(BaseException):
    """No Exception, so that no reader takes it for a fault of its input."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise what takes too long; end the process where not even Python is reached any more."""

    def stop(*_: object) -> None:
        raise HungError

    previous = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITING)
    faulthandler.dump_traceback_later(2 * WAITING, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), previous, strict=True):
            signal.signal(number, handler)


def _bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def execute(kind: Kind, content: bytes, folder: Path) -> str:
    """Return what becomes of an input: what its check says, or ``crashed``, ``hung`` or ``over 1 GB``."""
    try:
        CLEAR.write_text("5")  # the peak counts from here on
        before = _bytes("VmRSS")
    except OSError:
        before = None
    try:
        with bounded():
            end = kind.check(content, folder)
    except HungError:
        return "hung"
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
        print(traceback.format_exc()[-2500:], file=sys.stderr)
        return "crashed"
    return "over 1 GB" if before is not None and _bytes("VmHWM") - before > GIGABYTE else end


def fuzz(
    kinds: Sequence[Kind],
    folder: Path,
    *,
    seed: int,
    seconds: float = float("inf"),
    each: int | None = None,
    keep: Path | None = None,
) -> Counter[tuple[str, str]]:
    """Try inputs in turn, until the time is up or each kind has had its number; count what became of them by kind."""
    tally = Counter[tuple[str, str]]()
    begun, number = time.monotonic(), 0
    while time.monotonic() - begun < seconds and (each is None or number < each * len(kinds)):
        rng = random.Random(f"{seed} {number}")
        kind = kinds[number % len(kinds)] if each is not None else rng.choices(kinds, [k.share for k in kinds])[0]
        content = kind.make(rng)
        end = execute(kind, content, folder)
        if end in FAULTS:
            print(f"{kind.name} {seed} {number}: {end}", file=sys.stderr)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}-{kind.name.replace(' ', '_').replace('/', '_')}").write_bytes(content)
        tally[kind.name, end] += 1
        number += 1
    return tally


FAULTS = frozenset({"crashed", "hung", "over 1 GB"})


def prepared(folder: Path) -> list[Kind]:
    """All kinds, with what they need in a folder."""
    write_images(folder / "images", NAMES)
    return all_kinds(folder)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--kind", help="only kinds whose name has this in it")
    options.add_argument("--keep", type=Path, default=Path("out/fuzz"))
    given = options.parse_args()
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    with TemporaryDirectory() as temporary:
        kinds = [one for one in prepared(Path(temporary)) if (given.kind or "") in one.name]
        tally = fuzz(kinds, Path(temporary), seed=given.seed, seconds=given.seconds, keep=given.keep)
    table: dict[str, dict[str, int]] = {}
    for (kind, end), count in sorted(tally.items()):
        table.setdefault(kind, {})[end] = count
    faults = {fault: sum(count for (_, end), count in tally.items() if end == fault) for fault in sorted(FAULTS)}
    summary = {
        "seconds": round(time.monotonic() - begun),
        "executions": tally.total(),
        "faults": faults,
        "kinds": table,
    }
    print(json.dumps(summary, indent=1))
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())
