"""Base files, adapters, loading and cached features of all models."""
