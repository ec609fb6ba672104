"""NAME.h, NAME.c and weights.bin as text and bytes: names from anywhere, order of updates, identity, checksums."""
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import targets
from edgekit.errors import InputError, UnsupportedError
from edgekit.exporters.emit import c_source
from edgekit.exporters.emit.compile import Symbol
from edgekit.exporters.emit.cpu import cpu_features, cpuid_bits, register_state
from edgekit.exporters.emit.weights import pack_weights, payload_bytes, plan_id, saved_state_bytes
from edgekit.exporters.emit.zig import zig
from edgekit.exporters.lower.plan import Port
from edgekit.runtimes.abi.crc32c import crc32c
from edgekit.runtimes.abi.names import entry_names, model_name, parameter_names
from tests.emit import tiny

ODD = st.text(max_size=20) | st.sampled_from([
    "", "int", "class", "a b", "a-b", "7seas", "ek_run", "EK_OK", "Ünï", "模型", "*/ #error", "x\\\nint y;", "??/", "m",
    "in", "NULL", "string", "ek", "size_t", "linux", "main", "printf", "tiny", "tiny_run", "x" * 100, "_", "__x", "a..b", "I", "\0",
    "model.1/conv"])


@pytest.mark.parametrize("given_name, expected", [
    ("forecaster", "forecaster"), ("Mobile Net-v1", "Mobile_Net_v1"), ("7seas", "model_7seas"), ("int", "int_model"),
    ("printf", "printf_model"), ("ek_status", "model_ek_status"), ("Réseau", "Reseau"), ("模型", "model"),
    ("", "model"), ("__a__b__", "a_b"), ("uint8_t", "uint8_t_model"), ("class", "class_model"),
    ("edgekit", "edgekit_model"), ("String", "String_model"), ("con", "con_model"), ("ek", "model_ek"), ("EK", "model_EK"),
    ("eko", "eko")])
def test_model_names(given_name, expected):
    assert model_name(given_name) == expected


def test_entry_and_parameter_names():
    assert entry_names(["encode", "decode", "de code", "de-code"]) == {
        "encode": "", "decode": "_decode", "de code": "_de_code", "de-code": "_de_code_2"}
    assert parameter_names(["x", "x", "m", "int", "float", "size_t", "ek_in", "net_run", "X"], "net") == [
        "x", "x_2", "m_", "int_", "float_", "size_t_", "p_ek_in", "net_run_", "X"]


@given(st.lists(ODD, min_size=1, max_size=8))
def test_names_are_distinct_identifiers(names):
    parameters = parameter_names(names, "net")
    assert len(set(parameters)) == len(names)
    assert all(n.isidentifier() and n.isascii() for n in [*parameters, *map(model_name, names)])
    different = list(dict.fromkeys(names))
    assert len(set(entry_names(different).values())) == len(different)


@settings(max_examples=15, deadline=None)
@given(name=ODD, entries=st.lists(ODD, min_size=3, max_size=3, unique=True),
       ports=st.lists(ODD, min_size=6, max_size=6))
def test_any_names_compile_cleanly(tmp_path_factory, name, entries, ports):
    """Whatever a model, its entries and its inputs are called: clean C99 and C++ among the common headers."""
    folder = tmp_path_factory.mktemp("names")
    plan = tiny.plan(name)

    def renamed(entry, new):
        inputs = tuple(replace(p, name=n) for p, n in zip(entry.inputs, ports))
        outputs = tuple(replace(p, name=n) for p, n in zip(entry.outputs, ports[3:]))
        return replace(entry, name=new, inputs=inputs, outputs=outputs)
    plan = replace(plan, entries=tuple(map(renamed, plan.entries, entries)))
    c_name = model_name(name)
    kernels = {k: Symbol(f"{c_name}_k{i}", u) for i, (k, u) in enumerate(tiny.UNITS.items())}
    (folder / f"{c_name}.h").write_text(c_source.header(plan))
    (folder / "source.c").write_text(c_source.source(plan, [c_source.Level(kernels)]))
    common = "".join(f"#include <{h}.h>\n" for h in ("math", "stdio", "stdlib", "string", "time", "unistd"))
    (folder / "app.c").write_text(f'{common}#include "{c_name}.h"\n'
                                  f"int main(void) {{ static {c_name} m; return {c_name}_reset(&m); }}\n")
    abi = f"-I{tiny.ABI}"
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    zig("cc", "-std=c99", *strict, abi, "-c", folder / "app.c", "-o", folder / "app.o")
    zig("cc", "-x", "c++", "-nostdinc++", *strict, abi, "-c", folder / "app.c", "-o", folder / "app.o")
    zig("cc", "-std=c11", "-ffreestanding", *strict, abi, "-c", folder / "source.c", "-o", folder / "source.o")


