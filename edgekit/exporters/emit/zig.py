"""The one place that calls the C compiler, archiver and linkers: the `ziglang` wheel, for every target, offline."""
import functools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from edgekit.errors import CompilerError, MissingToolError
from edgekit.exporters.emit.compile import cache_folder
from edgekit.runtimes.abi.names import host_triple
from edgekit.targets import Target


def zig(*args: str | Path, cwd: Path | None = None) -> str:
    """Standard output of `zig ARGS`. Raises MissingToolError without zig and CompilerError with its first words."""
    if find_spec("ziglang") is None:
        raise MissingToolError("linking needs ziglang", fix="pip install 'edgekit-deploy[export]'")
    cache = str(cache_folder() / "zig")
    env = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, **os.environ}
    run = subprocess.run([sys.executable, "-P", "-m", "ziglang", *map(str, args)], cwd=cwd, env=env, check=False,
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if run.returncode:
        said = " ".join(line for line in run.stderr.splitlines() if "error" in line) or run.stderr.strip()
        raise CompilerError(f"zig {args[0]} ended with code {run.returncode}: {said[:600]}",
                            fix="free disk space and memory, or please report this with the model")
    return run.stdout


def triple(target: Target) -> str:
    """zig's triple of a target; for `host` that of this machine."""
    return target.zig or host_triple()


def processor(target: Target) -> str:
    """zig's name of the processor and features that the kernels are compiled for."""
    features = "".join(f[0] + f[1:].replace("-", "_").replace(".", "_") for f in target.features)
    return (target.cpu.replace("-", "_") or "generic") + features


@functools.cache
def macros(target: Target) -> frozenset[str]:
    """Names that the C compiler predefines for the target's processor: __AVX2__ and the like."""
    text = zig("cc", "-target", triple(target), f"-mcpu={processor(target)}", "-dM", "-E", "-x", "c", os.devnull)
    return frozenset(line.split()[1] for line in text.splitlines() if line.startswith("#define "))
