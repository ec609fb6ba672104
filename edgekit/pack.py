"""A bundle becomes what an app embeds: a folder for CMake, npm, Android, Apple or ROS 2. Nothing of it is executed."""
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import vectors
from edgekit.errors import BundleError, InputError
from edgekit.runtimes import android, apple, cmake, embed, ros2, web
from edgekit.runtimes.abi import bundle, whole
from edgekit.runtimes.session import Entry, Port, entries

FORMS: dict[str, Callable[[embed.Model], embed.Files]] = {
    "cmake": cmake.files, "npm": web.files, "android": android.files, "apple": apple.files, "ros2": ros2.files}
MARK = "edgekit-pack.json"  # in every packed folder: what it was made from, and that it may be overwritten


def pack(path: str | Path, form: str, output: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Writes the folder `output` in a form of FORMS from a bundle. What stands there afterwards is complete, or what was
    there before.

    Returns what `edgekit pack --json -` prints. Raises BundleError for a bundle that is damaged or lacks the code that the
    form needs, ExistsError, InputError.
    """
    path, output = Path(path), Path(output)
    if form not in FORMS:
        raise InputError(f"there is no form {form!r}", fix="use one of: " + ", ".join(FORMS))
    whole.check_free(output, overwrite, lambda there: (there / MARK).is_file(), "made by `edgekit pack`")
    _check_apart(path, output)
    files = bundle.read(path)
    known = entries(files.manifest)
    model = embed.make(str(path), files, lambda name: _bytes(files, known[name]))
    made = FORMS[form](model)
    digest = hashlib.sha256((files.root / bundle.MANIFEST).read_bytes()).hexdigest()
    mark = {"form": form, "name": model.name, "bundle": digest, "made_by": _version()}
    with whole.aside(output) as folder:
        whole.fill(folder / "new", {**made, MARK: (json.dumps(mark, indent=1) + "\n").encode()})
    sizes = {name: (output / name).stat().st_size for name in sorted(made)}
    return {"bundle": str(path), "form": form, "output": str(output), "name": model.name,
            "entries": [e.name for e in model.entries], "files": sizes, "bytes": sum(sizes.values())}


def _check_apart(path: Path, output: Path) -> None:
    """A folder within the bundle would damage it; a bundle within the folder would be overwritten."""
    here, there = path.resolve(), output.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise InputError("the output and the bundle lie in one another", where=str(output), fix="choose another output")


def _bytes(files: bundle.BundleFiles, entry: Entry) -> tuple[bytes, int]:
    """The vectors of an entry as the C interface takes them, case after case, and how many cases there are."""
    found = vectors.load(files, entry.name)
    parts = []
    for k, case in enumerate(found.cases):
        parts += [_exactly(case[p.name], p, entry) for p in entry.inputs]
        parts += [_exactly(found.expected[p.name][k], p, entry) if p.name in found.expected else _missing(p, entry)
                  for p in entry.outputs]
    return b"".join(parts), len(found.cases)


def _exactly(array: np.ndarray, port: Port, entry: Entry) -> bytes:
    if array.dtype != port.dtype or array.shape != port.shape:
        raise BundleError(f"its vectors have {port.name!r} as {array.dtype}{list(array.shape)}, not {port}",
                          where=entry.name, fix="export the bundle again")
    return array.tobytes()


def _missing(port: Port, entry: Entry) -> bytes:
    raise BundleError(f"its vectors lack the output {port.name!r}", where=entry.name, fix="export the bundle again")


def _version() -> str:
    from edgekit import __version__
    return f"edgekit {__version__}"
