"""Synthetic speech, for a first run without data."""
