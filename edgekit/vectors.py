"""The test vectors of a bundle: inputs, what the pruned model says in onnxruntime (`expected`), what the unpruned one said (`original`)."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from edgekit.errors import BundleError, InputError, ShapeError

if TYPE_CHECKING:
    import onnx

SEED = 20260101
CASES, FEW_CASES, LARGE_MACS = 4, 2, 100_000_000  # an emulator runs large nets for seconds a case


@dataclass(frozen=True)
class Vectors:
    """Cases of one entry, in the order in which they are run from a reset. Each array of `expected` and `original` has
    the case as axis 0; `original` lacks outputs that were not recorded."""

    cases: tuple[dict[str, np.ndarray], ...]
    expected: dict[str, np.ndarray]
    original: dict[str, np.ndarray]


def entry_of(manifest: dict, name: str | None) -> dict:
    """The entry of that name, the first for None; InputError names those there are."""
    entries = manifest["entries"]
    for entry in entries:
        if name is None or entry["name"] == name:
            return entry
    raise InputError(f"no entry {name!r} in this bundle", fix="use one of: " + ", ".join(e["name"] for e in entries))


def load(files: Any, entry: str) -> Vectors:
    """The vectors of an entry of a bundle that was read by `runtimes.abi.bundle.read`; BundleError where they are damaged."""
    manifest = files.manifest
    first = manifest["entries"][0]["name"] == entry
    name = "vectors.npz" if first else f"vectors.{entry}.npz"
    names = [port["name"] for port in entry_of(manifest, entry)["inputs"]]
    try:
        with np.load(files.file(name), allow_pickle=False) as z:
            stacked = {n: z["in_" + n] for n in names}
            expected, original = ({k.removeprefix(p): z[k] for k in z.files if k.startswith(p)}
                                  for p in ("expected_", "original_"))
    except (KeyError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise BundleError(f"its vectors cannot be read: {error}", where=name, fix="export the bundle again") from None
    counts = {len(a) for a in (*stacked.values(), *expected.values(), *original.values()) if a.ndim}
    if len(counts) != 1 or not expected or 0 in counts:
        raise BundleError("its vectors do not hold the same cases in every array", where=name,
                          fix="export the bundle again")
    cases = tuple({n: np.array(a[i]) for n, a in stacked.items()} for i in range(counts.pop()))
    return Vectors(cases, expected, original)


def ports(model: "onnx.ModelProto", states: Sequence[tuple[str, str]] = ()) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Inputs of a clean model but its states: dtype and shape."""
    from onnx import helper
    hidden = {s for s, _ in states}
    return {i.name: (np.dtype(helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)),
                     tuple(d.dim_value for d in i.type.tensor_type.shape.dim)) for i in model.graph.input if i.name not in hidden}


def cases(model: "onnx.ModelProto", calibration: Any, entry: str, macs: int) -> dict[str, np.ndarray] | int:
    """The user's inputs by name, checked, with the case as axis 0; or how many cases to draw."""
    count = FEW_CASES if macs > LARGE_MACS else CASES
    if calibration is None:
        return count
    given = arrays(calibration)
    out = {}
    for name, (dtype, shape) in ports(model).items():
        array = given.get(name, given.get("in_" + name))
        if array is None:
            continue  # a state, or what `make` will miss
        array = np.asarray(array)
        if array.shape[1:] != shape or not len(array):
            if entry != "run" and array.ndim == len(shape) + 1:
                return count  # another shape variant's data
            raise ShapeError(f"calibration data for {name!r} have shape {list(array.shape)}", where=entry,
                             fix=f"give cases along axis 0: (cases, {', '.join(map(str, shape))})")
        if array.dtype != dtype:
            if not np.can_cast(array.dtype, dtype, "same_kind"):
                raise InputError(f"calibration data for {name!r} are {array.dtype}, the model takes {dtype}", where=entry, fix="convert them")
            array = array.astype(dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"calibration data for {name!r} contain NaN or infinite numbers", where=entry, fix="remove those cases")
        out[name] = array[:count]
    if len({len(a) for a in out.values()}) > 1:
        raise InputError("calibration arrays hold different numbers of cases", where=entry, fix="give every input the same number")
    return out


