"""lower: clean ONNX graphs become one plan, and the arrays that ship with it."""
from edgekit.exporters.lower.lowering import densely, lower, supported, survey

__all__ = ["densely", "lower", "supported", "survey"]
