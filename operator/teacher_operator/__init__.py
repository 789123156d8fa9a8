"""Kubernetes operator: runs Jobs of the engine for ``TeacherFineTune`` objects and reports their state."""
