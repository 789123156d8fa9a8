"""Decision code: computes the status and actions of an object from its observed state. Pure."""
