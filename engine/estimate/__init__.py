"""Estimates of a run before it starts: memory of a step and a rough time. No torch."""