def test_the_header_says_what_a_reader_needs():
    text = c_source.header(tiny.plan())
    for line in ("#define TINY_ARENA_BYTES 131456u", "#define TINY_WEIGHTS_BYTES 256u", "#define TINY_STATE_BYTES 56u",
                 " * in  1  count: int64 scalar", " * out 0  y: float32 [4]", " *   h: float32 [4]",
                 "const uint8_t flag[2],", "float y[64 * 256])"):
        assert line in text, line
    assert "evil" not in text.replace("/mul __ evil_", "")


def test_an_unknown_dtype_is_an_error():
    plan = tiny.plan()
    entry = replace(plan.entries[2], inputs=(Port("x", "complex64", (2,), "x"),))
    with pytest.raises(UnsupportedError, match="complex64"):
        c_source.header(replace(plan, entries=(entry,)))


@given(st.permutations(range(4)), st.integers(0, 4))
def test_updates_never_read_what_is_already_overwritten(order, links):
    """h0 <- h1 <- h2 ... <- y in any order gives what doing all at once gives."""
    plan = tiny.plan()
    names = ["h0", "h1", "h2", "h3", "y"]
    sources = [names[k + 1] if k < links else "y" for k in range(4)]
    updates = tuple((names[k], sources[k]) for k in order)
    base = plan.buffers(plan.entries[0])["x"]
    buffers = {n: replace(base, name=n) for n in names}
    ordered = c_source._ordered_updates(replace(plan.entries[0], updates=updates), buffers)
    values, wanted = {n: n for n in names}, {n: s for n, s in updates}
    for to, source in ordered:
        values[to.name] = values[source.name]
    assert values == {"y": "y", **wanted}


def test_states_that_swap_are_refused_and_that_stay_are_left():
    plan = tiny.plan()
    buffers = plan.buffers(plan.entries[0])
    with pytest.raises(UnsupportedError, match="exchange"):
        c_source._ordered_updates(replace(plan.entries[0], updates=(("h", "x"), ("x", "h"))), buffers)
    assert c_source._ordered_updates(replace(plan.entries[0], updates=(("h", "h"),)), buffers) == []


# --- weights.bin


def test_crc32c_of_the_rfc():
    """RFC 3720, B.4, and the check value of the catalogues."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 70_000), st.integers(0, 2**32 - 1))
def test_crc32c_of_any_length(size, seed):
    data = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    crc = 0xFFFFFFFF
    for byte in data.tolist():  # the definition, bit by bit
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data.tobytes()) == crc32c(bytearray(data)) == crc ^ 0xFFFFFFFF


def test_weights_byte_by_byte():
    data = tiny.weights()
    magic, version, header, size, plan, crc = struct.unpack_from("<8sIIQQI", data)
    assert (magic, version, header, size) == (b"EKWEIGHT", 1, 64, len(data) - 64)
    assert plan == plan_id(tiny.plan()) and crc == crc32c(data[64:])
    assert data[36:60] == bytes(24) and struct.unpack_from("<I", data, 60) == (crc32c(data[:60]),)
    assert size == payload_bytes(tiny.plan()) and size % 64 == 0
    assert np.frombuffer(data, np.float32, 8, 64 + 64).tolist() == [99] * 4 + [1, 2, 3, 4]
    assert not any(data[64:128]) and not any(data[160:])


def test_identity_is_the_plan_not_the_numbers():
    assert plan_id(tiny.plan()) == plan_id(tiny.plan())
    assert tiny.weights(scale=2)[24:32] == tiny.weights()[24:32]
    assert plan_id(tiny.plan("other")) != plan_id(tiny.plan())
    assert saved_state_bytes(tiny.plan()) == 32 + 16 + 8


@pytest.mark.parametrize("array", [None, np.zeros(8), np.zeros(7, np.float32), np.zeros((2, 4), np.float32)])
def test_weights_that_do_not_fit_the_plan(array):
    with pytest.raises(InputError, match="constant 'w'"):
        pack_weights(tiny.plan(), {} if array is None else {"w": array})


def test_weights_outside_the_file():
    plan = tiny.plan()
    constant = replace(plan.constants[0], offset=128)
    with pytest.raises(InputError, match="outside"):
        pack_weights(replace(plan, constants=(constant,)), {"w": np.zeros(8, np.float32)})


# --- what init asks the processor for


def test_features_of_levels():
    """The microarchitecture levels of the x86-64 psABI."""
    v2 = {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"}
    v3 = v2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
    assert set(cpu_features(targets.load("android-x64"))) == v2
    assert cpu_features(targets.load("arm64")) == cpu_features(targets.load("wasm")) == ()
    found = [cpu_features(level) for level in targets.load("x64").levels]
    assert list(map(set, found)) == [v3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, v3, set()]
    assert list(map(register_state, [*found, ("sse4.2",)])) == [0xE6, 6, 0, 0]
    assert cpuid_bits(("fma", "avx2")) == [(1, 0, 2, 12), (7, 0, 1, 5)]
