"""Artifacts side by side without a recipe: the same inputs, checked outputs, latency, accuracy, one Run."""
