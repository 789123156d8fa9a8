"""Retries of S3 requests with what botocore's retry modes lack: renewed credentials, messages, no quota.

botocore classifies the failures. Its own modes share one quota between all threads, so that a short overload of the
store ends a run, and they renew credentials only if their expiry is known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, SSLError
from botocore.retries.standard import RetryContext, ThrottledRetryableChecker, TransientRetryableChecker

ATTEMPTS = 8
"""Maximum attempts at one request; AWS_MAX_ATTEMPTS has precedence."""

SECONDS = 180.0
"""Seconds after the first failure of a request in which further attempts start."""

PAUSE, THROTTLED_PAUSE, LONGEST_PAUSE = 0.25, 1.0, 20.0
"""Maximum seconds: of the first pause, of the first pause if the store throttles or is unreachable, of any pause."""

RENEWABLE = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"}
)
"""Error codes that renewed credentials may resolve, if the present ones have worked before: expired or revoked."""

TOO_MANY_REQUESTS = 429
TEMPORARY = frozenset(
    {
        "BadDigest",  # corrupted on the way to the store
        "ConditionalRequestConflict",
        "IncompleteBody",
        "OperationAborted",
        "RequestTimeTooSkewed",  # the clock may be corrected
        "XAmzContentChecksumMismatch",
    }
)
"""Error codes of S3 that are temporary, in addition to those that botocore knows for all services."""

MESSAGES = {
    "ReadTimeoutError": "did not answer in time",
    "ConnectTimeoutError": "could not be reached in time",
    "EndpointConnectionError": "could not be reached",
    "ConnectionClosedError": "broke off the connection",
    "HTTPClientError": "broke off the connection",
}


class Retries:
    """botocore's handler of ``needs-retry``: seconds to wait before the next attempt, or None for none.

    Args:
        attempts: Maximum attempts at one request.
        say: Receives a message for each further attempt.
        renew: Looks up the credentials again.
    """

    def __init__(self, attempts: int, say: Callable[[str], None], renew: Callable[[], None]) -> None:
        self.attempts, self.say, self.renew = attempts, say, renew
        self._succeeded = False

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
        http, parsed = response or (None, {})
        if http is not None and http.status_code < 300:
            self._succeeded = True
            return None
        name = (
            str(parsed.get("Error", {}).get("Code") or http.status_code)
            if http is not None
            else type(caught_exception).__name__
        )
        fault = RetryContext(attempts, None, parsed, http, caught_exception)
        too_many = http is not None and http.status_code == TOO_MANY_REQUESTS  # each store has an error code of its own
        throttled = too_many or ThrottledRetryableChecker().is_retryable(fault)
        temporary = throttled or name in TEMPORARY or TransientRetryableChecker().is_retryable(fault)
        untrusted = isinstance(caught_exception, SSLError) and "CERTIFICATE" in str(caught_exception).upper()
        renewable = name in RENEWABLE and self._succeeded
        context = request_dict["context"]
        late = time.monotonic() - context.setdefault("first_failure", time.monotonic()) > SECONDS
        if untrusted or late or attempts >= self.attempts or not (temporary or renewable):
            return None
        if renewable:
            self.renew()
        said = MESSAGES.get(name, f"answered {name}")
        self.say(f"{context.get('uri', 'the store')} {said}: attempt {attempts + 1} of {self.attempts}")
        unreachable = isinstance(caught_exception, EndpointConnectionError | ConnectTimeoutError)
        return pause(attempts, throttled=throttled or unreachable)  # a gateway needs half a minute to restart


def pause(attempts: int, *, throttled: bool = False) -> float:
    """Return the seconds to wait after a number of attempts: random, up to a limit that doubles each time.

    "Full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.random() * min(LONGEST_PAUSE, (THROTTLED_PAUSE if throttled else PAUSE) * 2.0 ** (attempts - 1))


def _remember_uri(params: Mapping[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Store the URI of a request for the messages about its attempts."""
    key = params.get("Key", params.get("Prefix", ""))
    context["uri"] = f"s3://{params.get('Bucket', '')}/{key}"
