"""Child processes, signals and threads."""
