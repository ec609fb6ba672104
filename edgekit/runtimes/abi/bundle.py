"""The bundle on disk: a folder (or the same as one zip file) in which every byte is vouched for. See docs/bundle.md.

manifest.sha256 holds the hash of manifest.json, and manifest.json those of all other files. Reading checks them all and
executes nothing. Writing is all or nothing: aside, then renamed.
"""
import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError, ExistsError, InputError
from edgekit.runtimes.abi import archive
from edgekit.runtimes.abi.manifest import FORMAT, check_manifest, check_name, dump, parse

MANIFEST, SEAL = "manifest.json", "manifest.sha256"
_AGAIN = "copy or export the bundle again"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class BundleFiles:
    """A bundle at hand. root: the folder with its files; of a zip, a temporary one that goes with this object."""

    root: Path
    manifest: dict[str, Any]
    _unpacked: tempfile.TemporaryDirectory | None = field(default=None, repr=False, compare=False)

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists; BundleError if there is none of that name."""
        if name not in self.manifest["files"]:
            raise BundleError(f"the bundle has no file {name!r}", where=str(self.root), fix="export it with that part")
        return self.root / name


def read(path: str | Path) -> BundleFiles:
    """Opens a bundle folder or zip. Raises BundleError for whatever is not exactly as it was written."""
    path = Path(path)
    if path.is_dir():
        return BundleFiles(path, _verified(path, str(path)))
    if not path.exists():
        raise InputError("there is no such bundle", where=str(path), fix="check the path")
    unpacked = tempfile.TemporaryDirectory(prefix="edgekit-", ignore_cleanup_errors=True)
    try:
        with _said(path, "read"):
            archive.unpack(path, Path(unpacked.name))
        return BundleFiles(Path(unpacked.name), _verified(Path(unpacked.name), str(path)), unpacked)
    except BaseException:
        unpacked.cleanup()
        raise


def _verified(root: Path, where: str) -> dict[str, Any]:
    """The manifest, once every file is known to be the one that was written."""
    with _said(Path(where), "read"):
        found = dict(_walk(root, where))
        for name in (MANIFEST, SEAL):
            if name not in found:
                raise BundleError(f"{name} is missing", where=where, fix="is this an edgekit bundle? " + _AGAIN)
            if found[name].stat().st_size > archive.MANIFEST_LIMIT:
                raise BundleError(f"{name} is too large", where=where, fix=_AGAIN)
        text = found[MANIFEST].read_bytes()
        if found[SEAL].read_bytes() != _seal(text):
            raise BundleError(f"{MANIFEST} does not match {SEAL}", where=where, fix=_AGAIN)
        manifest = parse(text, where)
        listed = manifest["files"]
        for name in sorted(found.keys() - listed.keys() - {MANIFEST, SEAL}):
            raise BundleError(f"file {name!r} is not part of the bundle", where=where, fix="remove it, or " + _AGAIN)
        for name in sorted(listed):
            if name not in found:
                raise BundleError(f"file {name!r} is missing", where=where, fix=_AGAIN)
            if _sha256(found[name]) != listed[name]:
                raise BundleError(f"file {name!r} is damaged", where=where, fix=_AGAIN)
        return manifest


def _walk(root: Path, where: str) -> Iterator[tuple[str, Path]]:
    """(name, path) of every file below root; links and other things that are no files are refused."""
    count = 0
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        for entry in (*subfolders, *files):
            path = Path(folder, entry)
            name, count = path.relative_to(root).as_posix(), count + 1
            if count > archive.COUNT_LIMIT:
                raise BundleError("there are too many files", where=where, fix="is this an edgekit bundle?")
            if path.is_symlink() or not (path.is_dir() if entry in subfolders else path.is_file()):
                raise BundleError(f"{name!r} is not a plain file", where=where, fix="remove it, or " + _AGAIN)
            if entry in files:
                yield name, path


def write(path: str | Path, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes],
          overwrite: bool = False) -> BundleFiles:
    """Writes a bundle: a folder, or one zip file when the name ends in .zip.

    manifest: all fields but `format` and `files`, which are filled in here. files: name -> content or the file to copy.
    What stands at `path` afterwards is either the complete new bundle or exactly what was there before. Raises
    ExistsError (something is there and `overwrite` is not set, or it is no bundle), InputError when the disk refuses,
    BundleError for a name or manifest that `read` would not take.
    """
    path = Path(path)
    check_free(path, overwrite)
    for name in files:
        check_name(name, str(path))
    with _said(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with _said(path, "write"):
            full = _fill(aside / "new", manifest, files, str(path))
            made = aside / "new"
            if path.suffix == ".zip":
                made = aside / "new.zip"
                archive.pack(aside / "new", made, [SEAL, MANIFEST, *sorted(files)])
                _sync(made)
            if os.path.lexists(path):
                os.rename(path, aside / "old")
            os.rename(made, path)
            _sync(path.parent)
    finally:
        if os.path.lexists(aside / "old") and not os.path.lexists(path):
            os.rename(aside / "old", path)
        shutil.rmtree(aside, ignore_errors=True)
    return read(path) if path.suffix == ".zip" else BundleFiles(path, full)


def check_free(path: str | Path, overwrite: bool = False) -> None:
    """Raises ExistsError unless a bundle may be written at `path`; asked before long work begins."""
    path = Path(path)
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not (_is_bundle(path) or (path.is_dir() and not any(path.iterdir()))):
        raise ExistsError("something that is not a bundle is there", where=str(path), fix="choose another output")
    if not overwrite:
        raise ExistsError("the output exists", where=str(path), fix="choose another output, or --overwrite")


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() if path.is_dir() else zipfile.is_zipfile(path)


def _fill(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes], where: str) -> dict[str, Any]:
    """Writes all files, then the manifest and its hash, each forced to the disk. Returns the manifest."""
    folder.mkdir()
    hashes = {}
    for name in sorted(files):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = files[name]
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
        hashes[name] = _sha256(target)
        _sync(target)
    full = {**manifest, "format": FORMAT, "files": hashes}
    check_manifest(full, where)
    text = dump(full)
    for name, content in ((MANIFEST, text), (SEAL, _seal(text))):
        (folder / name).write_bytes(content)
        _sync(folder / name)
    for below, _, _ in os.walk(folder):
        _sync(Path(below))
    return full


def _sync(path: Path) -> None:
    """Forces a file or folder to the disk; folders cannot be opened on Windows and need no such thing there."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _seal(manifest: bytes) -> bytes:
    """The text of manifest.sha256, as `sha256sum` writes and checks it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def _said(path: Path, doing: str) -> Iterator[None]:
    """What the operating system refuses, as an error with a place and a fix."""
    try:
        yield
    except OSError as e:
        full = e.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        fix = "free some space or choose another disk" if full else "check the path and its permissions"
        raise InputError(f"cannot {doing}: {e.strerror or e}", where=str(path), fix=fix) from e
