"""Watches, queue, API server, metrics: everything with effects."""
