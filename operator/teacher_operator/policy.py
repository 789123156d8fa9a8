"""What an installation allows in the objects of its users. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain

from teacher_operator.api import TeacherFineTuneSpec
from teacher_operator.claims import AWS_KEYS, AZURE_KEYS, GOOGLE_KEYS
from teacher_operator.pod_settings import ENV_MESSAGE, RESERVED_ENV, PodSpec, StageName
from teacher_operator.settings import Settings
from teacher_operator.stages import stage_settings
from teacher_operator.status import FailureStatus, clip

NOT_ALLOWED = "NotAllowed"
"""The installation allows less than the object says: nothing is started until one of them changes."""

KEYS_IN_SECRET = frozenset({*AWS_KEYS, "AWS_SESSION_TOKEN", *GOOGLE_KEYS, *AZURE_KEYS})


def refusal(spec: TeacherFineTuneSpec, settings: Settings) -> FailureStatus | None:
    """Why nothing is started of a spec that the API server has taken; None if all of it is allowed.

    Both the object and the installation may change, so it is no end of the run: what runs goes on.
    """
    return next(chain(_not_allowed(spec, settings), _contradictions(spec, settings)), None)


def _not_allowed(spec: TeacherFineTuneSpec, settings: Settings) -> Iterator[FailureStatus]:
    allowed = settings.allowed
    for where, pods in _parts(spec):
        if pods.image is not None and not matches(pods.image, allowed.images):
            yield _refused(f"{where}.image: {pods.image}", "images", allowed.images)
        for volume in pods.volumes or ():
            (kind,) = volume.model_dump(by_alias=True, exclude_none=True, exclude={"name"}) or ("none",)
            if not matches(kind, allowed.volumes):
                yield _refused(f"{where}.volumes: {volume.name} is a {kind}", "volumes", allowed.volumes)
        for variable in pods.env or ():
            if not matches(variable.name, allowed.env):
                yield _refused(f"{where}.env: {variable.name}", "env", allowed.env)
        for name in _secrets(pods):
            if not matches(name, allowed.secrets):
                yield _refused(f"{where}: Secret {name}", "secrets", allowed.secrets)


def _contradictions(spec: TeacherFineTuneSpec, settings: Settings) -> Iterator[FailureStatus]:
    """Faults that no rule of the CRD sees, since they lie in several parts of the spec."""
    for where, pods in _parts(spec):
        for variable in pods.env or ():
            if re.search(RESERVED_ENV, variable.name):
                yield _unfit(f"{where}.env: {variable.name}: {ENV_MESSAGE}")
            if spec.storage.credentials_secret_ref is not None and variable.name in KEYS_IN_SECRET:
                yield _unfit(
                    f"{where}.env: {variable.name} comes from storage.credentialsSecretRef: leave one of them out"
                )
    mounted = any(part.volume_mounts for _, part in _parts(spec))
    for stage in StageName if mounted else ():
        own = stage_settings(spec, stage, settings)
        volumes = {volume.name for volume in own.volumes or ()}
        for mount in own.volume_mounts or ():
            if mount.name not in volumes:
                yield _unfit(f"volumeMounts of {stage.value}: there is no volume {mount.name} for {mount.mount_path}")


def _parts(spec: TeacherFineTuneSpec) -> Iterator[tuple[str, PodSpec]]:
    """Every part of a spec that has settings of pods, with its path."""
    yield "spec.pod", spec.pod
    for stage in spec.stages:
        yield f"spec.stages[{stage.name.value}]", stage


def _secrets(pods: PodSpec) -> Iterator[str]:
    """Names of the Secrets that the pods would read."""
    for variable in pods.env or ():
        if variable.value_from is not None and variable.value_from.secret_key_ref is not None:
            yield variable.value_from.secret_key_ref.name
    for volume in pods.volumes or ():
        if volume.secret is not None:
            yield volume.secret.secret_name
        if volume.csi is not None and volume.csi.node_publish_secret_ref is not None:
            yield volume.csi.node_publish_secret_ref.name
        sources = (volume.projected or {}).get("sources")
        for source in sources if isinstance(sources, list) else ():
            secret = source.get("secret") if isinstance(source, dict) else None
            if isinstance(secret, dict):
                yield str(secret.get("name"))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """A name is one of those that patterns with `*` and `?` allow."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _refused(what: str, kind: str, patterns: Sequence[str]) -> FailureStatus:
    allowed = f"it allows {', '.join(patterns)}" if patterns else "it allows none"
    return FailureStatus(
        reason=NOT_ALLOWED, message=clip(f"{what} is not allowed by this installation: {allowed} ({kind})")
    )


def _unfit(message: str) -> FailureStatus:
    return FailureStatus(reason="ConfigurationInvalid", message=clip(message))
