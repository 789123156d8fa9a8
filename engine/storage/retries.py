"""When a request to S3 is made again: what may pass is, with a growing pause, a few times, and it is said.

botocore's own rule would share one quota among all threads, so that a store which is overloaded for a moment ends a
run; it would take new credentials only when the old ones said themselves when they end; and it would do all in silence.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.exceptions import HTTPClientError, SSLError

ATTEMPTS = 8
"""Of one request, before the store counts as gone; AWS_MAX_ATTEMPTS has precedence."""

SECONDS = 180.0
"""From the first failure of a request: no attempt begins later."""

PAUSE, THROTTLED_PAUSE, LONGEST_PAUSE = 0.25, 1.0, 20.0
"""Seconds: the longest first pause, that of a store which asks for one or is not there, and the longest of all."""

NOT_THERE = frozenset({"EndpointConnectionError", "ConnectTimeoutError"})
"""A gateway that begins anew takes half a minute."""

THROTTLED = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "429"}
)
RENEWABLE = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"}
)
"""Refusals that other credentials may end, where those in use did before: they have expired, or were taken back."""

PASSING = (
    THROTTLED
    | RENEWABLE
    | {
        "BadDigest",  # damaged on its way to the store
        "ConditionalRequestConflict",
        "IncompleteBody",
        "OperationAborted",
        "RequestTimeTooSkewed",  # clocks are set
        "RequestTimeout",
        "XAmzContentChecksumMismatch",
    }
)
PASSING_STATUS = frozenset({429, 500, 502, 503, 504})


class Retries:
    """botocore's handler of ``needs-retry``: seconds to wait before the next attempt, or None for none.

    Args:
        attempts: Of one request.
        say: Is told of each further attempt in a sentence.
        renew: Looks for other credentials.
    """

    def __init__(self, attempts: int, say: Callable[[str], None], renew: Callable[[], None]) -> None:
        self.attempts, self.say, self.renew = attempts, say, renew
        self._known = False
        self._lost = threading.local()

    def register(self, events: Any) -> None:
        """Have a client ask here."""
        events.register("before-parameter-build.s3", _remember_uri)
        events.register("needs-retry.s3", self)

    def __call__(
        self,
        *,
        response: tuple[Any, Mapping[str, Any]] | None,
        attempts: int,
        caught_exception: Exception | None,
        request_dict: Mapping[str, Any],
        **_: Any,
    ) -> float | None:
        """Seconds to wait before the next attempt at a request; None: there is none."""
        fault = _refused(*response) if response is not None else _broke(caught_exception)
        if fault is None:
            self._known = True
            return None
        name, passing = fault
        if name in RENEWABLE and not self._known:
            return None
        context = request_dict["context"]
        attempts += context.get("uri") == getattr(self._lost, "uri", None)
        first = context.setdefault("first_failure", time.monotonic())
        if not passing or attempts >= self.attempts or time.monotonic() - first > SECONDS:
            return None
        if name in RENEWABLE:
            self.renew()
        self.say(f"{context.get('uri', 'the store')} {_said(name)}: attempt {attempts + 1} of {self.attempts}")
        return pause(attempts, throttled=name in THROTTLED | NOT_THERE)

    def lost(self, uri: str, name: str) -> None:
        """Count an attempt at an object that was not made through botocore, say so, and wait as before its second.

        Args:
            uri: Of the object.
            name: What the store said, or went wrong, as botocore names it.
        """
        self._lost.uri = uri
        if self.attempts > 1:
            self.say(f"{uri} {_said(name)}: attempt 2 of {self.attempts}")
            time.sleep(pause(1, throttled=name in THROTTLED | NOT_THERE))

    def none_lost(self) -> None:
        """Forget it: this thread begins with another object."""
        self._lost.uri = None


def pause(attempts: int, *, throttled: bool = False) -> float:
    """Seconds to wait after so many attempts: anything up to a limit that doubles, so that clients part ways.

    "Full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.random() * min(LONGEST_PAUSE, (THROTTLED_PAUSE if throttled else PAUSE) * 2.0 ** (attempts - 1))


def clock_error(response: Mapping[str, Any]) -> float | None:
    """Seconds that this machine's clock is ahead of that of the store which sent an answer, where it says its own."""
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


def _refused(answer: Any, parsed: Mapping[str, Any]) -> tuple[str, bool] | None:
    """What the store said, if it was no, and whether that may pass."""
    status = int(answer.status_code)
    if status < 300:
        return None
    code = str(parsed.get("Error", {}).get("Code") or status)
    return code, code in PASSING or status in PASSING_STATUS


def _broke(error: Exception | None) -> tuple[str, bool]:
    """What went wrong on the way, and whether that may pass: a certificate that is not trusted will not."""
    passing = isinstance(error, NoConnectionError | HTTPClientError)
    untrusted = isinstance(error, SSLError) and "CERTIFICATE" in str(error).upper()
    return type(error).__name__, passing and not untrusted


def _said(name: str) -> str:
    words = {
        "ReadTimeoutError": "did not answer in time",
        "ConnectTimeoutError": "could not be reached in time",
        "EndpointConnectionError": "could not be reached",
        "ConnectionClosedError": "broke off the connection",
        "HTTPClientError": "broke off the connection",
    }
    return words.get(name, f"answered {name}")


def _remember_uri(params: Mapping[str, Any], context: dict[str, Any], **_: Any) -> None:
    """What a request is about, for the sentences about its attempts."""
    key = params.get("Key", params.get("Prefix", ""))
    context["uri"] = f"s3://{params.get('Bucket', '')}/{key}"
