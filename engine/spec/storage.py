"""Section ``storage`` of the spec: access to object storage."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from engine.spec.base import SpecModel
from engine.text.pydantic_errors import form


class AddressingStyle(StrEnum):
    """Position of the bucket in URLs: ``https://store/bucket/key`` or ``https://bucket.store/key``."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


class StorageSpec(SpecModel):
    """Access to object storage. Credentials come from the standard chain of each cloud, never from here."""

    endpoint_url: (
        Annotated[
            str,
            StringConstraints(
                max_length=512, pattern=form(r"^https?://[^\s]+$", "a URL such as https://s3.example.com")
            ),
        ]
        | None
    ) = Field(default=None, description="Endpoint of an S3-compatible store; default: AWS.")
    region: (
        Annotated[
            str,
            StringConstraints(
                max_length=64,
                pattern=form(r"^[a-z0-9-]+$", "a region such as eu-west-1, of small letters, digits and -"),
            ),
        ]
        | None
    ) = Field(default=None, description="Region of the buckets; default: that of the AWS configuration.")
    addressing_style: AddressingStyle | None = Field(
        default=None,
        description="Position of the bucket in URLs: in the path, or (virtual) in the host name; default: auto, which "
        "the store accepts.",
    )
    requester_pays: bool | None = Field(
        default=None, description="Pay for the requests to buckets whose owner does not; default: false."
    )
    ca_bundle: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")] | None = (
        Field(
            default=None,
            description="Path of a file, on the machine or in the pod, with certificate authorities for the store and "
            "the "
            "model hub, in place of the usual ones.",
        )
    )
    azure_account: (
        Annotated[
            str, StringConstraints(max_length=24, pattern=form(r"^[a-z0-9]{3,24}$", "3 to 24 small letters and digits"))
        ]
        | None
    ) = Field(default=None, description="Storage account of az:// containers; default: AZURE_STORAGE_ACCOUNT_NAME.")
    google_project: (
        Annotated[
            str,
            StringConstraints(
                max_length=64,
                pattern=form(r"^[a-z0-9][a-z0-9.:-]*$", "the id of a project: small letters, digits and -"),
            ),
        ]
        | None
    ) = Field(
        default=None, description="Project that pays for requests to gs:// buckets; default: the owner of the bucket."
    )
