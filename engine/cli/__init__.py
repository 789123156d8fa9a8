"""``teacher``: the command line. Heavy modules are imported by the command that needs them."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # `python -m engine.cli` is being found: Python has put the working directory first, where a user's own `yaml.py`
    # may lie. Before anything else is imported.
    del sys.path[0]

from engine.cli.main import main

__all__ = ["main"]
