"""optc: a model optimization compiler. PyTorch in; measured, verified, deployable bundles out."""

__version__ = "0.1.0"
