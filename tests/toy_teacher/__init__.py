"""A teacher as a user would add it: one package, registered without a change of any product file."""
