"""From a trained model to a bundle: load, sparsify, lower, compile for every target, verify, write."""
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import bundle as bundles
from edgekit import targets as devices
from edgekit import vectors as test_vectors
from edgekit.errors import InputError, MissingToolError, VerificationError
from edgekit.runtimes.abi import bundle as format

TOOLS = ("apache-tvm", "ziglang", "onnx", "onnxruntime")
Progress = Callable[[str], None]


def export(model: Any, *, targets: Iterable[str] = ("host",), sparsity: float | Mapping[str, float] | None = None, group: int | str = 8,
           pattern: str = "groups", calibration: Any = None, tune: bool = False,
           input_shapes: Mapping[str, Any] | None = None, states: Mapping[str, str] | None = None, output: str | Path,
           name: str | None = None, example_inputs: Any = None, dtype: str = "float32", source: bool = True, trust_model: bool = False,
           overwrite: bool = False, progress: Progress = lambda _: None) -> bundles.Bundle:
    """Compiles a model for `targets`, checks it against onnxruntime, and writes the bundle `output`.

    model, example_inputs, input_shapes, states, trust_model: see `edgekit.exporters.load.load`.
    sparsity, group, pattern: see `edgekit.exporters.sparsify.prune_onnx`; without sparsity an N:M pattern drops what it says,
    and any other leaves the model as it is. Zeros that are in the model are used anyway.
    calibration: {input: array with the case as axis 0} or an .npz file of such arrays (also named in_INPUT). The first few are
    the inputs of the bundle's test vectors; without them those are drawn from a seed. With sparsity in groups, the net is
    pruned by them, a few hundred at best: layer-wise second-order reconstruction instead of magnitude, judged on a fifth that
    is held back (see `edgekit.exporters.sparsify.judged`; needs torch). tune: trains the pruned net, zeros held, to answer
    those inputs as the dense one does (see `edgekit.exporters.sparsify.tune`; minutes). source: whether the pruned ONNX goes into the bundle.

    The bundle has a `summary`, the dict that `edgekit export --json -` prints. Raises EdgekitError: nothing is written then,
    and what stood at `output` is untouched.
    """
    begin = time.monotonic()
    output = Path(output)
    chosen = [devices.load(t) for t in dict.fromkeys([targets] if isinstance(targets, str) else targets)]
    if not chosen:
        raise InputError("no target", fix="name one, for example host")
    chosen = [t.of(dtype) for t in chosen]
    format.check_free(output, overwrite)
    need_tools("export")

    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported
    from edgekit.exporters.sparsify import parse
    if sparsity is None:
        sparsity = parse(pattern).sparsity or 0.0
    progress("loading")
    loaded = load(model, example_inputs=example_inputs, input_shapes=input_shapes, states=states, trust_model=trust_model, name=name,
                  keep=supported())
    progress("pruning" if sparsity else "looking at the layers")
    calibration = None if calibration is None else test_vectors.arrays(calibration)
    pruned, how = _prune(loaded, sparsity, group, pattern, calibration, tune, progress)
    made = assemble(loaded, pruned, chosen, output, calibration=calibration, pruning={"pattern": pattern, "sparsity": sparsity, **how}, dtype=dtype,
                    source=source, overwrite=overwrite, progress=progress)
    made.summary["seconds"] = round(time.monotonic() - begin, 3)
    return made


