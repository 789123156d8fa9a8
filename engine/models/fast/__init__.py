"""Faster layers that replace those of transformers."""
