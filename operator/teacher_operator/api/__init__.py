"""The objects: spec, status, CRD, names and settings."""
