"""API of the operator: spec, status, CRD, names of children, and settings of the installation."""
