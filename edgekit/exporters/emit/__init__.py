"""Plan -> object code, packed weights, C header, libraries: the only folder that compiles and links."""
from edgekit.exporters.emit.compile import Compiled, Symbol, compile_kernels
from edgekit.exporters.emit.cpu import cpu_features
from edgekit.exporters.emit.link import emit_target
from edgekit.exporters.emit.weights import pack_weights

__all__ = ["Compiled", "Symbol", "compile_kernels", "cpu_features", "emit_target", "pack_weights"]
