"""Clients of Google Cloud Storage and Azure: identity, endpoint, timeouts, certificates.

Identities are found as by each cloud's own tools: environment variables, a credentials file, the workload identity of
a pod, the identity of the machine. obstore queries the metadata service last, and for minutes: this module first
tests the connection to it, so that a machine without an identity fails early with a clear message.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from obstore.store import AzureStore, GCSStore

from engine.errors import ConfigError, StorageError
from engine.storage.endpoints import check_endpoint
from engine.storage.options import StorageOptions
from engine.text.uris import GS

CONNECT_TIMEOUT, READ_TIMEOUT = timedelta(seconds=10), timedelta(seconds=60)
WHOLE = timedelta(hours=6)
"""Timeout of a whole request, for large objects on slow lines; READ_TIMEOUT detects idle connections earlier."""

RETRIES: Any = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}

METADATA = {GS: ("metadata.google.internal", 80), "az://": ("169.254.169.254", 80)}
METADATA_TRIES, METADATA_SECONDS = 5, 2.0
"""Attempts and seconds: a pod may start before its node's metadata server responds."""

GOOGLE_FILE = "~/.config/gcloud/application_default_credentials.json"
"""Written by `gcloud auth application-default login`."""

GOOGLE = {
    "GOOGLE_APPLICATION_CREDENTIALS": "application_credentials",
    "GOOGLE_BEARER_TOKEN": "bearer_token",
    "GOOGLE_SERVICE_ACCOUNT": "service_account",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "service_account_key",
}
AZURE = {
    "AZURE_CLIENT_SECRET": "client_secret",
    "AZURE_FEDERATED_TOKEN_FILE": "federated_token_file",
    "AZURE_STORAGE_ACCOUNT_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_key",
    "AZURE_STORAGE_TOKEN": "token",
    "AZURE_USE_AZURE_CLI": "use_azure_cli",
}
"""Environment variables that provide an identity, with obstore's option names: obstore itself reads none."""

AZURE_MORE = {
    "AZURE_AUTHORITY_HOST": "authority_host",
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_STORAGE_ENDPOINT": "endpoint",
    "AZURE_TENANT_ID": "tenant_id",
}
"""Additional environment variables for Azure."""

ADVICE = {
    GS: "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, run `gcloud auth application-default login`, or "
    "give the pod a service account with Workload Identity",
    "az://": "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID, AZURE_TENANT_ID and "
    "AZURE_CLIENT_SECRET; or give the pod a service account with Workload Identity",
}


def connect(scheme: str, bucket: str, options: StorageOptions, say: Callable[[str], None]) -> GCSStore | AzureStore:
    """Create the client of one bucket or container.

    Args:
        scheme: ``gs://`` or ``az://``.
        bucket: Its name.
        options: How the store is reached.
        say: Receives a message while an identity is awaited.

    Raises:
        ConfigError: No storage account is set, or connecting to an endpoint is not allowed.
        StorageError: No identity was found.
    """
    if credentials(scheme) is None:
        _wait_for_metadata(scheme, say)
    if scheme == GS:
        return _google(bucket, options)
    return _azure(bucket, options)


def credentials(scheme: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the source of the identity for a scheme; None if only a metadata service remains."""
    found = next((name for name in (GOOGLE if scheme == GS else AZURE) if environment.get(name)), None)
    if found is None and scheme == GS and Path(GOOGLE_FILE).expanduser().is_file():
        return GOOGLE_FILE
    return found


def _given(names: Mapping[str, str]) -> dict[str, Any]:
    return {key: os.environ[name] for name, key in names.items() if os.environ.get(name)}


def _google(bucket: str, options: StorageOptions) -> GCSStore:
    config = _given(GOOGLE)
    client = _client(options, _endpoint_of(config.get("service_account_key")))
    project = options.google_project or os.environ.get("GOOGLE_CLOUD_QUOTA_PROJECT")
    if project:
        client["default_headers"] = {"x-goog-user-project": project}
    return GCSStore(bucket, config=config, client_options=client, retry_config=RETRIES)  # type: ignore[arg-type]


def _endpoint_of(service_account_key: str | None) -> str | None:
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(service_account_key or "")["gcs_base_url"])
    return None


def azure_account(options: StorageOptions) -> str | None:
    """Return the storage account of containers, if set."""
    names = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    return options.azure_account or next((os.environ[name] for name in names if os.environ.get(name)), None)


def _azure(container: str, options: StorageOptions) -> AzureStore:
    account = azure_account(options)
    if account is None:
        raise ConfigError(
            f"az://{container} is a container of a storage account, but no account is set: set storage.azureAccount or "
            "AZURE_STORAGE_ACCOUNT_NAME"
        )
    config = _given(AZURE | AZURE_MORE) | {"account_name": account}
    client = _client(options, config.get("endpoint"))
    return AzureStore(container, config=config, client_options=client, retry_config=RETRIES)  # type: ignore[arg-type]


def _client(options: StorageOptions, endpoint: str | None) -> Any:
    client: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "read_timeout": READ_TIMEOUT, "timeout": WHOLE}
    if endpoint:
        check_endpoint(endpoint)
        client["allow_http"] = endpoint.startswith("http://")
    if options.ca_bundle is not None:
        client["root_certificate"] = Path(options.ca_bundle).read_bytes()
    return client


def _wait_for_metadata(scheme: str, say: Callable[[str], None]) -> None:
    """Wait until the metadata service accepts a connection.

    Raises:
        StorageError: It does not.
    """
    for attempt in range(METADATA_TRIES):
        with suppress(OSError), socket.create_connection(METADATA[scheme], timeout=METADATA_SECONDS):
            return
        if attempt + 1 < METADATA_TRIES:
            say(f"{scheme} has no credentials in the environment, and no metadata service responds yet: trying again")
            time.sleep(METADATA_SECONDS / 2)
    raise StorageError(f"no credentials found for {scheme}: {ADVICE[scheme]}")
