"""``teacher``: the command line. Heavy modules are imported by the command that needs them."""

from engine.cli.process import main

__all__ = ["main"]