def arrays(calibration: Any) -> Mapping[str, Any]:
    """{input: array} as given, or read from an .npz file; InputError where that cannot be read."""
    if isinstance(calibration, Mapping):
        return calibration
    path = Path(calibration)
    try:
        with np.load(path, allow_pickle=False) as z:
            return {k: z[k] for k in z.files}
    except FileNotFoundError:
        raise InputError("there is no such file", where=str(path), fix="check the path of the calibration data") from None
    except (ValueError, OSError, EOFError, KeyError, BadZipFile, AttributeError) as e:
        raise InputError(f"calibration data cannot be read: {e}", where=str(path), fix="write them with numpy.savez") from None


def make(original: "onnx.ModelProto", pruned: "onnx.ModelProto", states: Sequence[tuple[str, str]],
         chosen: dict[str, np.ndarray] | int) -> Vectors:
    """Both models over the cases in order, their states fed back from zero."""
    wanted = ports(original, states)
    known = {} if isinstance(chosen, int) else {k: v for k, v in chosen.items() if k in wanted}
    count = chosen if isinstance(chosen, int) else len(next(iter(known.values()))) if known else CASES
    missing = [n for n in wanted if n not in known]
    if known and missing:
        raise InputError(f"calibration data lack the input {missing[0]!r}", fix="give every input: " + ", ".join(wanted))
    for draw in (_normal, _unit):
        rng = np.random.default_rng(SEED)
        inputs = {n: known[n] if n in known else draw(rng, dtype, (count, *shape)) for n, (dtype, shape) in wanted.items()}
        rows = [{n: np.asarray(a[k]) for n, a in inputs.items()} for k in range(count)]
        expected = run(pruned, rows, states)
        if all(np.isfinite(a).all() for a in expected.values() if a.dtype.kind == "f"):
            break  # a logarithm of negative numbers proves little: such models get numbers between 0 and 1
    same = original.SerializeToString(deterministic=True) == pruned.SerializeToString(deterministic=True)
    return Vectors(tuple(rows), expected, expected if same else run(original, rows, states))


def _normal(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 2, shape).astype(dtype)


def _unit(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 2, shape).astype(dtype)


def run(model: "onnx.ModelProto", rows: Sequence[Mapping[str, np.ndarray]], states: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Outputs of all cases in onnxruntime, stacked, without the states."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        full = {i.name: i for i in model.graph.input}
        kept = {s: np.zeros([d.dim_value for d in full[s].type.tensor_type.shape.dim], ports(model)[s][0]) for s, _ in states if s in full}
        names = [o.name for o in model.graph.output]
        stacked: dict[str, list[np.ndarray]] = {n: [] for n in names if n not in {o for _, o in states}}
        for row in rows:
            outputs = dict(zip(names, session.run(names, {**row, **kept}), strict=True))
            kept = {s: outputs.get(o, kept[s]) for s, o in states if s in full}
            for n, values in stacked.items():
                values.append(outputs[n])
    except Exception as e:  # noqa: BLE001 - onnxruntime has no common error class
        why = str(e).strip().splitlines()[-1][:300] if str(e).strip() else type(e).__name__
        raise InputError(f"onnxruntime, the reference, cannot run the model: {why}", where=model.graph.name, fix="check the model with onnxruntime") from None
    return {n: np.stack(v) for n, v in stacked.items()}


def save(path: Path, vectors: Vectors) -> None:
    """vectors.npz: in_NAME, expected_NAME, original_NAME, the case as axis 0."""
    arrays = {f"in_{n}": np.stack([row[n] for row in vectors.cases]) for n in vectors.cases[0]}
    arrays |= {f"expected_{n}": a for n, a in vectors.expected.items()} | {f"original_{n}": a for n, a in vectors.original.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]
