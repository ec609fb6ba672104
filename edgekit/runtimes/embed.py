"""What all forms of `edgekit pack` share: the model with harmless names, its libraries by platform, and templates.

A form (cmake, web, android, apple, ros2) is a folder of templates, `*.in`, and a function `files(model)` that gives every
file of the package: its path -> its content, or the file to copy.
"""
import math
import re
import shlex
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from edgekit import targets
from edgekit.errors import BundleError, InputError
from edgekit.runtimes.abi import names, symbols
from edgekit.runtimes.abi.bundle import BundleFiles
from edgekit.runtimes.session import Entry, Port, entries, prefix
from edgekit.targets import Target

Files = dict[str, Path | bytes]
_MACHINES = {62: "x86_64", 183: "aarch64",                   # e_machine of ELF
             0x01000007: "x86_64", 0x0100000C: "aarch64",    # cputype of Mach-O
             0x8664: "x86_64", 0xAA64: "aarch64"}            # Machine of COFF

_WORDS = """
abstract Any arguments as associatedtype await boolean byte debugger defer deinit eval extends fallthrough fileprivate
final finally fun func function guard implements import in init inout instanceof interface internal is let native nil null
object of open package precedencegroup protocol Protocol record repeat rethrows self Self strictfp subscript super
synchronized throws transient Type typealias val var when where with yield
"""
WORDS = frozenset(_WORDS.split())  # of Java, JavaScript, Kotlin and Swift, and not of C: no parameter and no package is called so


@dataclass(frozen=True)
class Model:
    """A bundle to embed. All its names are identifiers in every language here.

    name: its C name. entries: the first is called `run`, a further one `run_ENTRY`, as in C; so are their ports. vectors:
    by entry, case after case, each the inputs and then the expected outputs, as the C interface takes them. cases: how
    many. Cases run in order from a reset. path: of the bundle, for messages.
    """

    path: str
    name: str
    entries: tuple[Entry, ...]
    vectors: Mapping[str, bytes]
    cases: Mapping[str, int]
    files: BundleFiles

    @property
    def type(self) -> str:
        """The name of its class in languages where classes begin with a capital."""
        return "".join(w[0].upper() + w[1:] for w in self.name.removesuffix("model").split("_") if w) + "Model"


@dataclass(frozen=True)
class Library:
    """A static library of the bundle and where it links: `system` as CMake names it, `processor` x86_64 or aarch64."""

    target: str
    system: str
    processor: str
    path: Path


def make(path: str, files: BundleFiles, vectors: Callable[[str], tuple[bytes, int]]) -> Model:
    """The model of a bundle. vectors: from the manifest's name of an entry to its bytes and the number of its cases."""
    name = prefix(files.manifest)
    known = entries(files.manifest)
    safe = tuple(_harmless(e, name) for e in known.values())
    found = [vectors(raw) for raw in known]
    return Model(path, name, safe, {e.name: v[0] for e, v in zip(safe, found)}, {e.name: v[1] for e, v in zip(safe, found)}, files)


def _harmless(entry: Entry, model: str) -> Entry:
    """The entry with identifiers as names, those of NAME.h; two of its ports never share one."""
    ports = [*entry.inputs, *entry.outputs]
    called = names.parameter_names([p.name for p in ports], model)
    named = tuple(replace(p, name=n + "_" if n in WORDS else n) for p, n in zip(ports, called))
    n = len(entry.inputs)
    return Entry(entry.symbol.removeprefix(model + "_"), entry.index, entry.symbol, named[:n], named[n:])


def headers(model: Model) -> Files:
    """The C interface: by file name."""
    return {n: model.files.file(f"include/{n}") for n in (f"{model.name}.h", "edgekit.h")}


def vectors(model: Model, folder: str) -> Files:
    """The test vectors: one file an entry, ENTRY.bin."""
    return {f"{folder}/{e}.bin": content for e, content in model.vectors.items()}


# --- code by platform ---------------------------------------------------------------------------------------------


def libraries(model: Model, form: str, wanted: str, systems: Iterable[str]) -> list[Library]:
    """Static libraries for these systems, one a platform: that of a named target before that of `host`, which is tuned to
    one machine. BundleError, with the command that mends it, where there are none."""
    found: dict[tuple[str, str], Library] = {}
    for target in _known(model):
        if not target.static or target.triple.startswith("wasm"):
            continue
        name = f"{target.name}/{target.static.format(name=model.name)}"
        if name not in model.files.manifest["files"]:
            continue
        path = model.files.file(name)
        system, processor = _platform(target, path)
        if system in systems:
            found.setdefault((system, processor), Library(target.name, system, processor, path))
    if not found:
        raise lacking(model, form, wanted)
    return list(found.values())


def loadables(model: Model) -> Iterator[tuple[Target, Path]]:
    """The loadable libraries of the bundle, with their targets."""
    for target in _known(model):
        name = f"{target.name}/{names.library_names(target, model.name)[0]}"
        if name in model.files.manifest["files"]:
            yield target, model.files.file(name)


