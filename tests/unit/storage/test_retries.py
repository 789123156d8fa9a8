"""What is asked for again, how soon, and how often."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, SSLError
from loops import nonempty

from engine.storage import Storage
from engine.storage.retries import LONGEST_PAUSE, Retries, pause
from engine.storage.s3_errors import clock_error


@pytest.fixture
def told() -> Counter[str]:
    return Counter()


@pytest.fixture
def retries(told: Counter[str]) -> Retries:
    return Retries(4, say=lambda sentence: told.update([sentence]), renew=lambda: told.update(["renewed"]))


def ask(retries: Retries, status: int = 0, code: str = "", *, attempts: int = 1, **more: Any) -> float | None:
    answer = (SimpleNamespace(status_code=status), {"Error": {"Code": code}} if code else {}) if status else None
    context = more.pop("context", {"uri": "s3://b/k"})
    return retries(
        response=answer, attempts=attempts, caught_exception=more.get("error"), request_dict={"context": context}
    )


def test_what_may_pass_is_requested_again_and_told(retries: Retries, told: Counter[str]) -> None:
    assert ask(retries, 200) is None
    for status, code in (
        (503, "SlowDown"),
        (500, ""),
        (400, "BadDigest"),
        (409, "ConditionalRequestConflict"),
        (429, ""),
        (429, "QuotaOfThisStore"),
    ):
        assert ask(retries, status, code) is not None
    unreachable = EndpointConnectionError(endpoint_url="http://nowhere")
    assert ask(retries, error=unreachable, attempts=3) is not None
    assert set(told) == {
        "s3://b/k answered SlowDown: attempt 2 of 4",
        "s3://b/k answered 500: attempt 2 of 4",
        "s3://b/k answered BadDigest: attempt 2 of 4",
        "s3://b/k answered ConditionalRequestConflict: attempt 2 of 4",
        "s3://b/k answered 429: attempt 2 of 4",
        "s3://b/k answered QuotaOfThisStore: attempt 2 of 4",
        "s3://b/k could not be reached: attempt 4 of 4",
    }


def test_what_will_not_pass_is_not(retries: Retries, told: Counter[str]) -> None:
    for status, code in (
        (403, "AccessDenied"),
        (404, "NoSuchKey"),
        (412, "PreconditionFailed"),
        (501, "NotImplemented"),
    ):
        assert ask(retries, status, code) is None
    untrusted = SSLError(endpoint_url="https://b", error="CERTIFICATE_VERIFY_FAILED")
    assert ask(retries, error=untrusted) is None
    assert ask(retries, error=NoCredentialsError()) is None
    assert not told


def test_attempts_are_bounded_in_number_and_in_time(retries: Retries) -> None:
    assert ask(retries, 503, "SlowDown", attempts=3) is not None
    assert ask(retries, 503, "SlowDown", attempts=4) is None
    assert ask(retries, 503, "SlowDown", context={"first_failure": time.monotonic() - 1000}) is None


def test_other_credentials_are_looked_for_only_if_those_in_use_once_did(retries: Retries, told: Counter[str]) -> None:
    assert ask(retries, 403, "InvalidAccessKeyId") is None
    ask(retries, 200)
    assert ask(retries, 403, "InvalidAccessKeyId") is not None
    assert told["renewed"] == 1


def test_pauses_grow_and_differ() -> None:
    longest = [max(pause(attempts) for _ in range(300)) for attempts in range(1, 12)]
    assert all(a < b for a, b in nonempty(itertools.pairwise(longest[:6])))
    assert longest[0] <= 0.25
    assert 15 < longest[-1] <= LONGEST_PAUSE
    assert len({pause(3) for _ in range(100)}) > 90
    assert max(pause(1, throttled=True) for _ in range(300)) > 0.5


def test_a_clock_is_compared_with_the_stores() -> None:
    def answer(date: str) -> dict[str, Any]:
        return {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    assert clock_error(answer(formatdate(time.time() - 1000))) == pytest.approx(1000, abs=5)
    assert clock_error(answer("yesterday")) is None
    assert clock_error({}) is None


def test_a_thousand_retries_are_few_sentences_that_count_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    storage = Storage(on_retry=said.append)
    for _ in range(1000):
        storage._say("a")
    now[0] += 11
    storage._say("b")
    assert said == ["a", "b (999 other retries before)"]
