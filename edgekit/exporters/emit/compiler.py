"""The compiler as a process of its own: kernels come in on standard input, assembly goes out, one message a line.

A crash inside LLVM ends this process and not the caller's, which then knows from the messages which kernel it was.
"""
import json
import pickle
import sys
from pathlib import Path

SYMBOL = "ek_kernel"  # what every kernel is called until it gets its model's prefix


def assembly(kernel, target) -> tuple[str, int]:
    """LLVM's assembly of one kernel, named SYMBOL, and its number of units."""
    import tvm
    from tvm import tirx

    from edgekit.exporters.kernels import build
    from edgekit.exporters.kernels.schedule import machine_of
    spec = {"kind": "llvm", "mtriple": target.triple, "opt-level": 3}
    if target.cpu:
        spec["mcpu"] = target.cpu
    if target.features:
        spec["mattr"] = list(target.features)
    if target.llvm_options:
        spec["cl-opt"] = list(target.llvm_options)
    t = tvm.target.Target(spec)
    function, units = build(kernel, machine_of(target))
    mod = tvm.IRModule({SYMBOL: function.with_attr("global_symbol", SYMBOL)})
    p = tirx.transform
    with t:
        passes = [p.BindTarget(t), p.FlattenBuffer(), p.StmtSimplify(), p.RemoveNoOp(), p.LowerIntrin()]
        mod = tvm.ir.transform.Sequential(passes)(mod)
        built = tvm.get_global_func("target.build.llvm")(mod, t)
    return built.inspect_source("asm"), units


def main() -> None:
    """Reads {number: (kernel, target, path)} from standard input; writes each assembly to its path."""
    jobs = pickle.load(sys.stdin.buffer)  # from the parent process only
    out = sys.stdout
    sys.stdout = sys.stderr  # nothing else may write among the messages
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM would import it, a second for nothing

    def say(**message) -> None:
        print(json.dumps(message), file=out, flush=True)
    for number, (kernel, target, path) in jobs.items():
        say(start=number)
        try:
            text, units = assembly(kernel, target)
        except Exception as e:  # noqa: BLE001 - whatever the compiler raises becomes one message
            say(failed=number, why=f"{type(e).__name__}: {str(e).strip().splitlines()[-1] if str(e).strip() else ''}")
            continue
        part = Path(path).with_suffix(".part")
        part.write_text(f"# units {units}\n{text}", "utf-8")
        part.replace(path)
        say(done=number)


if __name__ == "__main__":
    main()
