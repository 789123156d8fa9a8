"""Each failure has one name, one exit code and one advice."""

from __future__ import annotations

import re

import pytest

from engine.errors import EXIT_ERRORS, NEVER_RETRIED, TeacherError

ERRORS = [*EXIT_ERRORS.values(), TeacherError]


def test_names_and_exit_codes_are_unique() -> None:
    assert len(EXIT_ERRORS) == len(TeacherError.__subclasses__()) == 11
    assert len({error.reason for error in ERRORS}) == len({error.exit_code for error in ERRORS}) == len(ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_failure_has_what_its_readers_need(error: type[TeacherError]) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", error.reason)
    assert error.advice
    assert not error.advice.endswith(".")
    assert (error.__doc__ or "").splitlines()[0].endswith(".")


def test_the_scheduler_never_retries_what_is_not_retryable() -> None:
    assert sorted(NEVER_RETRIED) == [40, 41, 45, 48, 49]
