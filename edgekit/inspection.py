"""What is inside a bundle or a model, and which devices there are: plain data, without running anything."""
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.bench import machine

_RUNS = {"host": "measured", "wasm": "measured", "arm": "emulated", "": "compiled only"}
_NEEDS = {"wasm": ("wasmtime", "pip install 'edgekit-deploy[wasm]'"), "arm": ("unicorn", "pip install 'edgekit-deploy[arm64]'")}
_COMPILERS = {"apache-tvm": "tvm", "ziglang": "ziglang", "onnx": "onnx", "onnx-ir": "onnx_ir", "onnxruntime": "onnxruntime"}


def inspect_bundle(files: Any) -> dict:
    """Of a bundle that was read by `runtimes.abi.bundle.read`: what its manifest says, and the size of every file."""
    m = files.manifest
    sizes = {name: files.file(name).stat().st_size for name in m["files"]}
    entries = [{**e, "macs": sum(step["macs"] for step in e["layers"]),
                "dense_macs": sum(step["dense_macs"] for step in e["layers"])} for e in m["entries"]]
    kept = ("format", "name", "arena_bytes", "state_bytes", "weights_bytes", "targets", "layers", "pruning", "made_by", "license")
    return {"kind": "bundle", **{k: m.get(k) for k in kept}, "entries": entries,
            "files": {n: {"bytes": size, "sha256": m["files"][n]} for n, size in sizes.items()},
            "bytes": sum(sizes.values())}


def inspect_model(model: Any, progress: Callable[[str], None] = lambda _: None, **options: Any) -> dict:
    """Of a model as `load` takes it (options are load's): its entries after loading, and its layers with the zeros in them."""
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported
    from edgekit.exporters.sparsify import prune_onnx
    progress("loading the model")
    loaded = load(model, keep=supported(), **options)
    models = [v.model for v in loaded.variants]
    layers = [{"name": x.name, "op": x.op, "shape": list(x.shape), "macs": x.macs, "sparsity": x.sparsity, "group": x.group}
              for x in prune_onnx(models, sparsity=0.0, group="auto").layers]
    weights = {w.SerializeToString(deterministic=True) for m in models for w in m.graph.initializer}
    return {"kind": "model", "name": loaded.name, "entries": [_entry(v) for v in loaded.variants],
            "states": [list(pair) for pair in loaded.states], "layers": layers,
            "macs": sum(x["macs"] for x in layers), "weights_bytes": sum(map(len, weights)), "source": loaded.source}


def _entry(variant: Any) -> dict:
    graph = variant.model.graph
    counts: dict[str, int] = {}
    for node in graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return {"name": variant.name, "inputs": [_port(v) for v in graph.input], "outputs": [_port(v) for v in graph.output],
            "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))}


def _port(value: Any) -> dict:
    import onnx
    tensor = value.type.tensor_type
    return {"name": value.name, "dtype": onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
            "shape": [d.dim_value for d in tensor.shape.dim]}


def devices() -> list[dict]:
    """Every target: how it runs here (measured, emulated or compiled only) and what is missing to compile or run it."""
    uncompiled = [_missing(package, "pip install 'edgekit-deploy[export]'")
                  for package, module in _COMPILERS.items() if not _installed(module)]
    found = []
    for name in targets.names():
        target = targets.load(name)
        lacks = _NEEDS.get(target.runner)
        unrun = [_missing(*lacks)] if lacks and not _installed(lacks[0]) else []
        if target.runner == "arm" and unrun and shutil.which("qemu-aarch64"):
            unrun = []
        found.append({"name": name, "title": target.title, "triple": target.triple or machine.describe()["os"],
                      "levels": [level.level for level in target.levels if level.level], "here": _RUNS[target.runner], "can_compile": not uncompiled,
                      "can_run": bool(target.runner) and not unrun,
                      "missing": {"compile": uncompiled, "run": unrun}})
    return found


def _missing(what: str, fix: str) -> dict:
    return {"what": what, "fix": fix}


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def is_bundle(path: str) -> bool:
    """Whether a path is meant as a bundle: a folder or zip, or named like one."""
    p = Path(path)
    if p.suffix in (".onnx", ".pt2"):
        return False
    return p.is_dir() or p.suffix in (".ekb", ".zip") or p.is_file()


def verification(found: Mapping[str, tuple], skipped: Mapping[str, str], tolerance: float, pruning: Any) -> dict:
    """The result of `Bundle.verify` as JSON. skipped: target to the reason why it was not run."""
    distance = (pruning or {}).get("max_rel_to_original")
    done = {t: {"ok": all(m.ok for m in matches), "max_abs_error": max(m.max_abs_error for m in matches),
                "max_rel_error": max(m.max_rel_error for m in matches),
                "outputs": [{"entry": m.entry, "output": m.output, "max_abs_error": m.max_abs_error,
                             "max_rel_error": m.max_rel_error, "ok": m.ok} for m in matches]}
            for t, matches in found.items()}
    return {"ok": bool(done) and all(t["ok"] for t in done.values()), "tolerance": tolerance, "targets": done,
            "not_run": dict(skipped), "distance_to_original": distance}
