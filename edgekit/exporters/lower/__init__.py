"""lower: clean ONNX graphs become one plan, and the arrays that ship with it."""
from edgekit.exporters.lower.lowering import lower, supported, unsupported

__all__ = ["lower", "supported", "unsupported"]
