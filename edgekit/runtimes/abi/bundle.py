"""The bundle on disk: a folder (or the same as one zip file) in which every byte is vouched for. See docs/bundle.md.

manifest.sha256 holds the hash of manifest.json, and manifest.json those of all other files. Reading checks them all and
executes nothing. Writing is all or nothing: aside, then renamed.
"""
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError, InputError
from edgekit.runtimes.abi import archive, whole
from edgekit.runtimes.abi.manifest import FORMAT, check_manifest, check_name, dump, parse

MANIFEST, SEAL = "manifest.json", "manifest.sha256"
_AGAIN = "copy or export the bundle again"


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
        with whole.said(path, "read"):
            archive.unpack(path, Path(unpacked.name))
        return BundleFiles(Path(unpacked.name), _verified(Path(unpacked.name), str(path)), unpacked)
    except BaseException:
        unpacked.cleanup()
        raise


def _verified(root: Path, where: str) -> dict[str, Any]:
    """The manifest, once every file is known to be the one that was written."""
    with whole.said(Path(where), "read"):
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
    with whole.aside(path) as folder:
        if path.suffix == ".zip":
            full = _fill(folder / "files", manifest, files, str(path))
            archive.pack(folder / "files", folder / "new", [SEAL, MANIFEST, *sorted(files)])
            whole.sync(folder / "new")
        else:
            full = _fill(folder / "new", manifest, files, str(path))
    return read(path) if path.suffix == ".zip" else BundleFiles(path, full)


def check_free(path: str | Path, overwrite: bool = False) -> None:
    """Raises ExistsError unless a bundle may be written at `path`; asked before long work begins."""
    whole.check_free(Path(path), overwrite, _is_bundle, "a bundle")


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() if path.is_dir() else zipfile.is_zipfile(path)


def _fill(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes], where: str) -> dict[str, Any]:
    """Writes all files, then the manifest and its hash, each forced to the disk. Returns the manifest."""
    whole.fill(folder, files)
    full = {**manifest, "format": FORMAT, "files": {name: _sha256(folder / name) for name in sorted(files)}}
    check_manifest(full, where)
    text = dump(full)
    for name, content in ((MANIFEST, text), (SEAL, _seal(text))):
        (folder / name).write_bytes(content)
        whole.sync(folder / name)
    whole.sync(folder)
    return full


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _seal(manifest: bytes) -> bytes:
    """The text of manifest.sha256, as `sha256sum` writes and checks it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _raise(error: OSError) -> None:
    raise error
