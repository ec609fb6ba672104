"""The test vectors of a bundle: inputs, what the pruned model says (`expected`) and what the unpruned one said (`original`)."""
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np

from edgekit.errors import BundleError, InputError


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
