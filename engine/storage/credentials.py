"""Credentials of the AWS chain that are looked up again when a store refuses them.

botocore renews credentials with a known expiry: roles, web identities, metadata services, and a
``credential_process`` that reports it. botocore reads keys in a file only once, and a run would fail when they are
rotated; here the file is read again. Environment variables of a process do not change.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session


class RenewableCredentials(Credentials):
    """Credentials of the AWS chain; updated by :meth:`renew`. Safe to use from several threads."""

    def __init__(self, found: Credentials) -> None:
        frozen = found.get_frozen_credentials()
        super().__init__(frozen.access_key or "", frozen.secret_key or "", frozen.token, method=found.method)
        self._found = found
        self._lock = threading.Lock()

    def get_frozen_credentials(self) -> Any:
        """Return key, secret and token together."""
        return self._found.get_frozen_credentials()

    def renew(self) -> None:
        """Query the chain again; keep the present credentials if it returns none."""
        with self._lock, contextlib.suppress(BotoCoreError):
            self._found = Session().get_credentials() or self._found


class Chain:
    """A ``credential_provider`` for botocore."""

    def __init__(self) -> None:
        self._credentials: RenewableCredentials | None = None

    def load_credentials(self) -> RenewableCredentials | None:
        """Return the credentials of the chain, or None."""
        found = Session().get_credentials()
        if found is not None:
            self._credentials = RenewableCredentials(found)
        return self._credentials

    def renew(self) -> None:
        """Look up the credentials again."""
        if self._credentials is not None:
            self._credentials.renew()
