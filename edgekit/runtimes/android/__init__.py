"""The form for Android Studio: libraries by ABI, a small JNI layer, a Kotlin class, and an instrumented self-test."""
from pathlib import Path

from edgekit.runtimes.embed import (
    WORDS,
    Files,
    Model,
    about,
    c_entries,
    count,
    headers,
    lacking,
    loadables,
    signature,
    template,
    vectors,
)
from edgekit.runtimes.session import Entry, Port

_ABIS = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}
_ARRAYS = {"float32": "FloatArray", "float64": "DoubleArray", "float16": "ShortArray", "bool": "BooleanArray",
           **{f"{u}int{n}": t for u in ("", "u") for n, t in ((8, "ByteArray"), (16, "ShortArray"), (32, "IntArray"), (64, "LongArray"))}}


def files(model: Model) -> Files:
    """jniLibs, CMakeLists.txt, C, Kotlin, assets, and the test."""
    found = _libraries(model)
    if not found:
        raise lacking(model, "android", "android-arm64")
    name, kind = model.name, model.type
    package = f"edgekit.{name}" + "_" * (name in WORDS)
    folder = package.replace(".", "/")
    kotlin = {"package": package, "methods": "".join(map(_method, model.entries)), "entries": _entries(model)}
    return {
        **{f"jniLibs/{abi}/lib{name}.so": path for abi, path in found.items()},
        **{f"include/{n}": content for n, content in headers(model).items()}, f"include/{name}_entries.h": c_entries(model),
        "CMakeLists.txt": template("android/CMakeLists.txt", model, abis=", ".join(found)),
        f"cpp/{name}_jni.c": template("android/jni.c", model, jni=_mangled(f"{package}.{kind}")),
        f"kotlin/{folder}/{kind}.kt": template("android/Model.kt", model, **kotlin),
        f"assets/{name}/weights.bin": model.files.file("weights.bin"),
        f"test/kotlin/{folder}/SelfTest.kt": template("android/SelfTest.kt", model, package=package),
        f"test/kotlin/{folder}/{kind}Test.kt": template("android/InstrumentedTest.kt", model, package=package),
        **vectors(model, f"test/assets/{name}/vectors"),
        "README.md": template("android/README.md", model, package=package, abis=", ".join(found),
                              quoted=", ".join(f'"{abi}"' for abi in found), signatures=signature(model, _ARRAYS).replace("\n", "\n    "))}


def _libraries(model: Model) -> dict[str, Path]:
    """The loadable library of each ABI."""
    found: dict[str, Path] = {}
    for target, path in loadables(model):
        if "android" in target.triple and target.triple.split("-")[0] in _ABIS:
            found.setdefault(_ABIS[target.triple.split("-")[0]], path)
    return found


def _mangled(name: str) -> str:
    """A class in the names of its native functions (JNI specification, resolving native method names)."""
    return "Java_" + name.replace("_", "_1").replace(".", "_")


def _method(entry: Entry) -> str:
    """The class of an entry's outputs and its typed method. No port has a name that begins with ek_."""
    outputs = entry.name[0].upper() + entry.name[1:] + "Outputs"
    fields = ", ".join(f"@JvmField val {p.name}: {_ARRAYS[p.dtype.name]}" for p in entry.outputs)
    params = ", ".join(f"{p.name}: {_ARRAYS[p.dtype.name]}" for p in entry.inputs)
    made = ", ".join(f"{_ARRAYS[p.dtype.name]}({count(p)})" for p in entry.outputs)
    given = ", ".join(p.name for p in entry.inputs)
    return f"""\
    /** {_list(entry.outputs)}. */
    class {outputs}({fields})

    /** {_list(entry.inputs)}. */
    fun {entry.name}({params}): {outputs} {{
        val ek_out = {outputs}({made})
        runArrays({entry.index}, arrayOf<Any>({given}), arrayOf<Any>({', '.join(f'ek_out.{p.name}' for p in entry.outputs)}))
        return ek_out
    }}

"""


def _list(ports: tuple[Port, ...]) -> str:
    return ", ".join(f"{p.name} {about(p)}" for p in ports) or "Nothing"


def _entries(model: Model) -> str:
    def ports(some: tuple[Port, ...]) -> str:
        return "listOf(" + ", ".join(f'Port("{p.name}", "{p.dtype.name}", {p.nbytes})' for p in some) + ")"
    return "".join(f'            Entry("{e.name}", {ports(e.inputs)}, {ports(e.outputs)}, {model.cases[e.name]}),\n' for e in model.entries)
