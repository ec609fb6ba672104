"""The x86 features that a library needs, as cpuid bits that its `init` asks for (Intel SDM vol. 2A, CPUID)."""
from edgekit.exporters.emit.zig import macros, triple
from edgekit.targets import Target

_EAX, _EBX, _ECX, _EDX = range(4)
# name: (macro of the C compiler, leaf, subleaf, register, bit)
_FEATURES = {
    "sse3": ("__SSE3__", 1, 0, _ECX, 0),
    "ssse3": ("__SSSE3__", 1, 0, _ECX, 9),
    "fma": ("__FMA__", 1, 0, _ECX, 12),
    "sse4.1": ("__SSE4_1__", 1, 0, _ECX, 19),
    "sse4.2": ("__SSE4_2__", 1, 0, _ECX, 20),
    "movbe": ("__MOVBE__", 1, 0, _ECX, 22),
    "popcnt": ("__POPCNT__", 1, 0, _ECX, 23),
    "avx": ("__AVX__", 1, 0, _ECX, 28),
    "f16c": ("__F16C__", 1, 0, _ECX, 29),
    "bmi": ("__BMI__", 7, 0, _EBX, 3),
    "avx2": ("__AVX2__", 7, 0, _EBX, 5),
    "bmi2": ("__BMI2__", 7, 0, _EBX, 8),
    "avx512f": ("__AVX512F__", 7, 0, _EBX, 16),
    "avx512dq": ("__AVX512DQ__", 7, 0, _EBX, 17),
    "avx512ifma": ("__AVX512IFMA__", 7, 0, _EBX, 21),
    "avx512cd": ("__AVX512CD__", 7, 0, _EBX, 28),
    "avx512bw": ("__AVX512BW__", 7, 0, _EBX, 30),
    "avx512vl": ("__AVX512VL__", 7, 0, _EBX, 31),
    "avx512vbmi": ("__AVX512VBMI__", 7, 0, _ECX, 1),
    "avx512vbmi2": ("__AVX512VBMI2__", 7, 0, _ECX, 6),
    "gfni": ("__GFNI__", 7, 0, _ECX, 8),
    "avx512vnni": ("__AVX512VNNI__", 7, 0, _ECX, 11),
    "avx512bitalg": ("__AVX512BITALG__", 7, 0, _ECX, 12),
    "avx512vpopcntdq": ("__AVX512VPOPCNTDQ__", 7, 0, _ECX, 14),
    "avx512fp16": ("__AVX512FP16__", 7, 0, _EDX, 23),
    "avxvnni": ("__AVXVNNI__", 7, 1, _EAX, 4),
    "avx512bf16": ("__AVX512BF16__", 7, 1, _EAX, 5),
    "lzcnt": ("__LZCNT__", 0x80000001, 0, _ECX, 5),
}


def cpu_features(target: Target) -> tuple[str, ...]:
    """Features that `init` of a library for `target` insists on; empty where a program cannot ask (not x86)."""
    if not triple(target).startswith("x86_64"):
        return ()
    return tuple(name for name, (macro, *_) in _FEATURES.items() if macro in macros(target))


def cpuid_bits(features: tuple[str, ...]) -> list[tuple[int, int, int, int]]:
    """(leaf, subleaf, register eax..edx = 0..3, bit) of each feature."""
    return [_FEATURES[f][1:] for f in features]


def register_state(features: tuple[str, ...]) -> int:
    """Bits of XCR0 that the operating system must have set: SSE and AVX state, and that of AVX-512."""
    avx512 = any(f.startswith("avx512") for f in features)
    return 0xE6 if avx512 else 0x06 if "avx" in features else 0