def lacking(model: Model, form: str, wanted: str) -> BundleError:
    """The error for a bundle without code for a form; wanted: the target that it needs."""
    kept = [t for t in model.files.manifest["targets"] if t in targets.names()]
    chosen = " ".join(f"-t {t}" for t in dict.fromkeys([*kept, wanted]))
    return BundleError(f"{form} needs code that the bundle does not have (it has: {', '.join(kept) or 'none'})",
                       where=model.path, fix=f"edgekit export MODEL -o {shlex.quote(model.path)} --overwrite {chosen}")


def _known(model: Model) -> list[Target]:
    """The bundle's targets that this edgekit knows, `host` last."""
    found = []
    for name in sorted(model.files.manifest["targets"], key=lambda t: (t == "host", t)):
        try:
            found.append(targets.load(name))
        except InputError:
            continue
    return found


def _platform(target: Target, library: Path) -> tuple[str, str]:
    """(system, processor) of a target; what `host` was, the code itself tells."""
    if target.name == "host":
        return _compiled_for(library.read_bytes())
    system = next((s for word, s in (("android", "Android"), ("linux", "Linux"), ("ios", "iOS"), ("macos", "Darwin"),
                                     ("windows", "Windows")) if word in target.triple), "")
    arch = target.triple.split("-")[0]
    return system, {"arm64": "aarch64"}.get(arch, arch)


def _compiled_for(library: bytes) -> tuple[str, str]:
    """(system, processor) of the first object of a static library, ("", "") where that is not known."""
    try:
        first = next(symbols.members(library), b"")
        if first[:4] == b"\x7fELF":
            return "Linux", _MACHINES[struct.unpack_from("<H", first, 18)[0]]
        if first[:4] == b"\xcf\xfa\xed\xfe":
            return "Darwin", _MACHINES[struct.unpack_from("<I", first, 4)[0]]
        return "Windows", _MACHINES[struct.unpack_from("<H", first)[0]]
    except (KeyError, ValueError, struct.error):
        return "", ""


# --- text ---------------------------------------------------------------------------------------------------------


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with each {{KEY}} replaced by its value, once: values are not looked into. KeyError for a missing value."""
    return re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], text)


def template(name: str, model: Model, **values: str) -> bytes:
    """A template of a form, `FORM/FILE`, filled with the names of the model and these values."""
    form, _, file = name.partition("/")
    text = resources.files("edgekit.runtimes").joinpath(form, f"{file}.in").read_text("utf-8")
    common = {"name": model.name, "NAME": model.name.upper(), "Name": model.type,
              "tolerance": f"{model.files.manifest.get('tolerance', 1e-4):g}"}
    return fill(text, common | values).encode()


def licence(model: Model) -> str:
    """The model's licence where the manifest has something like an SPDX name, else ""."""
    found = model.files.manifest.get("license")
    return found if isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9.+-]{1,40}", found) else ""


def about(port: Port) -> str:
    """dtype and shape of a port, for a comment."""
    bits = " (bits)" if port.dtype.name == "float16" else ""
    return f"{port.dtype.name}[{', '.join(map(str, port.shape))}]{bits}"


def signature(model: Model, types: Mapping[str, str]) -> str:
    """One line an entry, `run(x: TYPE[3]) -> y: TYPE[3]`, for a README; types: by dtype."""
    def ports(some: tuple[Port, ...]) -> str:
        return ", ".join(f"{p.name}: {types[p.dtype.name]}[{count(p)}]" for p in some)
    return "\n".join(f"{e.name}({ports(e.inputs)}) -> {ports(e.outputs)}" for e in model.entries)


def count(port: Port) -> int:
    """Elements of a port."""
    return math.prod(port.shape)


def c_entries(model: Model) -> bytes:
    """NAME_entries.h: the entries as a table, for C code that handles any of them."""
    tables, rows = [], []
    for e in model.entries:
        for kind, ports in (("in", e.inputs), ("out", e.outputs)):
            lines = [f'    {{"{p.name}", {p.nbytes}u, {p.dtype.itemsize}u, EK_{p.dtype.name.upper()}}},\n' for p in ports]
            if lines:
                tables.append(f"static const {model.name}_port {model.name}_{kind}_{e.index}[] = {{\n{''.join(lines)}}};\n")
        ins, outs = (f"{model.name}_{kind}_{e.index}" if ports else "NULL"
                     for kind, ports in (("in", e.inputs), ("out", e.outputs)))
        rows.append(f'    {{"{e.name}", {e.symbol}, {ins}, {outs}, {len(e.inputs)}, {len(e.outputs)}, {model.cases[e.name]}}},\n')
    most = max(len(e.inputs) + len(e.outputs) for e in model.entries)
    size = max(sum(-(-p.nbytes // 64) * 64 for p in (*e.inputs, *e.outputs)) for e in model.entries)
    return template("cmake/entries.h", model, tables="".join(tables), rows="".join(rows), ports=str(most), bytes=str(size))

