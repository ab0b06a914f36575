"""Training: one loop (`loop.train`), model-agnostic, for every step that changes weights by gradients."""
