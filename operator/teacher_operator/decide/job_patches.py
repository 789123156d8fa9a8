"""Changes of an existing Job: limits and suspension; and the digest of settings that need a new Job. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from engine.stages import Stage
from teacher_operator.api.names import KUEUE_QUEUE, PLATFORM_HASH, SUSPENDED
from teacher_operator.api.spec import APPLIED_TO_JOBS, PLATFORM, PLATFORM_STORAGE, TeacherFineTuneSpec

Body = Mapping[str, Any]
Manifest = dict[str, Any]


def job_settings(stage: Stage, spec: TeacherFineTuneSpec, *, seconds_left: int | None) -> Manifest:
    """Return the fields of a Job's spec that may change while it runs."""
    deadline = {"activeDeadlineSeconds": seconds_left} if seconds_left else {}
    return {"backoffLimit": retries(stage, spec) * nodes(stage, spec), **deadline}


def retries(stage: Stage, spec: TeacherFineTuneSpec) -> int:
    """Return the number of retries of a stage."""
    return spec.backoff_limit if stage.retries is None else stage.retries


def nodes(stage: Stage, spec: TeacherFineTuneSpec) -> int:
    """Return the number of pods that run together. If one of them fails, all of them fail."""
    return spec.nodes if stage.uses_gpu else 1


def job_patch(
    job: Body, stage: Stage, spec: TeacherFineTuneSpec, *, seconds_left: int | None = None, paused: bool = False
) -> Manifest | None:
    """Return the merge patch that brings the Job of a stage in line with the object; None if nothing differs.

    Args:
        job: The Job.
        stage: Its stage.
        spec: Spec of the object.
        seconds_left: Remaining seconds of the deadline; Kubernetes counts them from the last start of this Job.
        paused: The Job stays suspended until its pause ends.
    """
    patch: Manifest = suspend_patch(job, suspend=spec.suspend or paused) or {}
    wanted = job_settings(stage, spec, seconds_left=seconds_left)
    wanted.setdefault("activeDeadlineSeconds", None)
    if not is_queued(job):
        wanted["parallelism"] = nodes(stage, spec)
    now = {"parallelism": 1} | dict(job["spec"])
    changes = {name: value for name, value in wanted.items() if (now.get(name) or 0) != (value or 0)}
    if changes:
        patch["spec"] = patch.get("spec", {}) | changes
    return patch or None


def last_try(job: Body) -> list[tuple[str, Manifest]]:
    """Return the patch, with the name of the Job, that prevents retries; the pods and logs of the Job are kept."""
    return [(job["metadata"]["name"], {"spec": {"backoffLimit": 0}})] if job["spec"].get("backoffLimit") else []


def suspend_patch(job: Body, *, suspend: bool) -> Manifest | None:
    """Return the merge patch that suspends a Job, or resumes one that this operator has suspended; None if not needed.

    A Job in a Kueue queue is not changed, nor is one that somebody else has suspended: it may be in a queue of another
    kind, and the two controllers would suspend and resume the Job without end.
    """
    suspended, ours = bool(job["spec"].get("suspend")), SUSPENDED in (job["metadata"].get("annotations") or {})
    if is_queued(job) or suspended == suspend or (suspended and not ours):
        return None
    annotation = "true" if suspend else None
    return {"metadata": {"annotations": {SUSPENDED: annotation}}, "spec": {"suspend": suspend}}


def is_queued(job: Body) -> bool:
    """Return True if Kueue alone decides whether the Job runs."""
    return KUEUE_QUEUE in (job["metadata"].get("labels") or {})


def platform_hash(spec: TeacherFineTuneSpec, stage: Stage) -> str:
    """Return a digest of the settings that only a new Job can apply; a new version of the operator does not change it.

    Settings of other stages are left out. So are defaults: a setting that a later version of the CRD adds does not
    change the digest either.
    """
    given = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    kept = {name: given[name] for name in PLATFORM if name in given and name not in APPLIED_TO_JOBS}
    stages = [one for one in kept.pop("stages", ()) if one["name"] == stage.name]
    if stages:
        kept["stages"] = stages
    storage = {name: value for name, value in given.get("storage", {}).items() if name in PLATFORM_STORAGE}
    kept["storage"] = storage.pop("credentialsSecretRef", None)
    if "caBundleConfigMapRef" in storage:  # under the name that keeps the digest of existing Jobs
        kept["caBundle"] = storage.pop("caBundleConfigMapRef")
    kept |= storage
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_made_from(job: Body, spec: TeacherFineTuneSpec, stage: Stage) -> bool:
    """Return True if a Job has the current settings of its object, as far as only a new Job could apply them."""
    return (job["metadata"].get("annotations") or {}).get(PLATFORM_HASH) == platform_hash(spec, stage)
