"""Credentials of the AWS chain that are looked up anew when a store refuses them.

botocore renews by itself what says when it ends: roles, web identities, metadata services, a ``credential_process``
that tells. Keys in a file are read once, and a run would end when they are rotated; here the file is read again. What
stands in the environment of a process cannot change.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, NoCredentialsError
from botocore.session import Session


class RenewableCredentials(Credentials):
    """What the AWS chain gives, now and after each :meth:`renew`. Safe to use from several threads."""

    def __init__(self, found: Credentials) -> None:
        frozen = found.get_frozen_credentials()
        super().__init__(frozen.access_key or "", frozen.secret_key or "", frozen.token, method=found.method)
        self._found = found
        self._lock = threading.Lock()

    def get_frozen_credentials(self) -> Any:
        """Key, secret and token of one moment."""
        return self._found.get_frozen_credentials()

    def renew(self) -> None:
        """Go through the chain again; where it gives nothing, what is known stays."""
        with self._lock, contextlib.suppress(BotoCoreError):
            self._found = Session().get_credentials() or self._found


class Chain:
    """botocore's ``credential_provider``."""

    def __init__(self) -> None:
        self._credentials: RenewableCredentials | None = None

    def load_credentials(self) -> RenewableCredentials | None:
        """What the chain gives, or None."""
        found = Session().get_credentials()
        if found is not None:
            self._credentials = RenewableCredentials(found)
        return self._credentials

    def now(self) -> Any:
        """Key, secret and token of this moment.

        Raises:
            NoCredentialsError: There are none.
        """
        if self._credentials is None:
            raise NoCredentialsError
        return self._credentials.get_frozen_credentials()

    def renew(self) -> None:
        """Look for others."""
        if self._credentials is not None:
            self._credentials.renew()
