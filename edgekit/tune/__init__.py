"""Tile sizes for a processor, found by trying: by the clock, or by executed instructions where there is only the emulator."""
from edgekit.tune.search import tune

__all__ = ["tune"]