def assemble(loaded: Any, pruned: Any, chosen: Sequence[devices.Target], output: Path, *, calibration: Any, pruning: dict,
             dtype: str = "float32", source: bool = True, overwrite: bool = False, shown: Mapping[str, Any] | None = None,
             progress: Progress = lambda _: None) -> bundles.Bundle:
    """The bundle of a loaded model that was pruned: compiled, verified, written whole or not at all.

    loaded, pruned: `exporters.load.Loaded`, `exporters.sparsify.Pruned`. pruning: how it was done, for the manifest. shown: more
    for the report to show (see `edgekit.report`). The rest as in `export`.
    """
    from edgekit.exporters.emit import cpu_features, pack_weights
    from edgekit.exporters.kernels.schedule import schedules_of
    from edgekit.exporters.lower import lower
    from edgekit.exporters.sparsify import saliency_kept
    begin = time.monotonic()
    schedules = {t.name: schedules_of(t) for t in chosen}
    entries = [v.name for v in loaded.variants]
    progress("lowering")
    plan, arrays = lower(loaded.name, list(zip(entries, pruned.models, strict=True)), loaded.states, dtype)
    progress("running the test vectors in onnxruntime")
    cases = {e: test_vectors.cases(v.model, calibration, e, sum(s.macs for s in plan_entry.steps))
             for e, v, plan_entry in zip(entries, loaded.variants, plan.entries, strict=True)}
    if calibration is not None and not any(isinstance(c, dict) and c for c in cases.values()):
        raise InputError("no input of the model has calibration data", fix="name the arrays after the inputs: "
                         + ", ".join(p.name for p in plan.entries[0].inputs))
    vectors = {e: test_vectors.make(v.model, pruned_model, loaded.states, cases[e])
               for e, v, pruned_model in zip(entries, loaded.variants, pruned.models, strict=True)}

    with tempfile.TemporaryDirectory(prefix="edgekit-") as temporary:
        staging = Path(temporary)
        with ThreadPoolExecutor(max_workers=2) as pool:  # each compiles in a process of its own
            for done in [pool.submit(_build, plan, t, staging, progress) for t in chosen]:
                done.result()
        progress("packing the weights")
        (staging / "weights.bin").write_bytes(pack_weights(plan, arrays))
        for k, (entry, pruned_model) in enumerate(zip(entries, pruned.models, strict=True)):
            end = "" if k == 0 else f".{entry}"
            test_vectors.save(staging / f"vectors{end}.npz", vectors[entry])
            if source:
                (staging / f"model{end}.onnx").write_bytes(pruned_model.SerializeToString())
        manifest = _manifest(plan, pruned.layers, chosen, staging, loaded, vectors, pruning)
        for t in chosen:
            described = [{"name": x.level, "cpu_features": list(cpu_features(x))} for x in t.levels]
            manifest["targets"][t.name] |= {"cpu_features": described[-1]["cpu_features"], "levels": described if t.better else [],
                                            "schedules": schedules[t.name]}
        kept = saliency_kept([v.model for v in loaded.variants], pruned)
        manifest["pruning"]["saliency"] = {name: {k: round(x, 4) for k, x in asdict(s).items()} for name, s in kept.items()}
        manifest |= {"dtype": dtype, "tolerance": bundles.TOLERANCES[dtype]}
        staged = format.BundleFiles(staging, {**manifest, "files": _files(staging)})
        for target, matches in _verify(bundles.Bundle(staged), chosen, progress).items():
            manifest["targets"][target]["verified"] = {
                "max_abs_error": max(m.max_abs_error for m in matches), "max_rel_error": max(m.max_rel_error for m in matches)}
        from edgekit import report
        (staging / "report.html").write_text(report.render({"manifest": manifest, **(shown or {})}), "utf-8")
        progress("writing the bundle")
        made = bundles.Bundle(format.write(output, manifest, _files(staging), overwrite))
    made.summary = _summary(manifest, output, time.monotonic() - begin)
    return made


def need_tools(extra: str) -> None:
    """Raises MissingToolError, with the extra that brings them, where a tool of `export` is not installed."""
    from importlib import metadata
    for tool in TOOLS:
        try:
            metadata.version(tool)
        except metadata.PackageNotFoundError:
            raise MissingToolError(f"exporting needs {tool}", fix=f"pip install 'edgekit-deploy[{extra}]'") from None


