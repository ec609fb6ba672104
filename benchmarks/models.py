"""Files of the race: every network as ONNX, as edgekit's bundles and in each peer's own form, made once in a work folder.

A bundle's name holds a digest of edgekit's sources, a peer's file the peer's version, a network's folder a digest of
what it is built from: nothing stale is measured.
What a peer's converter refuses, and why, is kept beside the others.
"""
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx

import edgekit
from benchmarks import masks
from edgekit.errors import EdgekitError

TOLERANCE = 1e-3  # max|a-b| / max|b| of a peer against onnxruntime; edgekit keeps its own, tighter one
TIMEOUT = 600     # seconds of one conversion


@dataclass(frozen=True)
class Level:
    """How much of the eligible weights is zero, in edgekit's groups or in no pattern at all."""

    sparsity: float = 0.0
    unstructured: bool = False

    def __str__(self) -> str:
        return "dense" if not self.sparsity else f"{self.sparsity:.0%}{' unstructured' if self.unstructured else ''}"

    @property
    def slug(self) -> str:
        return f"{self.sparsity * 100:.0f}{'u' if self.unstructured else ''}"


DENSE = Level()
LINEAR = {"Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Clip", "Tanh", "Relu", "Reshape", "Flatten"}  # of a small policy


class Refused(Exception):
    """A peer has no form of a network; the text says why."""


class Workshop:
    """Makes and finds the files of one network. folder: everything of it. small: arguments of its function."""

    def __init__(self, folder: Path, name: str, trained: Path | None = None, **small):
        origin = hashlib.sha256((trained or Path(__file__).with_name("networks.py")).read_bytes()).hexdigest()[:8]
        self.name, self.folder, self.trained, self.small = name, folder / f"{name}-{origin}", trained, small
        self.folder.mkdir(parents=True, exist_ok=True)
        self.onnx, self.inputs = self.folder / "model.onnx", self.folder / "inputs.npz"
        if not self.inputs.exists():
            self._export()
        model = onnx.load(self.onnx)
        self.outputs = [o.name for o in model.graph.output]
        operators = {n.op_type for n in model.graph.node}
        self.convolutional, self.linear = "Conv" in operators, operators <= LINEAR

    def _export(self) -> None:
        """The ONNX form, and inputs from a seed."""
        if self.trained:
            onnx.save(_fixed(onnx.load(self.trained)), self.onnx)
            inputs = {p.name: np.random.default_rng(1).standard_normal(_shape(p)).astype(np.float32)
                      for p in _ports(onnx.load(self.onnx))}
        else:
            inputs = self._torch_onnx()
        np.savez(self.inputs, **inputs)

    def _torch_onnx(self) -> dict[str, np.ndarray]:
        import torch

        from benchmarks.networks import NETWORKS
        net = NETWORKS[self.name](**self.small)
        inputs = net.example()
        torch.onnx.export(net.module, tuple(map(torch.from_numpy, inputs.values())), str(self.onnx), dynamo=True, verbose=False,
                          opset_version=18, input_names=list(net.inputs), output_names=list(net.outputs), external_data=False)
        return inputs

    def bundle(self, level: Level = DENSE, target: str = "host") -> "Built":
        """edgekit's bundle. Verified against onnxruntime by the export itself, where the target can run here."""
        if level.unstructured:
            return self._build(self.unstructured(level), 0.0, level.slug, target)
        built = self._build(self.onnx, level.sparsity, level.slug, target)
        if level.sparsity:
            built.check(level)
        return built

    def ignoring(self) -> Path:
        """The dense bundle of the same network with every zero among its weights made a 1e-20: no pattern to use."""
        source = self.folder / "full.onnx"
        if not source.exists():
            onnx.save(masks.filled(onnx.load(self.onnx)), source)
        return self._build(source, 0.0, "full", "host").path

    def _build(self, source: Path, sparsity: float, slug: str, target: str) -> "Built":
        path = self.folder / f"{slug}.{target}.{_edgekit()}.ekb"
        note = path.with_suffix(".json")
        if not (path.exists() and note.exists()):
            start = time.perf_counter()
            try:
                edgekit.export(source, targets=[target], sparsity=sparsity, group="auto", output=path, name=self.name, overwrite=True)
            except EdgekitError as e:
                raise Refused(str(e)) from None
            note.write_text(json.dumps({"seconds": time.perf_counter() - start}), "utf-8")
        return Built(path, json.loads(note.read_text("utf-8"))["seconds"])

    def clean(self) -> onnx.ModelProto:
        """The dense model as edgekit reads it: its layers have the names of the manifest."""
        return onnx.load(self.bundle().source)

    def _eligible(self) -> list:
        return masks.eligible(self.bundle(Level(0.5)).manifest["layers"])

    def converted(self, peer: str, level: Level = DENSE) -> Path:
        """The file that a peer's worker loads; Refused with the converter's own words."""
        if peer == "onnxruntime" or peer == "openvino":
            return self.onnx
        version = _version(peer)
        path, refused = (self.folder / f"{peer}-{level.slug}-{version}{end}" for end in (SUFFIX[peer], ".refused"))
        if refused.exists():
            raise Refused(refused.read_text("utf-8"))
        if not _written(peer, path):
            source = self.onnx
            if level.sparsity and not level.unstructured:
                source = self.neighbours(level)
            request = {"peer": peer, "network": self.name, "small": self.small, "onnx": str(source), "to": str(path),
                       "sparsity": level.sparsity, "trained": bool(self.trained)}
            try:
                done = subprocess.run([sys.executable, "-m", "benchmarks.convert", json.dumps(request)], capture_output=True,
                                      text=True, timeout=TIMEOUT, check=False, cwd=Path(__file__).parents[1])
                why = "" if not done.returncode else f"its converter ended with {done.returncode}: {_last(done.stderr or done.stdout)}"
            except subprocess.TimeoutExpired:
                why = f"its converter took more than {TIMEOUT} s"
            if why or not _written(peer, path):
                why = why or "its converter wrote nothing"
                refused.write_text(why, "utf-8")
                raise Refused(why)
        return path

    def unstructured(self, level: Level) -> Path:
        """The network pruned without a pattern, in the layers that edgekit prunes."""
        path = self.folder / f"{level.slug}.onnx"
        if not path.exists():
            onnx.save(masks.masked(self.clean(), self._eligible(), masks.unstructured(level.sparsity)), path)
        return path

    def neighbours(self, level: Level) -> Path:
        """The network pruned for MNN: groups of 4 neighbouring outputs, in the layers that edgekit prunes."""
        path = self.folder / f"{level.slug}.neighbours.onnx"
        if not path.exists():
            onnx.save(masks.masked(self.clean(), self._eligible(), masks.neighbours(level.sparsity)), path)
        return path

    def error(self, outputs: Path, source: Path) -> float:
        """Largest max|a-b| / max|b| of any output against what onnxruntime computes from the ONNX file `source`."""
        import onnxruntime
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        with np.load(self.inputs) as inputs, np.load(outputs) as got:
            expected = session.run(self.outputs, dict(inputs))
            return max(_distance(got[name], value) for name, value in zip(self.outputs, expected, strict=True))


