"""C glue and libraries of one target, compiled and linked by zig: freestanding, for any target from any host."""
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from edgekit.errors import UnsupportedError
from edgekit.exporters.emit import c_source
from edgekit.exporters.emit.compile import Compiled
from edgekit.exporters.emit.cpu import cpu_features
from edgekit.exporters.emit.zig import processor, triple, zig
from edgekit.exporters.lower.plan import Plan
from edgekit.runtimes.abi.names import library_names, model_name, module_names
from edgekit.targets import Target

_STACK_BYTES = 1 << 20  # of the wasm module
_WASM_BYTES = (1 << 32) - (16 << 20)  # for arena and weights
_SOURCES = ("edgekit.h", "ek_runtime.h", "ek_crc32c.h", "ek_memory.c", "ek_threads.h", "ek_threads.c")
# Nothing but the code itself: no libc, no start-up code, no stack protector, no debug information.
_FREESTANDING = ["-std=c11", "-O2", "-g0", "-ffreestanding", "-fno-stack-protector", "-fno-sanitize=all",
                 "-fno-asynchronous-unwind-tables", "-Wall", "-Wextra", "-Werror"]


def emit_target(plan: Plan, compiled: Sequence[Compiled], target: Target, out_dir: Path) -> None:
    """Writes OUT/include/{NAME.h, edgekit.h, ek_threads.h}, OUT/src/ek_threads.c and the libraries in OUT/TARGET.

    compiled: the kernels of every level of the target, which one library holds; WebAssembly, which refuses a module with
    one instruction that it does not know, gets a module a level, and the last level as static library. For the host
    also the thread pool as a library of its own, for drivers that have no C compiler. Calls for several targets may
    share OUT, at the same time too. Raises CompilerError when the C compiler or a linker refuses,
    MissingToolError without zig, UnsupportedError where the target cannot address the model's memory.
    """
    if target.triple.startswith("wasm32") and plan.arena_bytes + plan.weights_bytes > _WASM_BYTES:
        raise UnsupportedError(f"the model needs {(plan.arena_bytes + plan.weights_bytes) / 2**30:.1f} GiB of memory, "
                               f"WebAssembly has less than {_WASM_BYTES / 2**30:.0f}", where=target.name, fix="use smaller shapes or another target")
    name = model_name(plan.name)
    shared, static = library_names(target, name)
    abi = resources.files("edgekit.runtimes.abi")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as temporary:
        work = Path(temporary)
        for file in _SOURCES:
            (work / file).write_bytes(abi.joinpath(file).read_bytes())
        (work / f"{name}.h").write_text(c_source.header(plan), "utf-8", newline="\n")
        exported, alone = c_source.api_symbols(plan), [compile_c(work / "ek_memory.c", target)]  # what links to nothing else
        if target.triple.startswith("wasm32"):
            alone.append(_compile_workers(work / "ek_threads.c", target, name))
            exported += [f"{name}_pool", f"{name}_work", "__stack_pointer", "__heap_base"]
        objects: list[Path] = []
        loadable = _libraries(target, name, compiled)
        for file, levels in loadable:
            known = [c_source.Level(some.symbols, cpu_features(level)) for level, some in levels]
            (work / f"{name}.c").write_text(c_source.source(plan, known), "utf-8")
            objects = [*(o for _, some in levels for o in some.objects), compile_c(work / f"{name}.c", levels[0][0])]
            if file:
                link_shared([*objects, *alone], target, exported, work / file)
        if static:
            archive(objects, work / static)
        pool = library_names(target, "ek_threads")[0] if target.runner == "host" else ""
        if pool:
            _link_threads(work / "ek_threads.c", target, work / pool)
        import_library = f"{name}.lib" if shared.endswith(".dll") else ""
        for folder, files in (("include", (f"{name}.h", "edgekit.h", "ek_threads.h")), ("src", ("ek_threads.c",)),
                              (target.name, (static, *(file for file, _ in loadable), import_library, pool))):
            (out_dir / folder).mkdir(parents=True, exist_ok=True)
            for file in filter(None, files):
                _place(work / file, out_dir / folder / file)


