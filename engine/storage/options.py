"""Connection options of buckets, from a request, a configuration or the environment."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from engine.errors import ConfigError
from engine.spec import AddressingStyle

STYLE, PAYS = "TEACHER_S3_ADDRESSING_STYLE", "TEACHER_S3_REQUESTER_PAYS"
CA_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables with the path of trusted certificates, for clients of S3 and of the model hub."""

TRUTHS = {"1": True, "true": True, "yes": True, "": False, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class StorageOptions:
    """Connection options of buckets. Credentials come from the standard chain of each cloud."""

    endpoint_url: str | None = None
    """URL of an S3-compatible store; default: AWS_ENDPOINT_URL or that of the AWS configuration, else AWS."""
    region: str | None = None
    """Default: that of the AWS chain."""
    addressing_style: AddressingStyle | None = None
    """Default: TEACHER_S3_ADDRESSING_STYLE, else auto: that of the AWS configuration, else what the store accepts."""
    requester_pays: bool | None = None
    """The caller pays for requests; default: TEACHER_S3_REQUESTER_PAYS, else false."""
    ca_bundle: str | None = None
    """File of certificate authorities to trust instead of the usual ones; default: AWS_CA_BUNDLE."""
    azure_account: str | None = None
    """Storage account of ``az://`` containers; default: AZURE_STORAGE_ACCOUNT_NAME."""
    google_project: str | None = None
    """Project that pays for requests to ``gs://`` buckets; default: GOOGLE_CLOUD_QUOTA_PROJECT, else the bucket's."""

    def complete(self, environment: Mapping[str, str] = os.environ) -> Self:
        """Return a copy with unset options taken from the environment.

        Raises:
            ConfigError: A variable has an invalid value, or a file holds no certificates.
        """
        style, pays = self.addressing_style, self.requester_pays
        if style is None:
            said = environment.get(STYLE, "").lower() or AddressingStyle.AUTO
            if said not in list(AddressingStyle):
                raise ConfigError(f"{STYLE}={said}: it is one of {', '.join(AddressingStyle)}")
            style = AddressingStyle(said)
        if pays is None:
            said = environment.get(PAYS, "").lower()
            if said not in TRUTHS:
                raise ConfigError(f"{PAYS}={said}: it is true or false")
            pays = TRUTHS[said]
        if self.ca_bundle is not None:
            check_bundle(self.ca_bundle)
        return replace(self, addressing_style=style, requester_pays=pays)


def check_bundle(path: str) -> None:
    """Check that a file holds certificates.

    Raises:
        ConfigError: The file holds no certificates, or cannot be read.
    """
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(
            f"storage.caBundle {path} cannot be used ({error}): give the path of a file of certificates in PEM"
        ) from None


def trust(path: str) -> None:
    """Make all clients, the model hub's included, trust the authorities in a file, in this and in child processes.

    Raises:
        ConfigError: The file holds no certificates.
    """
    check_bundle(path)
    absolute = str(Path(path).resolve())
    os.environ.update(dict.fromkeys(CA_BUNDLES, absolute))
