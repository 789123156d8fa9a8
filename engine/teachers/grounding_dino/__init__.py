"""Grounding DINO: boxes by class names."""
