"""A Kubernetes operator that turns ``TeacherFineTune`` objects into Jobs of the engine, and Jobs into honest status."""