@dataclass(frozen=True)
class Built:
    """A bundle and the seconds of its export."""

    path: Path
    seconds: float

    @property
    def manifest(self) -> dict:
        return json.loads((self.path / "manifest.json").read_text("utf-8"))

    @property
    def source(self) -> Path:
        """The model that the bundle was compiled from, as ONNX."""
        return self.path / "model.onnx"

    def sparsity(self) -> float:
        """Counted over the eligible weights of the model in the bundle."""
        return masks.sparsity(onnx.load(self.source), masks.eligible(self.manifest["layers"]))

    def check(self, level: Level) -> None:
        """AssertionError where fewer weights are zero than the table will say (a group drops whole inputs: half of one
        may be missing)."""
        layers = masks.eligible(self.manifest["layers"])
        found = self.sparsity()
        worst = max((0.5 / np.prod(x["shape"][1:]) if x["op"] == "Conv" else 0.5 / min(x["shape"][-2:]) for x in layers), default=0)
        assert not layers or found >= level.sparsity - worst, f"{self.path.name}: {found:.2%} zeros, not {level}"


SUFFIX = {"mnn": ".mnn", "ncnn": "", "litert": ".tflite", "products": ".npz"}
PACKAGE = {"mnn": "MNN", "ncnn": "pnnx", "litert": "litert-torch", "products": "numpy"}


def _written(peer: str, path: Path) -> bool:
    return (path.with_name(path.name + ".param") if peer == "ncnn" else path).exists()


def _version(peer: str) -> str:
    try:
        return metadata.version(PACKAGE[peer])
    except metadata.PackageNotFoundError:
        raise Refused(f"{PACKAGE[peer]} is not installed: pip install 'edgekit-deploy[benchmarks]'") from None


@cache
def _edgekit() -> str:
    """Digest of edgekit's sources."""
    root = Path(edgekit.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def _distance(got: np.ndarray, expected: np.ndarray) -> float:
    if got.size != expected.size:
        return float("inf")
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    worst = np.abs(a - b).max() / (np.abs(b).max() or 1)
    return float(worst) if np.isfinite(worst) else float("inf")


def _ports(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {t.name for t in model.graph.initializer}
    return [p for p in model.graph.input if p.name not in constants]


def _shape(port: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in port.type.tensor_type.shape.dim]


def _fixed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Open dimensions are 1: the batch."""
    for port in [*_ports(model), *model.graph.output]:
        for d in port.type.tensor_type.shape.dim:
            if not d.dim_value:
                d.dim_value = 1
    return model


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"
