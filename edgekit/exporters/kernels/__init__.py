"""Kernels: from what to compute (`spec`) to loops that LLVM compiles well, one file per kind of operator."""


def build(kernel, machine):
    """The `tirx.PrimFunc` of a kernel for a `schedule.Machine`, and its number of units."""
    from edgekit.exporters.kernels import (
        attention,
        convolution,
        depthwise,
        elementwise,
        linear,
        matmul,
        norm,
        recurrent,
        reduction,
        spec,
        winograd,
    )
    builders: dict = {
        spec.Map: elementwise.build_map, spec.Gather: elementwise.build_gather,
        spec.Scatter: elementwise.build_scatter, spec.Reduce: reduction.build_reduce, spec.Arg: reduction.build_arg, spec.Norm: norm.build_norm,
        spec.Conv: convolution.build_conv, spec.Depthwise: depthwise.build_depthwise, spec.Linear: linear.build_linear, spec.MatMul: matmul.build_matmul,
        spec.WinogradInput: winograd.build_winograd_input, spec.WinogradOutput: winograd.build_winograd_output,
        spec.Attention: attention.build_attention, spec.Recurrent: recurrent.build_recurrent,
    }
    return builders[type(kernel)](kernel, machine)
