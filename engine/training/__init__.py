"""Trains a teacher's adapter: :class:`TeacherTrainer`."""

from engine.training.trainer import TeacherTrainer

__all__ = ["TeacherTrainer"]
