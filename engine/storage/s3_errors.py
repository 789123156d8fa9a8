"""Turns errors of boto3 into messages with a remedy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, StorageError
from engine.storage.base import BrokenError, ExistsError, NotFoundError, UnsupportedError
from engine.storage.files import reason

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

# Answers to HEAD have no body, so botocore gives their HTTP status as the code.
MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"})
CONFLICT = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
DENIED = "access is denied: these credentials lack permission; check the policies of user, role and bucket"
EXPIRED = "the credentials have expired: renew them"
REGION = "the bucket lies in another region: set storage.region or AWS_DEFAULT_REGION"
LATER = "the store was overloaded or failing at every attempt: try again later"
UNKNOWN = frozenset(
    {
        "BadRequest",
        "InvalidArgument",
        "InvalidRequest",
        "MethodNotAllowed",
        "NotImplemented",
        "NotSupported",
        "UnsupportedArgument",
        "UnsupportedOperation",
    }
)
"""Error codes of stores that do not support a header, such as that of a conditional write."""

ADVICE = {
    "400": "the store answered 'bad request': the credentials may have expired, or the bucket may be in another region",
    "403": f"{DENIED}. Without permission to list objects, a missing object gets the same answer",
    "AccessDenied": DENIED,
    "AllAccessDisabled": DENIED,
    "ExpiredToken": EXPIRED,
    "ExpiredTokenException": EXPIRED,
    "TokenRefreshRequired": EXPIRED,
    "InvalidToken": "the session token is wrong: check AWS_SESSION_TOKEN",
    "InvalidAccessKeyId": "the access key is unknown to the store: check AWS_ACCESS_KEY_ID and the endpoint",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "301": REGION,
    "PermanentRedirect": REGION,
    "AuthorizationHeaderMalformed": REGION,
    "IllegalLocationConstraintException": REGION,
    "InvalidObjectState": "the object is archived: restore it first",
}


@contextmanager
def failures(uri: str, done: str, where: str) -> Iterator[None]:
    """Turn errors of boto3 and, for local files, of the operating system into StorageErrors.

    Args:
        uri: The object or folder.
        done: Participle for the message, such as ``read``.
        where: The endpoint, or "AWS".
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as aws
    from urllib3.exceptions import HTTPError

    no_credentials = (
        aws.NoCredentialsError,
        aws.PartialCredentialsError,
        aws.CredentialRetrievalError,
        aws.ProfileNotFound,
        aws.ConfigParseError,
        aws.TokenRetrievalError,
        aws.SSOError,
    )
    failed = f"{uri} cannot be {done}"
    try:
        yield
    except aws.ClientError as error:
        raise _answered(error, uri, failed, where) from None
    except no_credentials as error:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
        raise StorageError(f"{failed}: no credentials ({error}); {advice}") from None
    except aws.SSLError as error:
        advice = "check the endpoint, and give storage.caBundle or AWS_CA_BUNDLE where its authority is your own"
        raise StorageError(f"{failed}: {where} has no trusted certificate ({error}); {advice}") from None
    except HTTPError as error:
        raise BrokenError(f"{failed}: {where} broke off the connection ({error})") from None
    except (aws.HTTPClientError, aws.ConnectionError) as error:
        advice = "check the endpoint's URL, and that this machine's network lets it through"
        raise StorageError(f"{failed}: {where} cannot be reached ({error}); {advice}") from None
    except (aws.BotoCoreError, Boto3Error) as error:
        if isinstance(error.__context__, aws.ClientError):  # boto3's transfers wrap the store's error
            raise _answered(error.__context__, uri, failed, where) from None
        invalid = isinstance(error, aws.ParamValidationError | aws.InvalidRegionError)
        raise (ConfigError if invalid else StorageError)(f"{failed}: {error}") from None
    except (
        RecursionError
    ):  # a redirect without a target: botocore asks the store for the region, and is redirected again
        raise StorageError(f"{failed}: {where} redirects without a target; check the endpoint") from None
    except OSError as error:
        raise StorageError(f"{failed}: {reason(error, uri)}") from None
    except ValueError as error:  # an endpoint or a key that botocore cannot encode
        hint = "; write it with http:// or https://" if "Invalid endpoint" in str(error) else ""
        raise ConfigError(f"{failed}: {error}{hint}") from None


def _answered(error: ClientError, uri: str, failed: str, where: str) -> StorageError:
    """Turn the error code of a store's answer into an error with a remedy."""
    answer = error.response.get("Error", {})
    code, message = str(answer.get("Code", "")), str(answer.get("Message", ""))
    if code == "NoSuchBucket":
        return NotFoundError(f"{failed}: {where} has no such bucket; check its name, and the endpoint")
    if code in MISSING:
        return NotFoundError(f"{uri} does not exist: check bucket and key")
    if code in CONFLICT:
        return ExistsError(f"{uri} exists already, or has just changed")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status in (405, 501) or (status == 400 and code in UNKNOWN):
        return UnsupportedError(f"{failed}: {where} does not support it ({code}: {message})")
    if code == "RequestTimeTooSkewed":
        ahead = clock_error(error.response)
        amount = (
            "" if ahead is None else f" by {abs(ahead):,.0f} s, {'ahead of' if ahead > 0 else 'behind'} the store's"
        )
        return StorageError(f"{failed}: this machine's clock is wrong{amount}: set it, and synchronize it by NTP")
    if status >= 500 or code in {"SlowDown", "429", "RequestTimeout"}:
        return StorageError(f"{failed}: {where} answered {code}; {LATER}")
    return StorageError(f"{failed}: {ADVICE.get(code) or f'{where} answered {code}: {message}'}")


def clock_error(response: Mapping[str, Any]) -> float | None:
    """Return the seconds that this machine's clock is ahead of the store's, if the answer has a date."""
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
