"""Splits: train, validation and test, without leaks."""
