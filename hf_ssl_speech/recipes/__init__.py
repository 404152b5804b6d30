"""Whole runs from their parts: what the scripts in examples/ call."""
