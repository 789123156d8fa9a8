"""Load a trained student."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from engine.errors import BaseModelError
from engine.layout import ADAPTER_CARD, STUDENT_CARD, STUDENTS, model_folders
from engine.models.base_sources import WEIGHTS, refuse_pointers
from engine.models.registry import REGISTRY
from engine.models.student import Student
from engine.models.student_card import StudentCard
from engine.registry import TeacherName
from engine.storage import NotFoundError, Storage, is_remote, join, local_path
from engine.storage.base_model_identity import CONFIG

FILES = (STUDENT_CARD, CONFIG, WEIGHTS)

transformers_logging.disable_progress_bar()


def load_student(
    student: str | Path, *, storage: Storage | None = None, device: str | torch.device | None = None
) -> Student:
    """Load a trained student, ready to predict::

        from engine.students import load_student
        student = load_student("s3://acme-models/edge/forklifts/4f2a90c1d3e5")
        detections = student.predict(samples)

    Args:
        student: Folder or prefix in a bucket of a run with one student, or of the student in it.
        storage: How object storage is reached; default: by the environment.
        device: Default: the GPU if there is one.

    Raises:
        BaseModelError: The student is unavailable, incomplete or damaged.
    """
    storage = storage or Storage()
    with local_student(find_student(str(student), storage=storage), storage) as folder:
        card = StudentCard.read(folder)
        settings = card.settings.model_copy(update={"image_size": card.image_size})
        loaded: Student = REGISTRY[card.student].load(folder, classes=card.classes, settings=settings)
        loaded.restore(folder)
    loaded.frame = card.frame
    loaded.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return loaded


def find_student(uri: str, *, storage: Storage) -> str:
    """Return the location of the student at ``uri``: itself, or the only student of a run.

    Raises:
        BaseModelError: There is no student, or there are several.
    """
    if storage.exists(join(uri, STUDENT_CARD)):
        return uri
    inside = join(uri, STUDENTS)
    found = sorted(item.key.partition("/")[0] for item in storage.list(inside) if item.key.endswith(f"/{STUDENT_CARD}"))
    if len(found) != 1:
        raise BaseModelError(
            f"{uri} has no {STUDENT_CARD}: it is not the folder of a student{_instead(uri, storage)}"
            if not found
            else f"{uri} has several students: give one of {', '.join(join(inside, one) for one in found)}"
        )
    return join(inside, found[0])


def _instead(uri: str, storage: Storage) -> str:
    """Return what it is, as far as that is known, and the option that takes it."""
    if uri.endswith((".onnx", ".xml")):
        return "; --artifact takes exported files"
    is_adapter = any(storage.exists(join(one, ADAPTER_CARD)) for one in model_folders(uri, TeacherName))
    return ", but has an adapter of a teacher: --adapter takes it" if is_adapter else ""


@contextmanager
def local_student(uri: str, storage: Storage) -> Iterator[Path]:
    """Return the folder of a student on disk; one in a bucket is downloaded for the block.

    Raises:
        BaseModelError: Files are missing.
    """
    with tempfile.TemporaryDirectory(prefix="student-") as temporary:
        folder = Path(temporary) if is_remote(uri) else local_path(uri)
        try:
            for name in FILES:
                if is_remote(uri):
                    storage.download(join(uri, name), folder / name)
        except NotFoundError as error:
            raise BaseModelError(f"the student in {uri} is not whole: {error}") from error
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise BaseModelError(f"the student in {uri} is not whole: {', '.join(missing)} is missing")
        refuse_pointers(f"student {uri}: ", [folder / name for name in FILES])
        yield folder
