"""The form for browsers and Node: an ES module over the shipped WebAssembly, with types. `npm install` takes the folder."""
import json
from collections.abc import Iterable, Mapping

from edgekit.runtimes.abi.names import module_names
from edgekit.runtimes.embed import (
    Files,
    Model,
    about,
    headers,
    lacking,
    licence,
    loadables,
    signature,
    template,
    vectors,
)
from edgekit.runtimes.session import Entry, Port, statuses

ARRAYS = {"float32": "Float32Array", "float64": "Float64Array", "float16": "Uint16Array", "bool": "Uint8Array",
          **{f"{u}int{n}": f"{u.upper()}{'int' if u else 'Int'}{n}Array" for u in ("", "u") for n in (8, 16, 32)},
          "int64": "BigInt64Array", "uint64": "BigUint64Array"}


def files(model: Model) -> Files:
    """The package: code, weights, module, types, self-test, a page that runs it."""
    modules = _modules(model)
    if not modules:
        raise lacking(model, "npm", "wasm")
    package = "edgekit-" + model.name.lower()
    manifest = model.files.manifest
    plain = {f"{n}_bytes": str(manifest[f"{n}_bytes"]) for n in ("arena", "weights", "state")}
    texts = {
        "index.js": template("web/index.js", model, statuses=_object({str(k): v for k, v in statuses().items()}),
                             entries=_entries(model), methods="".join(map(_method, model.entries)),
                             modules="".join(f'\n  {code}' for code in map(_choice, modules)), **plain),
        "index.d.ts": template("web/index.d.ts", model, methods="".join(map(_types, model.entries))),
        "README.md": template("web/README.md", model, package=package, signatures=signature(model, ARRAYS).replace("\n", "\n    ")),
        **{n: template(f"web/{n}", model) for n in ("worker.js", "selftest.js", "test.mjs", "index.html")}}
    return {**texts, **vectors(model, "vectors"), "package.json": _package(model, package, [*modules, "weights.bin"]), **modules,
            "weights.bin": model.files.file("weights.bin"),
            **{f"include/{n}": content for n, content in headers(model).items()}}


def _modules(model: Model) -> Files:
    """The WebAssembly modules by file name, the best first."""
    found: Files = {}
    for target, plain in loadables(model):
        if target.triple.startswith("wasm32"):
            for file in module_names(target, model.name).values():
                name = f"{target.name}/{file}"
                if name in model.files.manifest["files"]:
                    found[file] = model.files.file(name)
            found[plain.name] = plain
    return found


def _choice(file: str) -> str:
    """A row of the list of modules: bundlers follow `new URL` only where it is written out."""
    level = file.split(".")[-2] if file.count(".") > 1 else ""
    return f'[{json.dumps(level)}, () => new URL("./{file}", import.meta.url)],'


def _package(model: Model, package: str, assets: Iterable[str]) -> bytes:
    """package.json. Private, so that nobody publishes it by accident; a licence that is no SPDX name is left out."""
    described = {
        "name": package, "version": "0.0.0", "private": True, "type": "module", "main": "./index.js", "types": "./index.d.ts",
        "exports": {".": {"types": "./index.d.ts", "default": "./index.js"}, "./selftest.js": "./selftest.js",
                    **{f"./{n}": f"./{n}" for n in assets}},
        "engines": {"node": ">=18"}, "scripts": {"test": "node test.mjs"}, **({"license": licence(model)} if licence(model) else {})}
    return (json.dumps(described, indent=2) + "\n").encode()


def _entries(model: Model) -> str:
    def port(p: Port) -> dict:
        return {"name": p.name, "dtype": p.dtype.name, "shape": list(p.shape)}
    rows = [{"name": e.name, "symbol": e.symbol, "inputs": [port(p) for p in e.inputs],
             "outputs": [port(p) for p in e.outputs], "cases": model.cases[e.name]} for e in model.entries]
    return "[\n" + "".join(f"  {json.dumps(r)},\n" for r in rows) + "]"


def _object(values: Mapping) -> str:
    return "{\n" + "".join(f"  {k}: {json.dumps(v)},\n" for k, v in values.items()) + "}"


def _method(entry: Entry) -> str:
    def ports(some: tuple[Port, ...]) -> str:
        return ", ".join(f"{p.name}: {about(p)}" for p in some)
    return f"""\
  /** ({ports(entry.inputs)}) -> ({ports(entry.outputs)}): typed arrays by name; new ones come back. */
  {entry.name}(inputs{'' if entry.inputs else ' = {}'}) {{
    return this.#run({entry.index}, inputs);
  }}

"""


def _types(entry: Entry) -> str:
    def ports(some: tuple[Port, ...]) -> str:
        return "{ " + " ".join(f"{p.name}: {ARRAYS[p.dtype.name]};" for p in some) + " }"
    doc = ", ".join(f"{p.name} {about(p)}" for p in (*entry.inputs, *entry.outputs))
    return f"  /** {doc} */\n  {entry.name}(inputs{'' if entry.inputs else '?'}: {ports(entry.inputs)}): {ports(entry.outputs)};\n"