def _libraries(target: Target, name: str, compiled: Sequence[Compiled]) -> list[tuple[str, list[tuple[Target, Compiled]]]]:
    """The loadable libraries, the plain one last: (file name, the levels in it)."""
    levels = list(zip(target.levels, compiled, strict=True))
    modules = module_names(target, name)
    return [(modules[t.level], [(t, c)]) for t, c in levels] if modules else [(library_names(target, name)[0], levels)]


def _place(source: Path, target: Path) -> None:
    """Copies a file so that nobody ever sees a part of it."""
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent.parent) as aside:
        shutil.copy(source, Path(aside, target.name))
        os.replace(Path(aside, target.name), target)


def compile_c(source: Path, target: Target) -> Path:
    """The object of a freestanding C file, beside it; its headers lie there too.

    It is compiled for the oldest x86 and ARM processors, so that `init` can say EK_CPU on any.
    """
    flags, on, made = list(_FREESTANDING), triple(target), source.with_suffix(".o")
    flags.append(f"-mcpu={processor(target)}" if on.startswith("wasm32") else "-mcpu=baseline")
    if on == "aarch64-linux-android":  # for which clang calls libgcc's atomics; the ABIs differ in x18, which Android reserves
        on = "aarch64-linux-gnu"
        flags.append("-ffixed-x18")
    if not on.startswith("wasm32") and "windows" not in on:
        flags.append("-fPIC")
    if source.name == "ek_memory.c":
        flags.append("-fno-builtin")  # or memcpy's loop becomes a call of memcpy
    zig("cc", "-target", on, *flags, "-c", source, "-o", made, cwd=source.parent)
    return made


def archive(objects: list[Path], made: Path) -> None:
    """A static library with its symbol table; the same bytes every time."""
    zig("ar", "rcsD", made, *objects)


def link_shared(objects: list[Path], target: Target, exported: list[str], made: Path) -> None:
    """The loadable library: only `exported` can be seen from outside, nothing is left undefined."""
    on, work = triple(target), made.parent
    if on.startswith("wasm32"):
        zig("wasm-ld", "--no-entry", "--stack-first", "-z", f"stack-size={_STACK_BYTES}", "--strip-all",
            *[f"--export={s}" for s in exported], "-o", made, *objects)
        return
    command = ["cc", "-target", on, "-shared", "-nostdlib", "-s", *target.link]
    if "windows" in on:
        names = work / "exports.def"
        names.write_text("EXPORTS\n" + "".join(f"    {s}\n" for s in exported), "utf-8")
        command += ["-lcompiler_rt", f"-Wl,--out-implib={made.with_suffix('.lib')}", str(names)]  # ___chkstk_ms
    elif "macos" in on:  # zig's linker for it has no list of exports: the kernels, which have the prefix, show too
        command.append(f"-Wl,-install_name,@rpath/{made.name}")
    else:
        names = work / "exports.map"
        names.write_text("{ global: " + " ".join(f"{s};" for s in exported) + " local: *; };\n", "utf-8")
        command += [f"-Wl,--version-script={names}", "-Wl,-z,defs", f"-Wl,-soname,{made.name}"]
    zig(*command, *objects, "-o", made, cwd=work)


def _compile_workers(source: Path, target: Target, name: str) -> Path:
    """The object of ek_threads for a module whose threads are workers: NAME_pool and NAME_work.

    An engine that takes simd128 takes atomic instructions too, whether memory is shared or not.
    """
    made = source.with_suffix(".o")
    zig("cc", "-target", triple(target), f"-mcpu={processor(target)}+atomics", *_FREESTANDING, "-DEK_WORKERS",
        f"-DEK_WORKERS_POOL={name}_pool", f"-DEK_WORKERS_WORK={name}_work", "-c", source, "-o", made, cwd=source.parent)
    return made


def _link_threads(source: Path, target: Target, made: Path) -> None:
    """ek_threads as a library, with the system's libc."""
    zig("cc", "-target", triple(target), "-mcpu=baseline", "-shared", "-std=c11", "-O2", "-g0", "-fPIC", "-s",
        "-fno-sanitize=all", "-fvisibility=hidden", source, "-o", made, cwd=source.parent)
