"""Bundles on disk: written whole or not at all, read only if every byte is as it was written."""
import errno
import hashlib
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import BundleError, ExistsError, InputError
from edgekit.runtimes.abi import bundle
from edgekit.runtimes.abi.manifest import check_name, dump, parse

PORT = {"name": "x", "dtype": "float32", "shape": [1, 4]}
MANIFEST = {
    "name": "tiny", "arena_bytes": 64, "state_bytes": 32, "weights_bytes": 128,
    "entries": [{"name": "run", "inputs": [PORT], "outputs": [PORT], "states": [], "layers": []}],
    "targets": {"host": {"files": ["host/libtiny.so"], "code_bytes": 9, "verified": None, "cpu_features": []}},
}
FILES = {"weights.bin": b"\x00\x01" * 64, "host/libtiny.so": b"\x7fELF code", "include/tiny.h": b"",
         "model.onnx": b"graph"}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bundle folder."""
    bundle.write(tmp_path / "m.ekb", MANIFEST, FILES)
    return tmp_path / "m.ekb"


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """A bundle as a zip that edgekit wrote."""
    bundle.write(tmp_path / "m.zip", MANIFEST, FILES)
    return tmp_path / "m.zip"


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def reseal(folder: Path, manifest: bytes) -> None:
    """Puts another manifest in, with the hash that fits: a forger can do this."""
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n")


@pytest.mark.parametrize("name", ["m.ekb", "m.zip"])
def test_what_is_written_is_read(tmp_path, name):
    source = tmp_path / "source"
    source.write_bytes(b"copied")
    written = bundle.write(tmp_path / "deep" / name, MANIFEST, {**FILES, "report.html": source})
    files = bundle.read(tmp_path / "deep" / name)
    assert files.manifest == written.manifest
    assert files.manifest["format"] == 1 and files.manifest["name"] == "tiny"
    assert {n: files.file(n).read_bytes() for n in files.manifest["files"]} == {**FILES, "report.html": b"copied"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [name]
    with pytest.raises(BundleError, match="vectors.npz"):
        files.file("vectors.npz")
    with pytest.raises(BundleError, match="no file"):
        files.file("../source")


def test_the_same_bytes_every_time(tmp_path):
    for k, order in enumerate([1, -1]):
        shuffled = dict(list(MANIFEST.items())[::order])
        bundle.write(tmp_path / f"{k}.ekb", shuffled, dict(list(FILES.items())[::order]))
        bundle.write(tmp_path / f"{k}.zip", shuffled, dict(list(FILES.items())[::order]))
    assert everything(tmp_path / "0.ekb") == everything(tmp_path / "1.ekb")
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()


def test_sha256sum_can_check_it(made):
    digest = hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest()
    assert (made / "manifest.sha256").read_text() == f"{digest}  manifest.json\n"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_anywhere_is_refused(made, data):
    files = everything(made)
    name = data.draw(st.sampled_from(sorted(n for n in files if files[n])))
    at, flip = data.draw(st.integers(0, len(files[name]) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(files[name])
    changed[at] ^= flip
    try:
        (made / name).write_bytes(changed)
        with pytest.raises(BundleError):
            bundle.read(made)
    finally:
        (made / name).write_bytes(files[name])
    bundle.read(made)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_or_grown_is_refused(made, data):
    files = everything(made)
    name = data.draw(st.sampled_from(sorted(files)))
    size = data.draw(st.integers(0, len(files[name]) + 3).filter(lambda n: n != len(files[name])))
    try:
        (made / name).write_bytes((files[name] + b"\0\n ")[:size])
        with pytest.raises(BundleError):
            bundle.read(made)
    finally:
        (made / name).write_bytes(files[name])


def test_every_single_byte_of_a_zip(zipped):
    whole = zipped.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        zipped.write_bytes(changed)
        with pytest.raises(BundleError):
            bundle.read(zipped)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_zip_of_another_tool_gives_the_content_or_an_error(made, data):
    """Without our seal a change may hit what nobody reads; then all content is still what it was."""
    foreign = Path(shutil.make_archive(str(made.parent / "foreign"), "zip", made))
    whole = bytearray(foreign.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    foreign.write_bytes(whole[:data.draw(st.integers(len(whole) // 2, len(whole)))])
    try:
        files = bundle.read(foreign)
    except BundleError:
        return
    assert everything(files.root) == everything(made)


def test_a_zip_of_another_tool_is_read(made):
    shutil.make_archive(str(made.parent / "foreign"), "zip", made)
    files = bundle.read(made.parent / "foreign.zip")
    assert files.file("weights.bin").read_bytes() == FILES["weights.bin"]
    root = files.root
    del files
    assert not root.exists()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.binary(max_size=300).map(lambda b: b"PK\x03\x04" + b))
def test_garbage_is_no_bundle(tmp_path, content):
    (tmp_path / "g").write_bytes(content)
    with pytest.raises(BundleError):
        bundle.read(tmp_path / "g")


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no such"):
        bundle.read(tmp_path / "none.ekb")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="manifest.json is missing"):
        bundle.read(tmp_path / "empty")


def test_missing_and_extra_files(made):
    (made / "extra").write_bytes(b"")
    with pytest.raises(BundleError, match="'extra' is not part"):
        bundle.read(made)
    (made / "extra").unlink()
    (made / "model.onnx").unlink()
    with pytest.raises(BundleError, match="'model.onnx' is missing"):
        bundle.read(made)


def test_links_are_refused(made, tmp_path):
    content = tmp_path / "weights"
    (made / "weights.bin").rename(content)
    (made / "weights.bin").symlink_to(content)
    with pytest.raises(BundleError, match="plain file"):
        bundle.read(made)
    (made / "weights.bin").unlink()
    content.rename(made / "weights.bin")
    (made / "host").rename(tmp_path / "elsewhere")
    (made / "host").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="plain file"):
        bundle.read(made)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_does_not_hang(made):
    (made / "model.onnx").unlink()
    os.mkfifo(made / "model.onnx")
    with pytest.raises(BundleError, match="plain file"):
        bundle.read(made)


BAD_NAMES = ["../x", "/x", "a/../x", "a\\x", "C:/x", "a//b", "", ".", "..", ".hidden", "a/", "nul", "COM1.txt", "a.",
             "a b", "a\0b", "é", "x" * 300, "a/" * 9 + "b", "manifest.json", "manifest.sha256", "-rf"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_harm(made, tmp_path, name):
    with pytest.raises(BundleError, match="not allowed"):
        check_name(name, "here")
    with pytest.raises(BundleError, match="not allowed"):
        bundle.write(tmp_path / "new.ekb", MANIFEST, {name: b""})
    manifest = json.loads((made / "manifest.json").read_bytes())
    manifest["files"][name] = "0" * 64
    reseal(made, dump(manifest))
    with pytest.raises(BundleError, match="not allowed"):
        bundle.read(made)


@pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "a/../../escape", "host\\x", "nul"])
def test_a_zip_cannot_write_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as z:
        z.writestr(name, b"evil")
    with pytest.raises(BundleError, match="not allowed"):
        bundle.read(tmp_path / "evil.zip")


def test_zips_with_links_bombs_and_doubles(tmp_path):
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as z:
        info = zipfile.ZipInfo("weights.bin")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(info, "/etc/passwd")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as z, z.open("weights.bin", "w") as f:
        for _ in range(80):
            f.write(bytes(1 << 20))
    with zipfile.ZipFile(tmp_path / "double.zip", "w") as z:
        z.writestr("a", b"")
        z.writestr("A", b"")
    for name, word in (("link", "link"), ("bomb", "suspicious"), ("double", "twice")):
        with pytest.raises(BundleError, match=word):
            bundle.read(tmp_path / f"{name}.zip")


def test_manifests_that_are_not_json(made):
    for text in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1, "format": 1}', b"[" * 100_000,
                 b'{"format": NaN}', b'{"format": 1' + b"0" * 5000 + b"}"):
        reseal(made, text)
        with pytest.raises(BundleError):
            bundle.read(made)


@pytest.mark.parametrize("field, value, word", [
    ("format", 2, "upgrade"), ("format", 0, "version"), ("format", "1", "version"), ("format", True, "version"),
    ("format", None, "version"), ("name", "", "name"), ("name", 3, "name"), ("entries", [], "entries"),
    ("entries", {}, "entries"), ("entries", [3], "entry"), ("entries", [{"name": "a"}], "inputs"),
    ("entries", MANIFEST["entries"] * 2, "one name"), ("arena_bytes", -1, "arena"), ("arena_bytes", 1.5, "arena"),
    ("weights_bytes", True, "weights"), ("state_bytes", 1 << 60, "state"), ("targets", [], "targets"),
    ("targets", {"host": {}}, "targets"), ("files", None, "files"), ("files", {"a": "b"}, "hash"),
    ("files", {"a": "0" * 64, "A": "0" * 64}, "case"),
    ("entries", [{**MANIFEST["entries"][0], "inputs": [{**PORT, "dtype": "complex64"}]}], "inputs"),
    ("entries", [{**MANIFEST["entries"][0], "outputs": [{**PORT, "shape": [-1]}]}], "outputs"),
    ("entries", [{**MANIFEST["entries"][0], "states": ["h"]}], "states"),
])
def test_manifests_that_would_mislead(made, field, value, word):
    manifest = json.loads((made / "manifest.json").read_bytes())
    reseal(made, dump({**manifest, field: value}))
    with pytest.raises(BundleError, match=word):
        bundle.read(made)


def test_unknown_fields_are_for_later_versions(made):
    manifest = json.loads((made / "manifest.json").read_bytes())
    reseal(made, dump({**manifest, "invented": {"later": [1]}}))
    assert bundle.read(made).manifest["invented"] == {"later": [1]}


def test_numbers_that_json_lacks_are_not_written():
    with pytest.raises(ValueError):
        dump({"x": float("nan")})
    with pytest.raises(BundleError, match="NaN"):
        parse(b'{"x": NaN}', "here")


@pytest.mark.parametrize("name", ["m.ekb", "m.zip"])
def test_overwriting(tmp_path, name):
    bundle.write(tmp_path / name, MANIFEST, FILES)
    with pytest.raises(ExistsError, match="--overwrite"):
        bundle.write(tmp_path / name, MANIFEST, FILES)
    bundle.write(tmp_path / name, {**MANIFEST, "name": "other"}, {"weights.bin": b"new"}, overwrite=True)
    assert bundle.read(tmp_path / name).manifest["name"] == "other"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_is_no_bundle_is_never_overwritten(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter").write_text("dear")
    (tmp_path / "file.zip").write_text("not a zip")
    (tmp_path / "link.ekb").symlink_to(home)
    for path in (home, tmp_path / "file.zip", tmp_path / "link.ekb"):
        with pytest.raises(ExistsError, match="not a bundle"):
            bundle.write(path, MANIFEST, FILES, overwrite=True)
    assert (home / "letter").read_text() == "dear"


FAULTS = {"full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "denied": PermissionError(errno.EACCES, "Denied"),
          "interrupt": KeyboardInterrupt()}


CALLS = {"write_bytes": (Path, "write_bytes"), "copyfile": (shutil, "copyfile"), "fsync": (os, "fsync"),
         "rename": (os, "rename")}


@pytest.mark.parametrize("name", ["m.ekb", "m.zip"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("old", [False, True])
def test_all_or_nothing(tmp_path, monkeypatch, name, fault, call, old):
    """Whatever fails, wherever: what was there stays, and nothing else is left."""
    source = tmp_path / "source"
    source.write_bytes(b"copied")
    path = tmp_path / "out" / name
    path.parent.mkdir()
    if old:
        bundle.write(path, MANIFEST, FILES)
    owner, attribute = CALLS[call]
    real, calls = getattr(owner, attribute), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == (2 if call == "rename" and old else 1):  # what was there has just been moved aside
            raise FAULTS[fault]
        return real(*args, **kwargs)
    monkeypatch.setattr(owner, attribute, failing)
    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else InputError) as caught:
        bundle.write(path, {**MANIFEST, "name": "new"}, {**FILES, "report.html": source}, overwrite=True)
    if fault == "full":
        assert "space" in str(caught.value)
    monkeypatch.undo()
    assert [p.name for p in path.parent.iterdir()] == ([name] if old else [])
    if old:
        assert bundle.read(path).manifest["name"] == "tiny"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        bundle.write(Path("/proc/nothing/m.ekb"), MANIFEST, FILES)


def test_an_invalid_manifest_is_not_written(tmp_path):
    with pytest.raises(BundleError, match="entries"):
        bundle.write(tmp_path / "m.ekb", {**MANIFEST, "entries": []}, FILES)
    assert not list(tmp_path.iterdir())
