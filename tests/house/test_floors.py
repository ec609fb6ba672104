"""The floors of the house: who may import whom, and what may be imported without the extras."""
import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"targets": 1, "runtimes": 2, "exporters": 3}  # errors: 0, everything else: 4, the face
HOME = {  # optional packages: the only folders that may import them; "" is the face itself
    "tvm": ("exporters/lower", "exporters/kernels", "exporters/emit"),
    "tvm_ffi": ("exporters/lower", "exporters/kernels", "exporters/emit"),
    "ziglang": ("exporters/emit",),
    "torch": ("exporters/load", "exporters/sparsify"),
    "onnxscript": ("exporters/load",),
    "onnx": ("exporters", ""),
    "google": ("exporters/load",),  # protobuf's errors
    "onnx_ir": ("exporters/load", "exporters/sparsify"),
    "onnxruntime": ("exporters", "runtimes", ""),
    "wasmtime": ("runtimes",),
    "unicorn": ("runtimes",),
    "ray": ("",),
}
NEEDS_ONNX = "edgekit.onnx_backend"  # an implementation of onnx's own class, of no use without onnx
MODULES = sorted(p for p in (ROOT / "edgekit").rglob("*.py"))


class Import(NamedTuple):
    name: str
    line: int
    lazy: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[Import]:
    """Every import of a module with its absolute name; lazy: it does not run when the module is imported."""
    found: list[Import] = []
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")
                base = ".".join(up[: len(up) - node.level + 1] + ([node.module] if node.module else []))
            found.extend(Import(f"{base}.{alias.name}", node.lineno, lazy) for alias in node.names)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = lazy or typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text("utf-8")), False)
    return found


def floor(name: str) -> int:
    parts = name.split(".")
    if parts[1:2] == ["errors"]:
        return 0
    return FLOORS.get(parts[1], 4) if len(parts) > 1 else 4


def test_a_lower_floor_never_imports_a_higher_one():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in MODULES
        for name, line, _ in imports(path)
        if name.split(".")[0] == "edgekit" and floor(name) > floor(module_name(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_optional_packages_stay_in_their_folders():
    wrong = []
    for path in MODULES:
        folder = path.relative_to(ROOT / "edgekit").parent.as_posix()
        inside = folder if folder.split("/")[0] in FLOORS else ""
        for name, line, _ in imports(path):
            allowed = HOME.get(name.split(".")[0])
            if allowed is not None and not any(inside == a or (a and inside.startswith(a + "/")) for a in allowed):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_else_is_imported():
    known = set(sys.stdlib_module_names) | set(HOME) | {"edgekit", "numpy"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in MODULES
        for name, line, _ in imports(path)
        if name.split(".")[0] not in known
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_is_imported_lazily():
    """A module with torch at its top is imported inside functions only, or by another such module."""
    now = {module_name(path): {i.name for i in imports(path) if not i.lazy} for path in MODULES}
    of_torch = {m for m, names in now.items() if any(n.split(".")[0] in ("torch", "onnxscript") for n in names)}
    wrong = [
        f"{module} imports {name}"
        for module, names in now.items()
        if module not in of_torch
        for name in names
        if name in of_torch or name.rpartition(".")[0] in of_torch
    ]
    assert not wrong, "\n".join(wrong)


def test_the_base_needs_numpy_only():
    """Every module outside exporters is imported where no optional package can be."""
    names = [n for n in map(module_name, MODULES) if not n.startswith("edgekit.exporters") and n != NEEDS_ONNX]
    assert {"edgekit", "edgekit.cli", "edgekit.runtimes", "edgekit.targets"} <= set(names)
    code = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in NAMES:
    if not name.endswith("__main__"):
        importlib.import_module(name)
"""
    code = code.replace("BLOCKED", repr(set(HOME))).replace("NAMES", repr(names))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_unpickles_what_it_did_not_write():
    """The exception: kernels go to the compiler's process, which edgekit starts itself, as pickles."""
    formats = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
    users = {path.relative_to(ROOT).as_posix() for path in MODULES for i in imports(path) if i.name.split(".")[0] in formats}
    assert users <= {"edgekit/exporters/emit/compile.py", "edgekit/exporters/emit/compiler.py"}


def test_no_shell_strings_and_no_evaluation():
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if (
                called in ("eval", "exec", "os.system", "os.popen")
                or given.get("shell") == "True"
                or given.get("allow_pickle") == "True"
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    assert not wrong, "\n".join(wrong)
