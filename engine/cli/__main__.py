"""``python -m engine.cli``, for processes that must not depend on what is on PATH."""

from engine.cli.main import main

main()
