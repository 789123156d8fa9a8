from __future__ import annotations

from typing import ClassVar

from toy import ToyTeacher

from engine.traits import TeacherTraits
from toy_teacher.traits import TOY


class RegisteredToy(ToyTeacher):
    """The teacher of other tests under a name of its own."""

    traits: ClassVar[TeacherTraits] = TOY
