"""Kernels to object files: compiled in a child process, cached by content, renamed to the model's prefix, assembled."""
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from edgekit.errors import CompilerError, InputError, MissingToolError
from edgekit.exporters.emit.compiler import SYMBOL
from edgekit.exporters.kernels.spec import Kernel
from edgekit.targets import Target


@dataclass(frozen=True)
class Symbol:
    """A compiled kernel: its C name and how many units of work it has."""

    name: str
    units: int


@dataclass(frozen=True)
class Compiled:
    """Object files of all kernels of a model for one level of a target."""

    objects: tuple[Path, ...]
    symbols: Mapping[Kernel, Symbol]


def cache_folder() -> Path:
    """Where compiled kernels are kept: EDGEKIT_CACHE or the user's cache folder."""
    chosen = os.environ.get("EDGEKIT_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "edgekit" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgekit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit"


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"the cache folder cannot be written: {error.strerror}", where=str(folder),
                         fix="set EDGEKIT_CACHE to a folder that can be written") from None


@cache
def generation() -> str:
    """Changes with the compiler and with the source of the kernels."""
    digest = hashlib.sha256(metadata.version("apache-tvm").encode())
    sources = [*resources.files("edgekit.exporters.kernels").iterdir(), resources.files("edgekit.exporters.emit") / "compiler.py"]
    for file in sorted((f for f in sources if f.name.endswith(".py")), key=lambda f: f.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def compile_kernels(kernels: Sequence[Kernel], target: Target, prefix: str, work: Path,
                    names: Mapping[Kernel, str] | None = None, progress: Callable[[str], None] = lambda _: None) -> Compiled:
    """Object files in `work` for the kernels, in order, named PREFIX_k0, PREFIX_k1, ...; target: of one level.

    names: the layer a kernel belongs to, for messages. Raises CompilerError when a kernel cannot be compiled or the
    compiler crashes, MissingToolError without the compilers.
    """
    kernels = list(dict.fromkeys(kernels))
    paths = dict(zip(kernels, kernel_assembly([(k, target) for k in kernels], names, progress), strict=True))
    symbols, sources = {}, []
    for number, kernel in enumerate(kernels):
        head, text = paths[kernel].read_text("utf-8").split("\n", 1)
        name = f"{prefix}_k{number}"
        symbols[kernel] = Symbol(name, int(head.split()[-1]))
        source = work / f"k{number}.s"
        source.write_text(only_kernel(text, name), "utf-8")
        sources.append(source)
    return Compiled(assemble(sources, target), symbols)


def kernel_assembly(pairs: Sequence[tuple[Kernel, Target]], names: Mapping[Kernel, str] | None = None,
                    progress: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Files with LLVM's assembly of each kernel for its target, from the cache; one process compiles what is missing."""
    for package in ("apache-tvm", "ziglang"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise MissingToolError(f"exporting needs {package}", fix="pip install 'edgekit-deploy[export]'") from None
    folder = _writable(cache_folder() / "kernels")
    places = [folder / f"{hashlib.sha256(f'{generation()} {t}{k!r}'.encode()).hexdigest()[:40]}.s" for k, t in pairs]
    missing = {place: pair for place, pair in zip(places, pairs, strict=True) if not place.exists()}
    if missing:
        _run_compiler(missing, names or {}, progress)
    return places


def _run_compiler(jobs: Mapping[Path, tuple[Kernel, Target]], names: Mapping[Kernel, str], progress: Callable[[str], None]) -> None:
    kernels, wanted = [k for k, _ in jobs.values()], [t for _, t in jobs.values()]
    here = str(Path(__file__).parents[3])  # a checkout that is not installed
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))}
    child = subprocess.Popen([sys.executable, "-P", "-m", "edgekit.exporters.emit.compiler"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert child.stdin and child.stdout and child.stderr
    log: list[bytes] = []
    reader = threading.Thread(target=lambda pipe=child.stderr: log.append(pipe.read()), daemon=True)
    reader.start()
    try:
        pickle.dump({n: (k, t, str(place)) for n, (place, (k, t)) in enumerate(jobs.items())}, child.stdin)
        child.stdin.close()
        current = None
        for line in child.stdout:
            message = json.loads(line)
            if "start" in message:
                current = message["start"]
                if current % 10 == 0:
                    progress(f"{wanted[current].name}: compiling kernel {current + 1} of {len(kernels)}")
            elif "failed" in message:
                kernel = kernels[message["failed"]]
                raise CompilerError(f"the compiler refused a kernel for {wanted[message['failed']].name}: {message['why']}",
                                    where=names.get(kernel, type(kernel).__name__),
                                    fix="please report this with the model")
            else:
                current = None
        code = child.wait()
        if code != 0 or current is not None:
            reader.join(5)
            tail = b"".join(log).decode("utf-8", "replace").strip().splitlines()[-1:]
            where = names.get(kernels[current], type(kernels[current]).__name__) if current is not None else ""
            raise CompilerError(f"the compiler for {wanted[current or 0].name} ended with code {code}" + (f": {tail[0]}" if tail else ""),
                                where=where, fix="free disk space and memory, or please report this with the model")
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()


# LLVM's half-float helpers come weak into every object; a model's library exports nothing of the kind.
_HELPER = re.compile(r"^\s*\.(weak|globl|weak_definition|weak_def_can_be_hidden|linkonce)\b.*_?_(extendhfsf2|truncsfhf2)\b.*\n", re.MULTILINE)
_COFF_HELPER = re.compile(r"(\.def\s+_*(?:extendhfsf2|truncsfhf2);\s*\.scl\s+)2;")  # storage class 2 is external, 3 is static
_DEBUG = re.compile(r"\s*\.(section\s+(\.debug|__DWARF|\.custom_section\.\.debug)|loc\b|cfi_sections)")
_SECTION = re.compile(r"\s*\.(section|text|data|bss|const|build_version|subsections_via_symbols)\b")


def only_kernel(text: str, name: str) -> str:
    """The assembly with the kernel under its final name, helpers kept local to the object, and no debug information."""
    kept, skipping = [], False
    for line in _COFF_HELPER.sub(r"\g<1>3;", _HELPER.sub("", text)).splitlines():
        if _SECTION.match(line):
            skipping = _DEBUG.match(line) is not None
        if not skipping and not _DEBUG.match(line) and not re.match(r"\s*\.file\s+\d", line):
            kept.append(line)
    return re.sub(rf"\b(_?){SYMBOL}\b", rf"\1{name}", "\n".join(kept)) + "\n"


def assemble(sources: Sequence[Path], target: Target) -> tuple[Path, ...]:
    """Object files beside their sources."""
    from edgekit.exporters.emit.zig import processor, triple, zig
    # These assemblers know no instruction that the processor need not have.
    flags = [f"-mcpu={processor(target)}"] if triple(target).startswith(("aarch64", "wasm32")) else []

    def one(source: Path) -> Path:
        made = source.with_suffix(".o")
        zig("cc", "-target", triple(target), *flags, "-g0", "-c", source, "-o", made)  # -g0: or the path of `work` goes in
        return made
    with ThreadPoolExecutor(max_workers=2) as pool:
        return tuple(pool.map(one, sources))
