"""Bundles: a measured model as one folder or archive that can be shipped, checked and run without optc."""

from optimizer.bundle.pack import pack
from optimizer.bundle.verify import VerifyResult, unpack, verify

__all__ = ["VerifyResult", "pack", "unpack", "verify"]
