"""Packing itself: what is written, what is refused, and names from strangers in every form."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import BundleError, EdgekitError, ExistsError, InputError, UnsupportedError
from edgekit.pack import FORMS, MARK, pack
from edgekit.runtimes import embed
from edgekit.runtimes.abi import bundle
from tests.pack.conftest import HOSTILE, MODEL

NEEDED = {"cmake": "host", "npm": "wasm", "android": "android-arm64", "apple": "ios-arm64", "ros2": "arm64"}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def change(source: Path, made: Path, files=None, **fields) -> Path:
    """A copy of a bundle with other files and manifest fields."""
    read = bundle.read(source)
    kept = {n: read.file(n) for n in read.manifest["files"]}
    changed = {n: c for n, c in (kept | (files or {})).items() if c is not None}
    bundle.write(made, {k: v for k, v in read.manifest.items() if k not in ("files", "format")} | fields, changed)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_what_it_wrote(plain, tmp_path, form):
    told = pack(plain, form, tmp_path / "out")
    found = tree(tmp_path / "out")
    assert told["files"] == {n: len(c) for n, c in found.items() if n != MARK} and told["bytes"] == sum(told["files"].values())
    assert told["form"] == form and told["name"] == "tiny" and told["entries"] == ["run", "run_wide", "run_in"]
    mark = json.loads(found[MARK])
    assert mark["form"] == form and mark["bundle"] == (plain / "manifest.sha256").read_text().split()[0]
    assert [c for n, c in found.items() if n.endswith("weights.bin")] == [(plain / "weights.bin").read_bytes()]
    assert {n.rpartition("/")[2] for n in found} >= {"README.md", "tiny.h", "edgekit.h", "run.bin", "run_wide.bin", "run_in.bin"}
    assert not [n for n, c in found.items() if re.search(rb"\{\{\w+\}\}", c)], "nothing is left to fill in"


@pytest.mark.parametrize("form", FORMS)
def test_a_zip_packs_the_same(plain, tmp_path, form):
    change(plain, tmp_path / "m.zip")
    pack(tmp_path / "m.zip", form, tmp_path / "a")
    pack(plain, form, tmp_path / "b")
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    del a[MARK], b[MARK]
    assert a == b


@pytest.mark.parametrize("form", FORMS)
def test_no_hostile_name_comes_through(hostile, tmp_path, form):
    pack(hostile, form, tmp_path / "out")
    found = tree(tmp_path / "out")
    raw = [n for n in (MODEL, *HOSTILE, "touch pwned", '", "scripts"') if not re.fullmatch(r"[\w']+", n)]
    for name, content in found.items():
        assert re.fullmatch(r"[A-Za-z0-9_./-]+", name), name
        exported = name.endswith("_name.h") or b"\0" in content  # the exporter's header, with names in comments; binaries
        assert exported or [n for n in raw if n.encode() in content] == [], name


@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_without_the_code_that_a_form_needs(plain, tmp_path, form):
    keep = "wasm" if form != "npm" else "arm64"
    about = bundle.read(plain).manifest["targets"]
    other = {n: None for n in bundle.read(plain).manifest["files"] if n.split("/")[0] in about and n.split("/")[0] != keep}
    poor = change(plain, tmp_path / "poor $(x).ekb", other, targets={keep: about[keep]})
    with pytest.raises(BundleError) as caught:
        pack(poor, form, tmp_path / "out")
    assert f"edgekit export MODEL -o '{poor}' --overwrite -t {keep} -t {NEEDED[form]}" == caught.value.fix
    assert [p.name for p in tmp_path.iterdir()] == ["poor $(x).ekb"]


@pytest.mark.parametrize("file", ["include/tiny.h", "include/edgekit.h", "vectors.npz", "vectors.wide.npz"])
@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_that_lacks_a_part(plain, tmp_path, form, file):
    poor = change(plain, tmp_path / "poor.ekb", {file: None})
    with pytest.raises(BundleError, match="no file"):
        pack(poor, form, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["poor.ekb"]


@pytest.mark.parametrize("wrong", ["shape", "dtype", "order", "output", "cases", "pickle", "noise"])
def test_vectors_that_do_not_fit_the_entry(plain, tmp_path, wrong):
    with np.load(plain / "vectors.npz") as z:
        arrays = dict(z)
    x = arrays["in_x"]
    if wrong == "output":
        del arrays["expected_total"]
    else:
        arrays["in_x"] = {"shape": x[:, :3], "dtype": x.astype(np.float64), "order": x.astype(">f4"), "cases": x[:2],
                          "pickle": np.array([None] * 5), "noise": x}[wrong]
    np.savez(tmp_path / "vectors.npz", **arrays)
    content = (tmp_path / "vectors.npz").read_bytes() if wrong != "noise" else b"PK\3\4" + bytes(100)
    (tmp_path / "vectors.npz").unlink()
    poor = change(plain, tmp_path / "poor.ekb", {"vectors.npz": content})
    with pytest.raises(BundleError, match="vectors"):
        pack(poor, "npm", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["poor.ekb"]


def test_a_dtype_that_has_no_numpy_type(plain, tmp_path):
    entries = bundle.read(plain).manifest["entries"]
    entries[0]["inputs"][0]["dtype"] = "bfloat16"
    with pytest.raises(UnsupportedError, match="bfloat16"):
        pack(change(plain, tmp_path / "poor.ekb", entries=entries), "npm", tmp_path / "out")


def test_targets_that_this_edgekit_does_not_know_are_left_out(plain, tmp_path):
    about = bundle.read(plain).manifest["targets"]
    richer = change(plain, tmp_path / "m.ekb", targets={**about, "../../etc": about["wasm"], "tomorrow": about["wasm"]})
    for form in FORMS:
        assert pack(richer, form, tmp_path / form)["files"] == pack(plain, form, tmp_path / f"{form}-plain")["files"]


def test_what_is_there_is_kept(plain, tmp_path):
    out = tmp_path / "out"
    pack(plain, "npm", out)
    before = tree(out)
    with pytest.raises(ExistsError, match="exists") as caught:
        pack(plain, "npm", out)
    assert "--overwrite" in caught.value.fix and tree(out) == before
    pack(plain, "cmake", out, overwrite=True)
    assert "CMakeLists.txt" in tree(out) and "index.js" not in tree(out)
    for there in ("letter", "folder/letter"):
        path = tmp_path / there
        path.parent.mkdir(exist_ok=True)
        path.write_text("dear")
        with pytest.raises(ExistsError, match="not made by `edgekit pack`"):
            pack(plain, "npm", tmp_path / there.split("/")[0], overwrite=True)
        assert path.read_text() == "dear"
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(ExistsError):
        pack(plain, "npm", tmp_path / "link", overwrite=True)
    (tmp_path / "empty").mkdir()
    pack(plain, "npm", tmp_path / "empty", overwrite=True)


@pytest.mark.parametrize("call", ["mkdir", "write_bytes", "fsync", "rename"])
@pytest.mark.parametrize("old", [False, True])
def test_all_or_nothing(plain, tmp_path, monkeypatch, call, old):
    out = tmp_path / "here" / "out"
    out.parent.mkdir()
    if old:
        pack(plain, "npm", out)
    before = tree(out.parent)
    owner = os if call in ("fsync", "rename") else Path
    real, calls = getattr(owner, call), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == (2 if old and call == "rename" else 1) and str(tmp_path) in str(args[0]) + str(tmp_path) * (call == "fsync"):
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)
    monkeypatch.setattr(owner, call, failing)
    with pytest.raises(InputError, match="space"):
        pack(plain, "cmake", out, overwrite=True)
    monkeypatch.undo()
    assert tree(out.parent) == before and [p.name for p in out.parent.iterdir()] == (["out"] if old else [])


@pytest.mark.parametrize("form", ["", "zip", "../npm"])
def test_forms_that_do_not_exist(plain, tmp_path, form):
    with pytest.raises(InputError, match="no form") as caught:
        pack(plain, form, tmp_path / "out")
    assert "npm" in caught.value.fix


def test_the_bundle_is_not_touched(plain, tmp_path):
    mine = change(plain, tmp_path / "in" / "m.ekb")
    before = tree(tmp_path)
    for output in (mine, mine / "out", tmp_path, tmp_path / "in", mine / ".." / "m.ekb" / "x"):
        with pytest.raises(InputError):
            pack(mine, "npm", output, overwrite=True)
    (tmp_path / "in" / MARK).write_text("{}")
    with pytest.raises(InputError, match="in one another"):
        pack(mine, "npm", tmp_path / "in", overwrite=True)
    (tmp_path / "in" / MARK).unlink()
    assert tree(tmp_path) == before


def test_a_damaged_bundle_is_refused(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "m.ekb")
    weights = tmp_path / "m.ekb" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError, match="damaged"):
        pack(tmp_path / "m.ekb", "npm", tmp_path / "out")
    with pytest.raises(EdgekitError, match="no such bundle"):
        pack(tmp_path / "nothing.ekb", "npm", tmp_path / "out")


# --- names and templates ------------------------------------------------------------------------------------------

ODD = st.text(max_size=20) | st.sampled_from([*HOSTILE, MODEL, "class", "val", "run", "m", "tiny", "model", "ek_x", "x_t", "Self", "_", "x" * 99])
PORTS = st.lists(st.tuples(ODD, st.sampled_from(["float32", "int64", "bool", "float16"]), st.lists(st.integers(0, 3), max_size=2)), max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(ODD.filter(bool), st.lists(st.tuples(ODD, PORTS, PORTS), min_size=1, max_size=4, unique_by=lambda e: e[0]))
def test_names_are_identifiers_in_every_language(name, entries):
    def ports(some):
        return [{"name": n, "dtype": d, "shape": s} for n, d, s in some]
    manifest = {"name": name, "entries": [{"name": n, "inputs": ports(i), "outputs": ports(o), "states": []} for n, i, o in entries]}
    model = embed.make("m.ekb", bundle.BundleFiles(Path(), manifest), lambda raw: (b"", 0))
    identifier = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
    assert identifier.fullmatch(model.name) and re.fullmatch(r"([A-Z][A-Za-z0-9]*)?Model", model.type)
    assert model.entries[0].name == "run" and all(re.fullmatch(r"run(_[A-Za-z0-9_]+)?", e.name) for e in model.entries)
    assert len({e.name for e in model.entries}) == len(entries)
    for e, (_, inputs, outputs) in zip(model.entries, entries):
        called = [p.name for p in (*e.inputs, *e.outputs)]
        assert len(set(called)) == len(called) == len(inputs) + len(outputs)
        assert all(identifier.fullmatch(n) and n not in embed.WORDS and not n.startswith("ek_") and not n.endswith("_t") for n in called)


def test_templates_are_filled_once():
    assert embed.fill("{{a}}{b}${{{a}}_X} {{ a }}", {"a": "{{b}}\\1"}) == "{{b}}\\1{b}${{{b}}\\1_X} {{ a }}"
    with pytest.raises(KeyError):
        embed.fill("{{a}}", {})


def test_host_code_tells_its_platform(plain, tmp_path):
    for target, wanted in (("host", None), ("arm64", ("Linux", "aarch64")), ("macos-arm64", ("Darwin", "aarch64"))):
        found = embed._compiled_for((plain / target / "libtiny.a").read_bytes())
        assert found == wanted or (wanted is None and found[1] in ("x86_64", "aarch64") and found[0])
    for noise in (b"", b"!<arch>\n", b"x" * 100, b"!<arch>\n" + b"a/".ljust(48) + b"4".ljust(10) + b"`\nabcd"):
        assert embed._compiled_for(noise) == ("", "")


# --- the command line ---------------------------------------------------------------------------------------------


def edgekit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-m", "edgekit", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
                          timeout=60, check=False, env=os.environ | {"PYTHONPATH": str(root)})


def test_command_line(plain, tmp_path):
    done = edgekit("pack", plain, "--as", "npm", "-o", "out", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "out" and (tmp_path / "out" / "index.js").is_file()
    again = edgekit("pack", plain, "--as", "npm", "-o", "out", cwd=tmp_path)
    assert again.returncode == 2 and "--overwrite" in again.stderr and "Traceback" not in again.stderr
    told = edgekit("pack", plain, "--as", "cmake", "-o", "out", "--overwrite", cwd=tmp_path)
    assert told.returncode == 0 and "out" in told.stdout and "README.md" in told.stdout
    assert edgekit("pack", plain, "--as", "rpm", "-o", "out", cwd=tmp_path).returncode == 2
    assert edgekit("pack", plain, "-o", "out", cwd=tmp_path).returncode == 2
