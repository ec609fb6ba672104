"""Output that appears whole or not at all: written aside, forced to the disk, renamed."""
import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgekit.errors import ExistsError, InputError


def check_free(path: Path, overwrite: bool, ours: Callable[[Path], bool], kind: str) -> None:
    """Raises ExistsError unless `path` may be written: nothing is there, or with `overwrite` an empty folder or something
    of the same `kind` (what `ours` says yes to)."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not (ours(path) or (path.is_dir() and not any(path.iterdir()))):
        raise ExistsError(f"something that is not {kind} is there", where=str(path), fix="choose another output")
    if not overwrite:
        raise ExistsError("the output exists", where=str(path), fix="choose another output, or --overwrite")


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A fresh hidden folder beside `path`. What the body leaves there as `new`, a file or a folder, takes the place of
    `path`; if anything fails, what stood there is what stands there. InputError for what the system refuses."""
    with said(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with said(path, "write"):
            yield folder
            if os.path.lexists(path):
                os.rename(path, folder / "old")
            os.rename(folder / "new", path)
            sync(path.parent)
    finally:
        if os.path.lexists(folder / "old") and not os.path.lexists(path):
            os.rename(folder / "old", path)
        shutil.rmtree(folder, ignore_errors=True)


def fill(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    """A new folder with these files (name -> content or the file to copy), each forced to the disk."""
    folder.mkdir()
    for name in sorted(files):
        target, content = folder / name, files[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
        sync(target)
    for below, _, _ in os.walk(folder):
        sync(Path(below))


def sync(path: Path) -> None:
    """Forces a file or folder to the disk; folders cannot be opened on Windows and need no such thing there."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def said(path: Path, doing: str) -> Iterator[None]:
    """What the operating system refuses, as an error with a place and a fix."""
    try:
        yield
    except OSError as e:
        full = e.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        fix = "free some space or choose another disk" if full else "check the path and its permissions"
        raise InputError(f"cannot {doing}: {e.strerror or e}", where=str(path), fix=fix) from e
