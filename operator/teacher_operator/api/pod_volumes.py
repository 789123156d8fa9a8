"""Models of the volumes of a pod and their mounts. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from engine.spec import SpecModel
from teacher_operator.api.kubernetes_strings import DataKey, DnsLabel, LabelKey, Name, Quantity

RESERVED_VOLUMES = r"^(scratch|shm|models|request|ca-bundle|claim-[0-9]+)$"
"""Pattern of the names of the operator's own volumes."""

RESERVED_PATHS = r"^/(scratch|models|claims|etc/teacher(-ca)?|dev|proc|sys)(/.*)?$|^/etc$"
"""Pattern of the paths of the operator's own mounts, and of the kernel's."""

VOLUME_MESSAGE = "this name is reserved for a volume of the operator: choose another name"
PATH_MESSAGE = "the pods use this path themselves: mount the volume at another path"
ONE_SOURCE = "a volume must have exactly one of configMap, secret, persistentVolumeClaim, emptyDir, projected and csi"

RelativePath = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=512, pattern=r"^(\.?[^/.\x00-\x1f][^/\x00-\x1f]*)(/\.?[^/.\x00-\x1f][^/\x00-\x1f]*)*$"
    ),
]
MountPath = Annotated[
    str, StringConstraints(min_length=1, max_length=512, pattern=r"^(/\.?[^/.:\x00-\x1f][^/:\x00-\x1f]*)+$")
]
"""An absolute path without `.`, `..`, `//` or `:`, so each path has exactly one notation."""

Mode = Annotated[int, Field(ge=0, le=0o777)]


class KeyToPath(SpecModel):
    """A key that becomes a file."""

    key: DataKey = Field(description="Key of the value.")
    path: RelativePath = Field(description="Path of the file in the volume.")
    mode: Mode | None = Field(default=None, description="Mode of the file, as a decimal number.")


class ConfigMapVolume(SpecModel):
    """The values of a ConfigMap as files."""

    name: Name = Field(description="Name of the ConfigMap.")
    items: list[KeyToPath] | None = Field(default=None, max_length=64, description="Only these keys; default: all.")
    default_mode: Mode | None = Field(default=None, description="Mode of the files; default: 420, which is 0644.")
    optional: bool | None = Field(default=None, description="True: the pod starts without it.")


class SecretVolume(SpecModel):
    """The values of a Secret as files."""

    secret_name: Name = Field(description="Name of the Secret.")
    items: list[KeyToPath] | None = Field(default=None, max_length=64, description="Only these keys; default: all.")
    default_mode: Mode | None = Field(default=None, description="Mode of the files; default: 420, which is 0644.")
    optional: bool | None = Field(default=None, description="True: the pod starts without it.")


class ClaimVolume(SpecModel):
    """A PersistentVolumeClaim."""

    claim_name: Name = Field(description="Name of the claim.")
    read_only: bool | None = Field(default=None, description="True: read-only.")


class Medium(StrEnum):
    """Storage of an emptyDir, if it is not the disk of the node."""

    MEMORY = "Memory"


class EmptyDirVolume(SpecModel):
    """An empty folder that is deleted with the pod."""

    medium: Medium | None = Field(default=None, description="Memory; default: the disk of the node.")
    size_limit: Quantity | None = Field(default=None, description="Size limit.")


class SecretName(SpecModel):
    """A Secret in the namespace of the object."""

    name: Name = Field(description="Name of the Secret.")


class CsiVolume(SpecModel):
    """A volume of a CSI driver that is deleted with the pod."""

    driver: Name = Field(description="Name of the driver.")
    read_only: bool | None = Field(default=None, description="True: read-only.")
    fs_type: Annotated[str, StringConstraints(max_length=64)] | None = Field(default=None, description="File system.")
    volume_attributes: dict[LabelKey, Annotated[str, StringConstraints(max_length=1024)]] | None = Field(
        default=None, max_length=32, description="Parameters of the driver."
    )
    node_publish_secret_ref: SecretName | None = Field(default=None, description="Secret for the driver.")


class Volume(SpecModel):
    """A volume, from one source."""

    name: DnsLabel = Field(description="Name of the volume, which its mounts refer to.")
    config_map: ConfigMapVolume | None = Field(default=None, description="A ConfigMap as files.")
    secret: SecretVolume | None = Field(default=None, description="A Secret as files.")
    persistent_volume_claim: ClaimVolume | None = Field(default=None, description="A PersistentVolumeClaim.")
    empty_dir: EmptyDirVolume | None = Field(default=None, description="An empty folder.")
    projected: dict[str, Any] | None = Field(
        default=None, description="Several sources in one folder, as in a pod: tokens, Secrets, ConfigMaps."
    )
    csi: CsiVolume | None = Field(default=None, description="A volume of a CSI driver.")


SOURCES: tuple[str, ...] = tuple(field.alias or name for name, field in Volume.model_fields.items() if name != "name")
"""Sources of a volume, by their names in manifests."""


class VolumeMount(SpecModel):
    """A mount of a volume in the container."""

    name: DnsLabel = Field(description="Name of the volume.")
    mount_path: MountPath = Field(description="Path of the mount.")
    sub_path: RelativePath | None = Field(default=None, description="Part of the volume; default: all of it.")
    read_only: bool | None = Field(default=None, description="True: read-only.")