def _prune(loaded, sparsity: Any, group: int | str, pattern: str, calibration: Mapping[str, Any] | None, tune: bool, progress: Progress
           ) -> tuple[Any, dict]:
    """The pruned models, and how that was done, for the manifest: the method, and what became of the cases held back."""
    from edgekit.exporters.sparsify import prune_onnx
    models = [v.model for v in loaded.variants]
    if tune and (calibration is None or not sparsity):
        raise InputError("tuning teaches a pruned net what the dense one says of calibration inputs: it needs both", where="tune",
                         fix="give calibration inputs and a sparsity, or leave tuning out")
    if not sparsity or not tune and (calibration is None or pattern != "groups"):
        return prune_onnx(models, sparsity=sparsity, group=group, pattern=pattern), {"method": "magnitude" if sparsity else "none", "held_back": None}
    from edgekit.exporters import sparsify
    data = sparsify.read_calibration(models, calibration or {}, loaded.states)
    if pattern != "groups":
        pruned = prune_onnx(models, sparsity=sparsity, group=group, pattern=pattern)
        pruned = sparsify.tune(models, pruned, data, states=loaded.states, progress=progress)
        method, verdict = "magnitude, tuned", sparsify.judge(models, pruned.models, data)
    else:
        pruned, verdict = sparsify.judged(models, data, sparsity=sparsity, group=group, tune=tune, states=loaded.states, progress=progress)
        method = "reconstruction, tuned" if tune else "reconstruction"
    outputs = [{"entry": loaded.variants[o.model].name, "output": o.name, "error": o.error, "trivial": dict(o.trivial), "agreement": o.agreement,
                "majority": o.majority} for o in verdict.outputs]
    return pruned, {"method": method, "held_back": {"fitted": data.fitted, "cases": verdict.cases, "outputs": outputs, "note": data.note}}


def _build(plan, target: devices.Target, staging: Path, progress: Progress) -> None:
    """All of one target's code into the staging folder."""
    from edgekit.exporters.emit import compile_kernels, emit_target
    from edgekit.runtimes.abi.names import model_name
    kernels = [s.kernel for e in plan.entries for s in e.steps]
    names = {s.kernel: s.name for e in plan.entries for s in e.steps}
    progress(f"{target.name}: compiling {len(set(kernels))} kernels")
    compiled = []
    with tempfile.TemporaryDirectory(prefix="edgekit-") as work:
        for level in target.levels:
            folder = Path(work, level.level)
            folder.mkdir(exist_ok=True)
            prefix = model_name(plan.name) + (f"_{level.level}" if target.better else "")
            compiled.append(compile_kernels(kernels, level, prefix, folder, names, progress))
        emit_target(plan, compiled, target, staging)
    progress(f"{target.name}: linked")


def _files(staging: Path) -> dict[str, Path | bytes]:
    return {p.relative_to(staging).as_posix(): p for p in sorted(staging.rglob("*")) if p.is_file()}


def _port(p) -> dict:
    return {"name": p.name, "dtype": p.dtype, "shape": list(p.shape)}


def _manifest(plan, layers: Sequence, chosen, staging: Path, loaded, vectors, pruning: dict) -> dict:
    from importlib import metadata

    from edgekit import __version__
    from edgekit.exporters.lower import densely
    from edgekit.exporters.lower.traffic import traffic
    dense = densely(plan.entries[0].steps)
    entries = []
    for e, variant in zip(plan.entries, loaded.variants, strict=True):
        read, left = ({v.name for v in side} for side in (variant.model.graph.input, variant.model.graph.output))
        entries.append({
            "name": e.name, "inputs": [_port(p) for p in e.inputs], "outputs": [_port(p) for p in e.outputs],
            "states": [{**_port(s), "input": s.name in read, "output": target if target in left else None}
                       for s, target in ((s, dict(loaded.states)[s.name]) for s in plan.states) if s.name in read or target in left],
            "layers": [{"name": s.name, "op": s.op, "macs": s.macs, "dense_macs": s.dense_macs, "sparsity": round(s.sparsity, 4),
                        "group": s.group, "kernel": type(s.kernel).__name__, "bytes": moved.activations, "weight_bytes": moved.weights,
                        "rounds": moved.rounds} for s, moved in zip(e.steps, traffic(plan, e), strict=True)]})
    found = {}
    for t in chosen:
        files = [p for p in sorted((staging / t.name).rglob("*")) if p.is_file()]
        code = [p for p in files if p.suffix in (".so", ".dylib", ".dll", ".wasm") and "ek_threads" not in p.name] or files[:1]
        found[t.name] = {"files": [p.relative_to(staging).as_posix() for p in files], "code_bytes": max(p.stat().st_size for p in code),
                         "verified": None, "title": t.title}
    original = {}
    for entry, v in vectors.items():
        for output, expected in v.expected.items():
            match = bundles.compare(entry, output, expected, v.original[output])
            original[f"{entry}.{output}"] = match.max_rel_error if np.isfinite(match.max_rel_error) else None
    made_by = {"edgekit": __version__, **{t: metadata.version(t) for t in TOOLS}}
    return {
        "name": plan.name, "entries": entries, "targets": found, "arena_bytes": plan.arena_bytes, "state_bytes": plan.state_bytes,
        "weights_bytes": (staging / "weights.bin").stat().st_size,
        "layers": [{"name": x.name, "op": x.op, "shape": list(x.shape), "macs": x.macs, "sparsity": round(x.sparsity, 4), "group": x.group,
                    "reason": x.reason or (dense.get(x.name, "") if x.group else "")} for x in layers],
        "pruning": {**pruning, "max_rel_to_original": original}, "source": loaded.source, "made_by": made_by,
        "license": loaded.source.get("license", "")}


