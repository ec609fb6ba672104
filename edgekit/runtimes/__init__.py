"""The drivers that run a bundle from Python, one protocol over all of them, and (in `abi`) what ships to a device."""
from typing import Any

from edgekit import targets
from edgekit.errors import InputError, MissingToolError
from edgekit.runtimes.abi.names import library_names, model_name, module_names
from edgekit.runtimes.session import Session, levels

__all__ = ["Session", "open_session"]


def open_session(files: Any, target: str = "host", threads: int = 1, level: str = "") -> Session:
    """The model of a bundle (from `abi.bundle.read`), loaded on a target: one in the bundle, or "onnx".

    level: one of the target's code levels, instead of the best that this machine has. Raises InputError for a target or
    level that the bundle lacks or threads that the target has not, MissingToolError where the target's runner is not
    installed or does not exist, BundleError and RuntimeStatusError for what does not load: EK_CPU for a level that this
    machine cannot run.
    """
    if threads < 1:
        raise InputError(f"{threads} threads", fix="use 1 or more")
    manifest = files.manifest
    weights = files.file("weights.bin")
    if target == "onnx":
        from edgekit.runtimes.onnx import OnnxSession
        return OnnxSession(files, threads)
    if target not in manifest["targets"]:
        known = ", ".join([*manifest["targets"], "onnx"])
        raise InputError(f"the bundle has no target {target!r}", fix=f"use one of: {known}; or export it for {target}")
    spec = targets.load(target)
    if not spec.runner:
        raise MissingToolError(f"nothing here runs the target {target!r}", fix="run it on the device")
    choice = levels(manifest, target)
    if level and level not in choice:
        raise InputError(f"{target} has no code level {level!r}", fix="use one of: " + (", ".join(choice) or "none"))
    name = model_name(manifest["name"])
    library = files.file(f"{target}/{library_names(spec, name)[0]}")
    if spec.runner == "host":
        from edgekit.runtimes.host import HostSession
        pool = files.file(f"{target}/{library_names(spec, 'ek_threads')[0]}") if threads > 1 else None
        return HostSession(library, manifest, weights, target, threads, pool, choice.index(level) if level else None)
    if threads > 1:
        raise InputError(f"{target} runs in one thread", fix="leave out the number of threads")
    from edgekit.runtimes.guest import GuestSession
    machine: Any
    if spec.runner == "arm":
        from edgekit.runtimes.arm import Emulator
        machine = Emulator(library.read_bytes(), model="a72" if manifest.get("dtype") == "float32" else "max")
    else:
        from edgekit.runtimes.wasm import Sandbox, choose
        modules = module_names(spec, name)
        machine = Sandbox(choose([files.file(f"{target}/{modules[n]}") for n in choice if level in ("", n)] or [library]))
    try:
        return GuestSession(machine, target, manifest, weights.read_bytes())
    except BaseException:
        machine.close()
        raise

