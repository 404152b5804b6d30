"""Recognisers side by side: scores, comparisons, reports."""
