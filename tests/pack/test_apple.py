"""The Apple form without Apple's tools: its structure, the property list, the slices, the C module, names in Swift."""
import plistlib
import re
import struct
from pathlib import Path

import pytest

from edgekit.errors import CompilerError
from edgekit.exporters.emit.zig import zig
from edgekit.pack import pack
from edgekit.runtimes.abi import symbols
from tests.pack.test_pack import change

CPU_ARM64 = 0x0100000C
PLATFORMS = {"macos": 1, "ios": 2}  # of LC_BUILD_VERSION


@pytest.fixture
def packed(either, tmp_path) -> Path:
    pack(either, "apple", tmp_path / "packed")
    return tmp_path / "packed"


def mach_o(data: bytes) -> tuple[int, int]:
    """(cputype, platform) of a Mach-O object; see <mach-o/loader.h>."""
    magic, cpu, _, _, commands = struct.unpack_from("<IIIII", data)
    assert magic == 0xFEEDFACF
    at, platform = 32, 0
    for _ in range(commands):
        kind, size, value = struct.unpack_from("<III", data, at)
        platform = value if kind == 0x32 else platform
        at += size
    return cpu, platform


def test_the_framework(packed):
    (framework,) = packed.glob("*.xcframework")
    listed = plistlib.loads((framework / "Info.plist").read_bytes())
    assert listed["CFBundlePackageType"] == "XFWK" and listed["XCFrameworkFormatVersion"] == "1.0"
    assert {x["LibraryIdentifier"] for x in listed["AvailableLibraries"]} == {"ios-arm64", "macos-arm64"}
    assert {p.name for p in framework.iterdir()} == {"Info.plist", "ios-arm64", "macos-arm64"}
    for found in listed["AvailableLibraries"]:
        folder = framework / found["LibraryIdentifier"]
        assert found["SupportedArchitectures"] == ["arm64"] and found["LibraryPath"] == f"lib{framework.stem}.a"
        objects = list(symbols.members((folder / found["LibraryPath"]).read_bytes()))
        assert objects and {mach_o(o) for o in objects} == {(CPU_ARM64, PLATFORMS[found["SupportedPlatform"]])}
        (module,) = (folder / found["HeadersPath"]).iterdir()
        assert {p.name for p in module.iterdir()} == {f"{framework.stem}.h", "edgekit.h", "module.modulemap"}


@pytest.mark.parametrize("slice_", ["ios-arm64", "macos-arm64"])
def test_the_c_module(packed, tmp_path, slice_):
    """Clang finds the module where Xcode puts it and takes its functions from there."""
    (framework,) = packed.glob("*.xcframework")
    headers = framework / slice_ / "Headers"
    (module,) = headers.iterdir()
    (tmp_path / "app.m").write_text(f"@import {module.name};\nint main(void) {{ return {framework.stem}_init(0, 0, 0, 0, 0, 0) != EK_NULL; }}\n")
    zig("cc", "-fmodules", f"-fmodules-cache-path={tmp_path / 'modules'}", f"-I{headers}", "-c", tmp_path / "app.m", "-o", tmp_path / "app.o")
    (tmp_path / "wrong.m").write_text((tmp_path / "app.m").read_text().replace(module.name, "Nothing"))
    with pytest.raises(CompilerError, match="Nothing"):
        zig("cc", "-fmodules", f"-fmodules-cache-path={tmp_path / 'modules'}", f"-I{headers}", "-c", tmp_path / "wrong.m", "-o", tmp_path / "app.o")


def test_the_swift_package(packed, either):
    """What Package.swift names is there; brackets match; every entry has its method and its test."""
    manifest = (packed / "Package.swift").read_text()
    (framework,) = re.findall(r'path: "([^"]+)"', manifest)
    assert (packed / framework / "Info.plist").is_file()
    (kit,) = set(re.findall(r'\.target\(name: "(\w+)"', manifest))
    (source,) = (packed / "Sources" / kit).glob("*.swift")
    (test,) = (packed / "Tests" / f"{kit}Tests").glob("*.swift")
    assert (packed / "Sources" / kit / "Resources" / "weights.bin").is_file() and kit == source.stem + "Kit"
    text, tests = source.read_text(), test.read_text()
    (module,) = (packed / framework / "ios-arm64" / "Headers").iterdir()
    assert f"\nimport {module.name}\n" in text and f"@testable import {kit}\n" in tests
    entries = sorted(p.stem for p in (packed / "Tests" / f"{kit}Tests" / "vectors").iterdir())
    assert sorted(re.findall(r"public func (run\w*)\(", text)) == sorted(re.findall(r"func test_(\w+)\(", tests)) == entries
    for code in (manifest, text, tests):
        plain = re.sub(r'//.*|"(\\.|[^"\\])*"', "", code)
        for a, b in ("()", "{}", "[]"):
            assert plain.count(a) == plain.count(b)


def test_a_method_in_full(plain, tmp_path):
    pack(plain, "apple", tmp_path / "packed")
    text = (tmp_path / "packed/Sources/TinyModelKit/TinyModel.swift").read_text()
    assert """
    public func run_in(x: [Float]) throws -> Run_inOutputs {
        var ek_out: Run_inOutputs = .init()
        try self.call(tiny_run_in, [.init(name: "x", bytes: 16, dtype: EK_FLOAT32)], [.init(name: "x_2", bytes: 16, dtype: EK_FLOAT32)], { ek_memory, ek_places in
            try Self.put(x, 4, "x", ek_memory + ek_places[0])
        }, { ek_memory, ek_places in
            ek_out.x_2 = Self.get(ek_memory + ek_places[0], 4)
        })
        return ek_out
    }
""" in text


def test_one_slice_alone(plain, tmp_path):
    from edgekit.runtimes.abi import bundle
    about = bundle.read(plain).manifest["targets"]
    gone = {n: None for n in bundle.read(plain).manifest["files"] if n.startswith("ios-arm64/")}
    mac = change(plain, tmp_path / "mac.ekb", gone, targets={"macos-arm64": about["macos-arm64"]})
    pack(mac, "apple", tmp_path / "packed")
    manifest = (tmp_path / "packed" / "Package.swift").read_text()
    assert "platforms: [.macOS(.v13)]" in manifest and not (tmp_path / "packed/tiny.xcframework/ios-arm64").exists()
