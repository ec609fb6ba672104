"""Bundles to pack: the small plan of tests/emit for all platforms, once with plain names and once with hostile ones."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.runtimes.abi import bundle

HOSTILE = ['q"uote', "new\nline", "</script><b>", "$(touch pwned)", "`touch pwned`", "${pwned}", "{{name}}", "*/ #error", "a'b", "\\u0022",
           "--><!--", "]]>", "func", "fun", "in", "__proto__", "constructor", "Float", "std", "ek_out", "memory", "self"]
MODEL = 'e"vil\n</script>$(touch pwned)`{{name}}`;\\'
TARGETS = ("host", "wasm", "arm64", "android-arm64", "android-x64", "ios-arm64", "macos-arm64")


def make_vectors(scale: np.ndarray) -> list[dict[str, list[np.ndarray]]]:
    """Of the three entries: inputs and expected outputs in order, each with the case as axis 0. See tests/emit/tiny.py."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 4)).astype(np.float32)
    count, flag = np.array([3, -4, 2**40, 0, 5], np.int64), rng.integers(0, 2, (5, 2)).astype(bool)
    wide, awkward = rng.standard_normal((2, 64, 256)).astype(np.float32), x[:3]
    return [{"in": [x, count, flag], "expected": [np.cumsum(x, 0, np.float32) * scale, np.cumsum(count), flag]},
            {"in": [wide], "expected": [wide * np.tile(scale, 64)]},
            {"in": [awkward], "expected": [awkward * scale]}]


def make(folder: Path, plan, targets, license: str = "Apache-2.0") -> Path:
    """Compiles a plan that is tiny's but for its names, and writes the bundle."""
    from edgekit.exporters.emit import emit_target, pack_weights
    from edgekit.runtimes.abi.names import model_name
    from edgekit.targets import load
    from tests.emit import tiny
    work = folder / "work"
    work.mkdir()
    for target in targets:
        emit_target(plan, tiny.compiled(folder, load(target), plan.name), load(target), work)
    weights = {"w": np.concatenate([np.full(4, 99, np.float32), tiny.W])}
    (work / "weights.bin").write_bytes(pack_weights(plan, weights))
    port = lambda p: {"name": p.name, "dtype": p.dtype, "shape": list(p.shape)}
    entries = []
    for k, (e, arrays) in enumerate(zip(plan.entries, make_vectors(tiny.W))):
        named = {f"{kind}_{p.name}": a for kind, ports in (("in", e.inputs), ("expected", e.outputs))
                 for p, a in zip(ports, arrays[kind])}
        np.savez(work / ("vectors.npz" if k == 0 else f"vectors.{e.name}.npz"), **named)
        entries.append({"name": e.name, "inputs": list(map(port, e.inputs)), "outputs": list(map(port, e.outputs)), "states": []})
    about = {t: {"files": sorted(p.relative_to(work).as_posix() for p in (work / t).iterdir()), "code_bytes": 1, "verified": None,
                 "cpu_features": [], "title": license} for t in targets}
    manifest = {"name": plan.name, "entries": entries, "targets": about, "arena_bytes": plan.arena_bytes, "license": license,
                "state_bytes": plan.state_bytes, "weights_bytes": (work / "weights.bin").stat().st_size, "layers": [], "pruning": {}}
    made = folder / f"{model_name(plan.name)}.ekb"
    bundle.write(made, manifest, {p.relative_to(work).as_posix(): p for p in work.rglob("*") if p.is_file()})
    return made


def hostile_plan():
    """tiny with names that break out of strings, comments, tags and templates, where nobody takes care."""
    from tests.emit import tiny
    plan, names = tiny.plan(MODEL), iter(HOSTILE)
    entries = [replace(e, name=called, inputs=tuple(replace(p, name=next(names)) for p in e.inputs),
                       outputs=tuple(replace(p, name=next(names)) for p in e.outputs))
               for e, called in zip(plan.entries, ["$(touch pwned)\n\"'</script>", "constructor", "a-b"])]
    return replace(plan, entries=tuple(entries))


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    """A bundle named tiny for all platforms."""
    _needs_compilers()
    from tests.emit import tiny
    return make(tmp_path_factory.mktemp("plain"), tiny.plan(), TARGETS)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """The same with hostile names."""
    _needs_compilers()
    return make(tmp_path_factory.mktemp("hostile"), hostile_plan(), TARGETS, license='MIT", "scripts": {"install": "touch pwned')


@pytest.fixture(scope="session", params=["plain", "hostile"])
def either(request) -> Path:
    """Each of the two."""
    return request.getfixturevalue(request.param)


def _needs_compilers() -> None:
    """TVM is not imported: it takes over SIGSEGV, which an engine for WebAssembly that has started needs for its traps."""
    pytest.importorskip("ziglang", reason="needs the [export] extra to make its bundle")
