"""Labels the unlabelled images of a distillation with its teacher, in a process of its own."""

from __future__ import annotations

import hashlib
import json

from engine.config.distill import LabelsFile
from engine.dataset.file_listing import list_files
from engine.dataset.images.digest import fingerprint, mark_of
from engine.dataset.splits.split_files import is_image
from engine.errors import EXIT_ERRORS, InterruptedTrainingError, TeacherError
from engine.layout import ADAPTER, ADAPTER_CARD, ADAPTER_CONFIG, RESULT, model_folders
from engine.manifest import DistillManifest
from engine.processes import child_process
from engine.processes.supervisor import Child, supervise
from engine.runner.planning import prepare
from engine.runner.stage_process import STOPPED
from engine.spec import TeacherName
from engine.storage import ObjectInfo, Storage, join

UNSURE_SHARE = "1"
"""None: what the teacher does not keep is background, as in human labels."""

ADAPTER_FILES = (ADAPTER_CARD, ADAPTER_CONFIG, ADAPTER, RESULT)
"""Files of an adapter that decide its labels, in its folder."""


def label_unlabelled(manifest: DistillManifest, storage: Storage) -> DistillManifest:
    """Let the teacher label the unlabelled images, and return the manifest with the labels.

    The labels are kept next to the runs; the same request finds them, and resumes an interrupted labelling. If the
    teacher or an image has changed, all images are labelled again, into another file. The request is planned before the
    first labelling, which may take hours: wrong settings are found before it. Without a teacher, or with given labels,
    nothing is done.

    Raises:
        ConfigError: Settings are unknown, or contradict each other or the data.
        DataError: No student can be trained on this data.
        TeacherError: Labelling failed; the class is that of its exit code.
    """
    spec, unlabelled = manifest.spec, manifest.spec.unlabelled
    if spec.teacher is None or unlabelled is None or unlabelled.labels is not None:
        return manifest
    share = unlabelled.unsure_share or UNSURE_SHARE
    images = _images(str(unlabelled.images), storage)
    listed = fingerprint(f"{item.key} {mark_of(item.etag, item.size)}" for item in images)
    decisive = [spec.teacher, _teacher_digest(spec.teacher, storage), unlabelled.images, listed, share]
    key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
    labels = join(spec.output, manifest.name, "labels", f"{key}.json")
    given = unlabelled.model_copy(update={"labels": labels, "unsure_share": None})
    labelled = manifest.model_copy(update={"spec": spec.model_copy(update={"unlabelled": given})})
    if not storage.exists(labels):
        prepare(labelled, storage, labels=LabelsFile(images=len(images)))
    words = ["label", "--adapters", spec.teacher, "--images", str(unlabelled.images), "--output", labels]
    words += ["--unsure", share]
    if spec.storage.endpoint_url is not None:
        words += ["--endpoint-url", spec.storage.endpoint_url]
    child = Child(child_process.command(*words), child_process.environment())
    ended = supervise([child], on_line=lambda line: None)
    if ended.exit_code != 0:
        code = ended.exit_code
        error = InterruptedTrainingError if code in STOPPED else EXIT_ERRORS.get(code, TeacherError)
        raise error(f"labelling {unlabelled.images} with {spec.teacher} failed: see its messages above")
    return labelled


def _images(folder: str, storage: Storage) -> list[ObjectInfo]:
    """Return the images that are labelled."""
    return [item for item in list_files(folder, storage) if is_image(item.key)]


def _teacher_digest(teacher: str, storage: Storage) -> str:
    """Return a digest of the adapters in the folder of a run, or of the adapter whose own folder this is."""
    files = [join(folder, file) for folder in model_folders(teacher, TeacherName) for file in ADAPTER_FILES]
    return fingerprint(hashlib.sha256(storage.read_bytes(one)).hexdigest() for one in files if storage.exists(one))
