"""The demo: two networks trained in a small simulator, pruned, compiled, and judged by what they do there."""
from edgekit.demo.run import main

__all__ = ["main"]
