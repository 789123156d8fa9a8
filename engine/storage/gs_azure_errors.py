"""Errors of obstore, as sentences a user can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions as cloud

from engine.errors import ConfigError, StorageError, TeacherError
from engine.storage.base import BrokenError, ExistsError, NotFoundError, UnsupportedError
from engine.storage.files import reason
from engine.storage.uris import GS

DEBUG = "\n\nDebug source:"
QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")
"""A URL's query may hold a signature."""

CODE = re.compile(r"<Code>(\w+)</Code>")
BROKEN, RETRIED = "HTTP error", re.compile(r"after \d+ retries")
"""What obstore says of a connection that broke, and of a request that it made several times."""

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
        done: What could not be done to it, such as ``read``.
    """
    failed, identity = f"{uri} cannot be {done}", IDENTITY[uri.startswith(GS)]
    try:
        yield
    except TeacherError:
        raise
    except (cloud.AlreadyExistsError, cloud.PreconditionError):
        raise ExistsError(f"{uri} is there already, or has just changed") from None
    except (FileNotFoundError, cloud.NotFoundError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a file of this machine
            raise StorageError(f"{failed}: {reason(error, uri)}") from None
        if _code(error) in MISSING_BUCKETS:
            kind = "bucket" if uri.startswith(GS) else "container, or storage account,"
            raise NotFoundError(f"{failed}: there is no such {kind}; check its name") from None
        raise NotFoundError(f"{uri} is not there: check bucket and key") from None
    except (cloud.PermissionDeniedError, cloud.UnauthenticatedError) as error:
        raise StorageError(f"{failed}: access is denied ({_code(error) or _said(error)}); {identity}") from None
    except cloud.NotSupportedError as error:
        raise UnsupportedError(f"{failed}: the store does not know how ({_said(error)})") from None
    except cloud.BaseError as error:
        if _code(error) in UNKNOWN:
            raise UnsupportedError(f"{failed}: the store does not know how ({_code(error)})") from None
        if _code(error) in LATER:
            raise StorageError(
                f"{failed}: the store answered {_code(error)} at every attempt; try again later"
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
    """The message in one line, without signatures and without obstore's own inner state."""
    return QUERY.sub(r"\1", " ".join(str(error).partition(DEBUG)[0].split()))[:1000]
