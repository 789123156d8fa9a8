"""``make bench``: everything that is measured, one after the other, each beside a baseline in the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
MEGABYTES = "260"


def python(script: Path, *arguments: str) -> None:
    print("$ python", script.relative_to(HERE.parent), *arguments, flush=True)
    subprocess.run([sys.executable, str(script), *arguments], check=True)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        data, big = Path(temporary, "data"), Path(temporary, "big.json")
        python(HERE.parent / "examples" / "demo_data.py", str(data))
        python(HERE / "make_big_coco.py", str(data / "annotations.json"), str(big), "--megabytes", MEGABYTES)
        python(HERE / "inspect_speed.py", str(big))
    python(HERE / "library_faults.py")
