"""Cleans model files in a child process: a file may be hostile, and the native parts of onnx and onnxruntime can crash.

The parent writes `request.json` into a fresh folder, the child writes the clean models and `answer.json` beside it.
"""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import errors
from edgekit.errors import EdgekitError, InputError

if TYPE_CHECKING:
    import onnx

    from edgekit.exporters.load.bind import Shapes


def clean_file(path: Path, shapes: Shapes | None, keep: frozenset[str] | None) -> list[tuple[str, onnx.ModelProto]]:
    """clean(read_onnx(path)) in a child process. InputError if the child dies of it."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgekit-load-") as folder:
        request = {"path": str(path.absolute()), "shapes": shapes and {k: list(v) if isinstance(v, (tuple, list)) else v
                                                                       for k, v in shapes.items()},
                   "keep": None if keep is None else sorted(keep)}
        Path(folder, "request.json").write_text(json.dumps(request), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        done = subprocess.run([sys.executable, "-P", "-m", "edgekit.exporters.load.isolate", folder],
                              env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              check=False)
        answer_file = Path(folder, "answer.json")
        if not answer_file.exists():
            raise InputError(f"reading the model crashed ({_reason(done)})", where=path.name,
                             fix="the model is damaged, or memory or disk are too small for it: export it again, or free some space")
        answer = json.loads(answer_file.read_text(encoding="utf-8"))
        if "error" in answer:
            kind = getattr(errors, answer["error"]["kind"])
            raise kind(answer["error"]["what"], where=answer["error"]["where"], fix=answer["error"]["fix"])
        return [(v["name"], onnx.load(Path(folder, v["file"]))) for v in answer["variants"]]


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        try:
            return signal.Signals(-done.returncode).name
        except ValueError:
            return f"signal {-done.returncode}"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {done.returncode}"


def main(arguments: Sequence[str]) -> None:
    from edgekit.exporters.load.clean import clean
    from edgekit.exporters.load.onnx_file import read_onnx

    folder = Path(arguments[0])
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    path = Path(request["path"])
    answer: dict[str, object]
    try:
        keep = None if request["keep"] is None else frozenset(request["keep"])
        variants = clean(read_onnx(path), request["shapes"], keep, path.name)
        answer = {"variants": [{"name": name, "file": f"{k}.onnx"} for k, (name, _) in enumerate(variants)]}
        for k, (_, model) in enumerate(variants):
            (folder / f"{k}.onnx").write_bytes(model.SerializeToString())
    except EdgekitError as error:
        answer = {"error": {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}}
    (folder / "answer.tmp").write_text(json.dumps(answer), encoding="utf-8")
    (folder / "answer.tmp").rename(folder / "answer.json")


if __name__ == "__main__":
    main(sys.argv[1:])
