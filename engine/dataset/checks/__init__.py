"""Checks of a dataset: what is wrong, what is left out, and why."""
