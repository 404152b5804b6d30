"""Discrete units: k-means over speech features, unit sets as models, and how well units match phones."""
