"""A bundle as one zip file: unpacked with suspicion, packed so that not one byte of it can change unnoticed.

Zips of any tool are read. One that edgekit packed is sealed: its comment is the SHA-256 of all before it, so damage to
bytes that no unzip looks at (dates, attributes) shows too. That it is one of ours is said twice, at its beginning and
at its end, so that no single change can hide it.
"""
import hashlib
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from edgekit.errors import BundleError
from edgekit.runtimes.abi.manifest import check_name

MANIFEST_LIMIT = 64 << 20   # bytes of manifest.json
COUNT_LIMIT = 10_000        # files of a bundle
_RATIO, _SMALL = 200, 64 << 20  # unpacked bytes: as many times the zip's own, or this much whatever the ratio
_MARK = struct.pack("<HH4s", 0x6B65, 4, b"ekb1")  # an extra field, "ek"
_WORDS = b"edgekit sha256 "
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, RuntimeError, KeyError)
_AGAIN = "copy or export the bundle again"


def pack(folder: Path, made: Path, names: list[str]) -> None:
    """Zips the files of a folder in the given order, with fixed dates and modes, and seals the result."""
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as z:
        for k, name in enumerate(names):
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
            info.file_size = (folder / name).stat().st_size
            if k == 0:
                info.extra = _MARK
            with (folder / name).open("rb") as source, z.open(info, "w") as target:
                shutil.copyfileobj(source, target)
    digest = _hash(made, made.stat().st_size - 2)
    with made.open("r+b") as f:
        f.seek(-2, 2)
        f.write(struct.pack("<H", len(_WORDS) + 64) + _WORDS + digest)


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a zip into an empty folder. Raises BundleError for anything but plain files with harmless names."""
    _check_seal(path)
    try:
        with zipfile.ZipFile(path) as z:
            infos = z.infolist()
            _check_list(infos, path)
            for info in infos:
                if not info.is_dir():
                    target = folder / info.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with z.open(info) as source, target.open("xb") as out:
                        shutil.copyfileobj(source, out)
    except _DAMAGE as e:
        raise BundleError(f"not a bundle folder nor a sound zip file: {e}", where=str(path), fix=_AGAIN) from None


def _check_list(infos: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuses what a bundle never has: too much, twice, links, encryption, odd names."""
    where = str(path)
    if len(infos) > COUNT_LIMIT:
        raise BundleError("there are too many files", where=where, fix="is this an edgekit bundle?")
    if sum(i.file_size for i in infos) > max(_SMALL, _RATIO * path.stat().st_size):
        raise BundleError("it would unpack to a suspicious size", where=where, fix="do not use it")
    for i in infos:
        if i.filename not in ("manifest.json", "manifest.sha256"):
            check_name(i.orig_filename.removesuffix("/"), where)
        kind = stat.S_IFMT(i.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or i.flag_bits & 1:
            raise BundleError(f"{i.filename!r} is a link, encrypted, or no file", where=where, fix="do not use it")
    if len({i.filename.lower() for i in infos}) != len(infos):
        raise BundleError("a file occurs twice", where=where, fix=_AGAIN)


def _check_seal(path: Path) -> None:
    size, tail = path.stat().st_size, len(_WORDS) + 64
    with path.open("rb") as f:
        head = f.read(256)
        f.seek(max(0, size - tail - 2))
        end = f.read()
    if _MARK not in head and _WORDS not in end:
        return
    if end != struct.pack("<H", tail) + _WORDS + _hash(path, size - tail - 2):
        raise BundleError("the zip file is damaged", where=str(path), fix=_AGAIN)


def _hash(path: Path, size: int) -> bytes:
    """SHA-256 of the first `size` bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while size > 0 and (part := f.read(min(size, 1 << 20))):
            digest.update(part)
            size -= len(part)
    return digest.hexdigest().encode()
