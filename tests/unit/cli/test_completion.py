"""The shell completes commands, options and the values that an option takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine import __version__


def completed(words: str) -> list[str]:
    """Return what bash offers for the last word of a command line."""
    environment = os.environ | {
        "_TEACHER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'teacher'; from engine.cli import main; main()"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("teacher pre", ["predict", "prepare"]),
        ("teacher run --lora-", ["--lora-preset", "--lora-rank", "--lora-alpha"]),
        ("teacher run --lora-preset e", ["encoder-decoder"]),
        ("teacher run --teacher S", ["Sam", "Sam2"]),
        ("teacher train --progress j", ["json"]),
    ],
)
def test_commands_options_and_values_are_completed(words: str, offered: list[str]) -> None:
    assert sorted(completed(words)) == sorted(offered)


def test_the_completion_script_is_shown_and_the_version_is_printed() -> None:
    def printed(*words: str) -> str:
        command = [sys.executable, "-m", "engine.cli", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert printed("--version") == f"teacher-finetune {__version__}\n"
    assert "--install-completion" in printed("--help")
