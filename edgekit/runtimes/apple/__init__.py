"""The form for Apple's platforms: an XCFramework of static libraries in a Swift package, with a thin class and a test."""
import plistlib

from edgekit.runtimes.embed import Files, Library, Model, about, count, headers, libraries, signature, template, vectors
from edgekit.runtimes.session import Entry, Port

_PLATFORMS = {"iOS": "ios", "Darwin": "macos"}
_VERSIONS = {"iOS": ".iOS(.v15)", "Darwin": ".macOS(.v13)"}
_TYPES = {"float32": "Float", "float64": "Double", "float16": "UInt16", "bool": "UInt8",
          **{f"{u}int{n}": f"{'U' if u else ''}Int{n}" for u in ("", "u") for n in (8, 16, 32, 64)}}


def files(model: Model) -> Files:
    """The framework, the package around it, and the test."""
    found = libraries(model, "apple", "ios-arm64", _PLATFORMS)
    framework, kit = f"{model.name}.xcframework", f"{model.type}Kit"
    slices = {_slice(x): x for x in found}
    return {
        f"{framework}/Info.plist": _plist(model, slices),
        **{f"{framework}/{s}/lib{model.name}.a": x.path for s, x in slices.items()},
        # in a folder of the module, for Xcode copies the headers of all frameworks into one place
        **{f"{framework}/{s}/Headers/{model.type}C/{n}": content for s in slices
           for n, content in (headers(model) | {"module.modulemap": template("apple/module.modulemap", model)}).items()},
        "Package.swift": template("apple/Package.swift", model, platforms=", ".join(_VERSIONS[x.system] for x in found)),
        f"Sources/{kit}/{model.type}.swift": template("apple/Model.swift", model, methods="".join(map(_method, model.entries))),
        f"Sources/{kit}/Resources/weights.bin": model.files.file("weights.bin"),
        f"Tests/{kit}Tests/{model.type}Tests.swift": template(
            "apple/Tests.swift", model, tests="\n".join(_test(model, e) for e in model.entries)),
        **vectors(model, f"Tests/{kit}Tests/vectors"),
        "README.md": template("apple/README.md", model, platforms=", ".join(slices), signatures=signature(
            model, {d: f"[{t}]" for d, t in _TYPES.items()}).replace("\n", "\n    "))}


def _slice(library: Library) -> str:
    """ios-arm64, macos-arm64, macos-x86_64."""
    return f"{_PLATFORMS[library.system]}-{_architecture(library)}"


def _architecture(library: Library) -> str:
    return {"aarch64": "arm64"}.get(library.processor, library.processor)


def _plist(model: Model, slices: dict[str, Library]) -> bytes:
    """Info.plist, as `xcodebuild -create-xcframework` writes it."""
    rows = [{"LibraryIdentifier": s, "LibraryPath": f"lib{model.name}.a", "HeadersPath": "Headers",
             "SupportedArchitectures": [_architecture(x)], "SupportedPlatform": _PLATFORMS[x.system]} for s, x in slices.items()]
    return plistlib.dumps({"AvailableLibraries": rows, "CFBundlePackageType": "XFWK", "XCFrameworkFormatVersion": "1.0"})


def _outputs(entry: Entry) -> str:
    return entry.name[0].upper() + entry.name[1:] + "Outputs"


def _method(entry: Entry) -> str:
    """The struct of an entry's outputs and its method. No port has a name that begins with ek_."""
    fields = "".join(f"        public var {p.name}: [{_TYPES[p.dtype.name]}] = []\n" for p in entry.outputs)
    params = ", ".join(f"{p.name}: [{_TYPES[p.dtype.name]}]" for p in entry.inputs)
    puts = "".join(f"            try Self.put({p.name}, {count(p)}, \"{p.name}\", ek_memory + ek_places[{k}])\n"
                   for k, p in enumerate(entry.inputs))
    gets = "".join(f"            ek_out.{p.name} = Self.get(ek_memory + ek_places[{k}], {count(p)})\n"
                   for k, p in enumerate(entry.outputs))
    shapes = ", ".join(f"{p.name} {about(p)}" for p in (*entry.inputs, *entry.outputs))
    return f"""\
    /// Outputs of `{entry.name}`, row-major.
    public struct {_outputs(entry)} {{
{fields}    }}

    /// {shapes}; row-major.
    public func {entry.name}({params}) throws -> {_outputs(entry)} {{
        var ek_out: {_outputs(entry)} = .init()
        try self.call({entry.symbol}, {_ports(entry.inputs)}, {_ports(entry.outputs)}, {{ ek_memory, ek_places in
{puts or _unused}        }}, {{ ek_memory, ek_places in
{gets or _unused}        }})
        return ek_out
    }}

"""


_unused = "            _ = (ek_memory, ek_places)\n"


def _ports(ports: tuple[Port, ...]) -> str:
    return "[" + ", ".join(f'.init(name: "{p.name}", bytes: {p.nbytes}, dtype: EK_{p.dtype.name.upper()})' for p in ports) + "]"


def _test(model: Model, entry: Entry) -> str:
    """The test of an entry's cases."""
    given = ", ".join(f"{p.name}: ek_vectors.take({count(p)})" for p in entry.inputs)
    checks = "".join(f"            let ek_{k}: [{_TYPES[p.dtype.name]}] = try ek_vectors.take({count(p)})\n"
                     f"            ek_found[{k}].{_comparison(p, f'ek_out.{p.name}', f'ek_{k}')}\n" for k, p in enumerate(entry.outputs))
    asserts = "".join(f'        XCTAssertTrue(ek_found[{k}].ok, "{p.name}: \\(ek_found[{k}].error) off (largest value \\(ek_found[{k}].largest))")\n'
                      for k, p in enumerate(entry.outputs))
    return f"""\
    func test_{entry.name}() throws {{
        let ek_model = try {model.type}()
        var ek_vectors = try Vectors("{entry.name}")
        var ek_found = [Comparison](repeating: Comparison(), count: {len(entry.outputs)})
        for _ in 0..<{model.cases[entry.name]} {{
            let ek_out = try ek_model.{entry.name}({given})
{checks}        }}
        XCTAssertEqual(ek_vectors.at, ek_vectors.data.count)
{asserts}    }}
"""


def _comparison(port: Port, got: str, expected: str) -> str:
    if port.dtype.name == "float16":
        return f"add({got}.map(half), {expected}.map(half))"
    if port.dtype.kind == "f":
        return f"add({got}.map({{ Double($0) }}), {expected}.map({{ Double($0) }}))"
    return f"exactly({got}, {expected})"