def _verify(bundle: bundles.Bundle, chosen, progress: Progress) -> dict[str, tuple[bundles.Match, ...]]:
    """Every target that can run here against the vectors; VerificationError with the numbers where one is off."""
    verified: dict[str, tuple[bundles.Match, ...]] = {}
    for t in chosen:
        if not t.runner:
            progress(f"{t.name}: not run here")
            continue
        progress(f"{t.name}: verifying against onnxruntime")
        try:
            verified |= bundle.verify(t.name)
        except MissingToolError as e:
            progress(f"{t.name}: not run here: {e.what} ({e.fix})")
            continue
        for m in verified[t.name]:
            if not m.ok:
                raise VerificationError(
                    f"output {m.output!r} differs from onnxruntime by {m.max_abs_error:.3g} ({m.max_rel_error:.3g} of its largest value; "
                    f"{bundle.tolerance:g} is allowed)", where=f"{t.name}, entry {m.entry}",
                    fix="nothing was written; " + ("please report this with the model" if bundle.manifest["dtype"] == "float32" else "export it in float32"))
    return verified


def _summary(m: dict, output: Path, seconds: float) -> dict:
    """What is said of a bundle with the manifest `m`."""
    verified = {name: t["verified"] for name, t in m["targets"].items() if t["verified"]}
    return {
        "bundle": str(output), "name": m["name"], "targets": {
            n: {"files": t["files"], "code_bytes": t["code_bytes"], "run_here": n in verified, **verified.get(n, {})} for n, t in m["targets"].items()},
        "layers": m["layers"], "max_abs_error": {n: e["max_abs_error"] for n, e in verified.items()},
        "max_rel_error": {n: e["max_rel_error"] for n, e in verified.items()},
        "distance_to_original": m["pruning"]["max_rel_to_original"], "saliency": m["pruning"]["saliency"], "arena_bytes": m["arena_bytes"], "weights_bytes": m["weights_bytes"],
        "notes": _notes(m), "seconds": round(seconds, 3)}


def _notes(manifest: dict) -> list[str]:
    """What the user would want to be told."""
    notes = []
    if manifest["pruning"]["sparsity"] and not any(x["sparsity"] for x in manifest["layers"]):
        notes.append("no layer was pruned: the table says why each stays dense")
    pattern, pruned = manifest["pruning"]["pattern"], [x for x in manifest["layers"] if x["sparsity"]]
    if pattern not in ("groups", "channels") and pruned:
        gain = sum(1 for x in pruned if x["group"] and not x["reason"])
        notes.append(f"of {len(pruned)} layers with zeros {gain} are computed faster for them: the kernels are made for groups, and use {pattern} zeros only where lists of them pay")
    held = manifest["pruning"]["held_back"]
    if held:
        notes.append(f"pruned by {held['fitted']} calibration inputs; on {held['cases']} held back " + "; ".join(map(_kept, held["outputs"])))
        notes += [held["note"]] if held["note"] else []
    elif manifest["pruning"]["sparsity"] and any(v is None or v > 0.1 for v in manifest["pruning"]["max_rel_to_original"].values()):
        notes.append("pruning without data changed the outputs by more than a tenth: give calibration inputs, fine-tune the pruned model (`edgekit.prune`), or ask for less sparsity")
    return notes


def _kept(o: dict) -> str:
    """What an output has kept, on cases held back."""
    trivial = ", ".join(f"{e:.2g} for {'their mean' if n == 'mean' else 'the ' + n + ' again'}" for n, e in o["trivial"].items())
    return (f"{o['output']!r} is {o['error']:.2g} of its deviation off the dense model's ({trivial})"
            + (f", the largest in the same place in {o['agreement']:.0%}" if o["agreement"] is not None else ""))
