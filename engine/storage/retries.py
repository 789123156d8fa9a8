"""Retries of requests to S3: temporary failures are retried a few times with growing pauses, and reported.

botocore's own retry modes have three drawbacks: all threads share one quota, so that a short overload of the store ends
a run; credentials are renewed only if they have a known expiry; and retries are not reported.
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
"""Maximum attempts at one request; AWS_MAX_ATTEMPTS has precedence."""

SECONDS = 180.0
"""Seconds after the first failure of a request in which further attempts start."""

PAUSE, THROTTLED_PAUSE, LONGEST_PAUSE = 0.25, 1.0, 20.0
"""Maximum seconds: of the first pause, of the first pause if the store throttles or is unreachable, of any pause."""

NOT_THERE = frozenset({"EndpointConnectionError", "ConnectTimeoutError"})
"""Errors of an unreachable store: a gateway needs half a minute to restart."""

THROTTLED = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "429"}
)
RENEWABLE = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"}
)
"""Refusals that renewed credentials may resolve, if the present ones have worked before: expired or revoked."""

PASSING = (
    THROTTLED
    | RENEWABLE
    | {
        "BadDigest",  # corrupted on the way to the store
        "ConditionalRequestConflict",
        "IncompleteBody",
        "OperationAborted",
        "RequestTimeTooSkewed",  # the clock may be corrected
        "RequestTimeout",
        "XAmzContentChecksumMismatch",
    }
)
PASSING_STATUS = frozenset({429, 500, 502, 503, 504})


class Retries:
    """botocore's handler of ``needs-retry``: seconds to wait before the next attempt, or None for none.

    Args:
        attempts: Maximum attempts at one request.
        say: Receives a message for each further attempt.
        renew: Looks up the credentials again.
    """

    def __init__(self, attempts: int, say: Callable[[str], None], renew: Callable[[], None]) -> None:
        self.attempts, self.say, self.renew = attempts, say, renew
        self._known = False
        self._lost = threading.local()

    def register(self, events: Any) -> None:
        """Install the handlers in a client."""
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
        """Return the seconds before the next attempt at a request, or None for no further attempt."""
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
        """Count a failed attempt that was not made through botocore, report it, and pause before the second.

        Args:
            uri: URI of the object.
            name: Error code of the store, or botocore's name of the error.
        """
        self._lost.uri = uri
        if self.attempts > 1:
            self.say(f"{uri} {_said(name)}: attempt 2 of {self.attempts}")
            time.sleep(pause(1, throttled=name in THROTTLED | NOT_THERE))

    def none_lost(self) -> None:
        """Reset the count: this thread starts with another object."""
        self._lost.uri = None


def pause(attempts: int, *, throttled: bool = False) -> float:
    """Return the seconds to wait after a number of attempts: random, up to a limit that doubles each time.

    "Full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.random() * min(LONGEST_PAUSE, (THROTTLED_PAUSE if throttled else PAUSE) * 2.0 ** (attempts - 1))


def clock_error(response: Mapping[str, Any]) -> float | None:
    """Return the seconds that this machine's clock is ahead of the store's, if the answer has a date."""
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


def _refused(answer: Any, parsed: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return the error code of an answer and True if it is temporary; None if the request succeeded."""
    status = int(answer.status_code)
    if status < 300:
        return None
    code = str(parsed.get("Error", {}).get("Code") or status)
    return code, code in PASSING or status in PASSING_STATUS


def _broke(error: Exception | None) -> tuple[str, bool]:
    """Return the name of a connection error and True if it is temporary. An untrusted certificate is not."""
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
    """Store the URI of a request for the messages about its attempts."""
    key = params.get("Key", params.get("Prefix", ""))
    context["uri"] = f"s3://{params.get('Bucket', '')}/{key}"
