"""The form for C and C++ projects: a folder laid out like an install prefix, with an imported target and a self-test."""
from edgekit.runtimes.abi.names import C_TYPES
from edgekit.runtimes.embed import (
    Files,
    Library,
    Model,
    c_entries,
    count,
    headers,
    libraries,
    signature,
    template,
    vectors,
)
from edgekit.runtimes.session import Entry, Port

SYSTEMS = ("Linux", "Android", "Darwin", "iOS", "Windows")
_PROCESSORS = {"x86_64": "(x86_64|amd64)", "aarch64": "(aarch64|arm64)"}


def files(model: Model) -> Files:
    """CMakeLists.txt, the prefix (include, lib, share), the self-test and its vectors."""
    found = libraries(model, "cmake", "host", SYSTEMS)
    return {**prefix(model, found), **vectors(model, "test/vectors"),
            f"include/{model.name}/{model.name}_entries.h": c_entries(model),
            "CMakeLists.txt": template("cmake/CMakeLists.txt", model),
            "test/selftest.c": template("cmake/selftest.c", model),
            "README.md": template("cmake/README.md", model, choices=choices(found),
                                  signatures=signature(model, C_TYPES).replace("\n", "\n    "))}


def prefix(model: Model, found: list[Library]) -> Files:
    """What is installed: headers of C and C++, libraries, weights, and what find_package wants."""
    name = model.name
    package = f"lib/cmake/{name}/{name}Config.cmake"
    return {**{f"include/{name}/{n}": content for n, content in headers(model).items()},
            f"include/{name}/{name}.hpp": cplusplus(model),
            f"include/{name}/ek_threads.h": model.files.file("include/ek_threads.h"),
            f"share/{name}/ek_threads.c": model.files.file("src/ek_threads.c"),
            f"share/{name}/weights.bin": model.files.file("weights.bin"),
            **{f"lib/{name}/{x.target}/lib{name}.a": x.path for x in found},
            package: template("cmake/Config.cmake", model, choices=choices(found), platforms=_platforms(name, found))}


def choices(found: list[Library]) -> str:
    """The libraries, in words."""
    return ", ".join(f"{x.target} ({x.system} {x.processor})" for x in found)


def _platforms(name: str, found: list[Library]) -> str:
    """CMake code that chooses by platform. iOS projects do not always name a processor, and there is one alone."""
    tests = [f'"^{x.system.lower()} ' + ("" if x.system == "iOS" else _PROCESSORS[x.processor] + "$") + '"' for x in found]
    return "".join(f"  {'else' * (k > 0)}if(_{name}_platform MATCHES {test})\n    set(_{name}_library \"{x.target}\")\n"
                   for k, (x, test) in enumerate(zip(found, tests))) + "  endif()\n"


# --- the class for C++ --------------------------------------------------------------------------------------------


def cplusplus(model: Model) -> bytes:
    """NAME.hpp: a class that owns its memory, with a method and a struct of outputs an entry."""
    structs = "".join(f"/// Outputs of {e.name}, row-major.\nstruct outputs_of_{e.name}_t {{\n"
                      + "".join(f"    std::vector<{c_type(p)}> {p.name}; // [{_shape(p)}]\n" for p in e.outputs) + "};\n\n"
                      for e in model.entries)
    return template("cmake/model.hpp", model, structs=structs, methods="".join(map(_methods, model.entries)))


def c_type(port: Port) -> str:
    """The C++ type of an element."""
    found = C_TYPES[port.dtype.name]
    return f"std::{found}" if found.endswith("_t") else found


def _methods(entry: Entry) -> str:
    """Two methods: into a struct that may be used again, and a new struct. No port has a name that begins with ek_."""
    params = "".join(f"const std::vector<{c_type(p)}> &{p.name}, " for p in entry.inputs)
    sizes = "".join(f"        ek_out.{p.name}.resize({count(p)});\n" for p in entry.outputs)
    views = [[_view(p, p.name) for p in entry.inputs], [_view(p, f"ek_out.{p.name}") for p in entry.outputs]]
    tables = "".join(f"        const ek_view ek_{kind}[] = {{{', '.join(some)}}};\n"
                     for kind, some in (("given", views[0]), ("made", views[1])) if some)
    given, made = ("ek_given" if views[0] else "nullptr"), ("ek_made" if views[1] else "nullptr")
    shapes = "".join(f" {p.name}[{_shape(p)}]" for p in entry.inputs) or " nothing"
    return f"""\
    /// {entry.name}:{shapes}, row-major. Allocates nothing where ek_out comes from an earlier call.
    void {entry.name}({params}outputs_of_{entry.name}_t &ek_out)
    {{
{sizes}{tables}        check({entry.symbol}(model_.get(), {given}, {len(views[0])}, {made}, {len(views[1])}));
    }}

    outputs_of_{entry.name}_t {entry.name}({params.removesuffix(", ")})
    {{
        outputs_of_{entry.name}_t ek_out;
        {entry.name}({''.join(f'{p.name}, ' for p in entry.inputs)}ek_out);
        return ek_out;
    }}

"""


def _view(port: Port, data: str) -> str:
    return f'view({data}, {count(port)}, EK_{port.dtype.name.upper()}, "{port.name}")'


def _shape(port: Port) -> str:
    return ", ".join(map(str, port.shape))
