"""manifest.json: strict JSON, sorted keys, and the fields that runtimes rely on checked before anybody uses them."""
import json
import re
from collections.abc import Mapping
from typing import Any

from edgekit.errors import BundleError

FORMAT = 1
_AGAIN = "export the bundle again"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_DTYPES = frozenset(["float32", "float64", "float16", "bfloat16", "bool",
                     *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))])
_LIMIT = 1 << 48  # of any size in bytes and of any extent


def dump(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of manifest.json: the same for equal manifests."""
    return (json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def parse(data: bytes, where: str) -> dict[str, Any]:
    """The manifest, checked. Raises BundleError."""
    try:
        manifest = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as e:
        raise BundleError(f"manifest.json cannot be read: {e}", where=where, fix=_AGAIN) from None
    check_manifest(manifest, where)
    return manifest


def check_manifest(m: Any, where: str) -> None:
    """Raises BundleError unless m is a manifest of this format; fields that are not known here may be anything."""

    def need(ok: bool, what: str) -> None:
        if not ok:
            raise BundleError(f"manifest.json: {what}", where=where, fix=_AGAIN)

    need(isinstance(m, dict) and type(m.get("format")) is int, "there is no format version")
    if m["format"] > FORMAT:
        raise BundleError(f"bundle format {m['format']}; this edgekit reads up to {FORMAT}", where=where,
                          fix="upgrade edgekit")
    need(m["format"] >= 1, "the format version is wrong")
    need(_text(m.get("name")), "name is missing")
    for key in ("arena_bytes", "state_bytes", "weights_bytes"):
        need(_size(m.get(key)), f"{key} is not a number of bytes")
    entries, found_files, found_targets = m.get("entries"), m.get("files"), m.get("targets")
    need(isinstance(entries, list) and len(entries) > 0, "there are no entries")
    assert isinstance(entries, list)
    for e in entries:
        need(isinstance(e, dict) and _text(e.get("name")), "an entry has no name")
        for kind in ("inputs", "outputs", "states"):
            need(isinstance(e.get(kind), list) and all(map(_port, e[kind])), f"{kind} of entry {e['name']!r} are wrong")
        need(isinstance(e.get("layers", []), list), f"layers of entry {e['name']!r} are wrong")
    need(len({e["name"] for e in entries}) == len(entries), "two entries have one name")
    need(isinstance(found_targets, dict) and all(map(_target, found_targets.values())), "targets are wrong")
    need(isinstance(found_files, dict), "there is no list of files")
    assert isinstance(found_files, dict)
    for name, digest in found_files.items():
        check_name(name, where)
        need(isinstance(digest, str) and bool(re.fullmatch(r"[0-9a-f]{64}", digest)), f"the hash of {name!r} is wrong")
    need(len({n.lower() for n in found_files}) == len(found_files), "two file names differ in case only")


def check_name(name: Any, where: str) -> None:
    """Raises BundleError for a file name that could leave the bundle or that some system cannot have."""
    parts = name.split("/") if isinstance(name, str) else []
    if not 1 <= len(parts) <= 8 or len(name) > 200 or name in ("manifest.json", "manifest.sha256") \
            or any(not _NAME.fullmatch(p) or p.endswith(".") or _WINDOWS.fullmatch(p) for p in parts):
        raise BundleError(f"file name {name!r:.100} is not allowed in a bundle", where=where,
                          fix="use letters, digits and _ . + - in short relative paths")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LIMIT


def _port(port: Any) -> bool:
    """An input, output or state: name, dtype and shape."""
    return (isinstance(port, dict) and _text(port.get("name")) and port.get("dtype") in _DTYPES
            and isinstance(port.get("shape"), list) and all(map(_size, port["shape"])))


def _target(target: Any) -> bool:
    return (isinstance(target, dict) and isinstance(target.get("files"), list) and _size(target.get("code_bytes"))
            and all(isinstance(f, str) for f in target["files"]))
