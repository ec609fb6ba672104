"""The latency harness: open-loop response times, what they prove, and the budget they are judged by."""
from edgekit.bench.measure import bench

__all__ = ["bench"]
