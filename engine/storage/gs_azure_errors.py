"""Turns errors of obstore into messages with a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions as cloud

from engine.errors import ConfigError, StorageError, TeacherError
from engine.storage.base import BrokenError, ExistsError, NotFoundError, UnsupportedError
from engine.storage.files import reason
from engine.text.uris import GS

DEBUG = "\n\nDebug source:"
QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")
"""URL with a query, which may contain a signature."""

CODE = re.compile(r"<Code>(\w+)</Code>")
BROKEN, RETRIED = "HTTP error", re.compile(r"after \d+ retries")
"""In messages of obstore: a broken connection, and a request that was retried."""

MISSING_BUCKETS = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
UNKNOWN = frozenset({"NotImplemented", "UnsupportedHeader", "UnsupportedQueryParameter"})
LATER = frozenset({"ServerBusy", "SlowDown", "InternalError", "OperationTimedOut", "ServiceUnavailable"})

IDENTITY = {
    True: "check the identity (of GOOGLE_APPLICATION_CREDENTIALS, of GOOGLE_SERVICE_ACCOUNT_KEY, or "
    "the pod's by Workload Identity) and its roles on the bucket",
    False: "check the identity (account key, SAS token, service principal, or the pod's Workload Identity), its role "
    "on the container, such as Storage Blob Data Contributor, and storage.azureAccount",
}


@contextmanager
def failures(uri: str, done: str) -> Iterator[None]:
    """Turn errors of obstore and of the operating system into StorageErrors.

    Args:
        uri: The object or folder.
        done: Participle for the message, such as ``read``.
    """
    failed, identity = f"{uri} cannot be {done}", IDENTITY[uri.startswith(GS)]
    try:
        yield
    except TeacherError:
        raise
    except (cloud.AlreadyExistsError, cloud.PreconditionError):
        raise ExistsError(f"{uri} exists already, or has just changed") from None
    except (FileNotFoundError, cloud.NotFoundError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a file of this machine
            raise StorageError(f"{failed}: {reason(error, uri)}") from None
        if _code(error) in MISSING_BUCKETS:
            kind = "bucket" if uri.startswith(GS) else "container or storage account"
            raise NotFoundError(f"{failed}: the {kind} does not exist; check its name") from None
        raise NotFoundError(f"{uri} does not exist: check bucket and key") from None
    except (cloud.PermissionDeniedError, cloud.UnauthenticatedError) as error:
        raise StorageError(f"{failed}: access is denied ({_code(error) or _said(error)}); {identity}") from None
    except cloud.NotSupportedError as error:
        raise UnsupportedError(f"{failed}: the store does not support it ({_said(error)})") from None
    except cloud.BaseError as error:
        if _code(error) in UNKNOWN:
            raise UnsupportedError(f"{failed}: the store does not support it ({_code(error)})") from None
        if _code(error) in LATER:
            raise StorageError(
                f"{failed}: the store answered {_code(error)} to every attempt; try again later"
            ) from None
        said = _said(error)
        broke_off = BROKEN in said and not RETRIED.search(said)
        raise (BrokenError if broke_off else StorageError)(f"{failed}: {said}") from None
    except OSError as error:
        raise StorageError(f"{failed}: {reason(error, uri)}") from None
    except ValueError as error:
        raise ConfigError(f"{failed}: {_said(error)}") from None


def _code(error: Exception) -> str:
    found = CODE.search(str(error))
    return found[1] if found else ""


def _said(error: Exception) -> str:
    """Return the message in one line, without signatures and without obstore's internal state."""
    return QUERY.sub(r"\1", " ".join(str(error).partition(DEBUG)[0].split()))[:1000]
