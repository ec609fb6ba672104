"""What every runtime offers, and what all of them share: ports, entries, checks of inputs, status codes."""
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol, TypeVar

import numpy as np

from edgekit.errors import BundleError, InputError, RuntimeStatusError, ShapeError, UnsupportedError
from edgekit.runtimes.abi import names
from edgekit.runtimes.abi.layout import STATE_HEADER

DTYPES = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
          "float16": 10, "float64": 11, "uint32": 12, "uint64": 13}  # ek_dtype of edgekit.h
MODEL_BYTES = 128  # sizeof(ek_model)
RANGE = 16         # EK_RANGE: there is no such step
STATE = 15         # EK_STATE: not a state of this model
_FITS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}  # kinds of Python numbers that a dtype's kind takes
Arrays = Mapping[str, np.ndarray]
T = TypeVar("T")


class Session(Protocol):
    """A loaded model on one target. Errors: InputError and ShapeError for what does not fit the entry,
    RuntimeStatusError for what the library answers. Calls from several threads take turns."""

    target: str
    measured: bool  # whether `time` is a latency of the target; an emulator's never is

    def run(self, inputs: Arrays, entry: str) -> dict[str, np.ndarray]:
        """One inference: arrays by input name to new arrays by output name. Recurrent state advances."""

    def reset(self) -> None:
        """All state to zero."""

    def save(self) -> bytes:
        """The state; it fits every session of the same bundle, whatever its target."""

    def restore(self, state: bytes) -> None:
        """Back to a saved state; one of another model is refused and changes nothing."""

    def time(self, inputs: Arrays, entry: str) -> float:
        """Seconds of one inference, clocked around the model's code alone."""

    def steps(self, inputs: Arrays, entry: str) -> list[float]:
        """Seconds of each step of one inference, in order; state does not advance."""

    def instructions(self, inputs: Arrays, entry: str) -> int:
        """Exact number of instructions of one inference (arm64 in the emulator)."""

    def step_instructions(self, inputs: Arrays, entry: str) -> list[int]:
        """Exact number of instructions of each step of one inference, in order; state does not advance."""

    def memory(self) -> dict[str, int | None]:
        """arena_bytes, weights_bytes, code_bytes of this target; None for what it does not tell."""

    def close(self) -> None:
        """Gives everything back; harmless twice."""


@dataclass(frozen=True)
class Port:
    """An input or output: row-major, densely packed. code: its ek_dtype."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    code: int

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Entry:
    """A callable of the model. symbol: its C function; index: its number there."""

    name: str
    index: int
    symbol: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple["State", ...] = ()


@dataclass(frozen=True)
class State:
    """What is kept from call to call. An entry reads it (`fed`: its ONNX graph has an input `name`), writes it (`source`:
    the ONNX output that is its next value, or ""), or both."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    fed: bool
    source: str


def entries(manifest: dict[str, Any]) -> dict[str, Entry]:
    """The entries of a bundle by name, the first one first."""
    try:
        ends = names.entry_names([e["name"] for e in manifest["entries"]])
        return {e["name"]: Entry(e["name"], k, f"{prefix(manifest)}_run{ends[e['name']]}",
                                 tuple(map(_port, e["inputs"])), tuple(map(_port, e["outputs"])),
                                 tuple(map(_state, e["states"])))
                for k, e in enumerate(manifest["entries"])}
    except (KeyError, TypeError, AttributeError) as e:
        raise BundleError(f"the manifest lacks {e}", where="manifest.json", fix="export the bundle again") from None


def prefix(manifest: dict[str, Any]) -> str:
    """What the C names of the model begin with."""
    return names.model_name(manifest["name"])


def find(known: dict[str, Entry], name: str) -> Entry:
    """The entry of that name; InputError names those there are."""
    if name not in known:
        raise InputError(f"no entry {name!r}", fix="use one of: " + ", ".join(known))
    return known[name]


def saved(buffer: bytes) -> bytes:
    """What `save` wrote into a buffer that may be longer: its header says how much (docs/bundle.md)."""
    return buffer[:STATE_HEADER + int.from_bytes(buffer[16:24], "little")]


def _port(raw: dict[str, Any]) -> Port:
    if raw["dtype"] not in DTYPES:
        raise UnsupportedError(f"dtype {raw['dtype']!r} of {raw['name']!r} has no numpy type")
    return Port(raw["name"], np.dtype(raw["dtype"]), tuple(raw["shape"]), DTYPES[raw["dtype"]])


def _state(raw: dict[str, Any]) -> State:
    return State(raw["name"], np.dtype(raw["dtype"]), tuple(raw["shape"]), raw["input"], raw["output"] or "")


def as_array(value: Any, port: Port, where: str) -> np.ndarray:
    """A numpy array as it is; Python numbers and lists of them in the port's dtype, where that loses no kind and no
    range; whatever else has an array form in its own dtype. InputError for the rest."""
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
        plain = isinstance(value, (bool, int, float, list, tuple))
        if plain and (array.dtype.kind in _FITS[port.dtype.kind] or not array.size):
            with np.errstate(over="raise"):
                return np.asarray(value, port.dtype)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as e:
        raise InputError(f"input {port.name!r} is no array of {port.dtype} ({e})", where=where) from None
    return array


def checked(inputs: Arrays, entry: Entry) -> list[np.ndarray]:
    """The arrays in the order of the entry, each of exactly the declared dtype and shape, row-major; NaN may pass."""
    if len(inputs) != len(entry.inputs) or any(p.name not in inputs for p in entry.inputs):
        raise InputError(f"inputs {_names(inputs)} given, {_names(p.name for p in entry.inputs)} wanted",
                         where=entry.name, fix="give each input once, by its name")
    for port in entry.inputs:
        fits(inputs[port.name], port, entry.name)
    return [np.ascontiguousarray(inputs[p.name]).reshape(p.shape) for p in entry.inputs]


def fits(array: Any, port: Port, where: str) -> None:
    """Raises what is wrong with an array for a port: InputError (no array, dtype) or ShapeError."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"input {port.name!r} is {type(array).__name__}, not a numpy array", where=where)
    if array.dtype != port.dtype:
        raise InputError(f"input {port.name!r} has dtype {array.dtype}, wanted {port.dtype}", where=where,
                         fix=f"convert it: x.astype({port.dtype.name!r})")
    if array.shape != port.shape:
        raise ShapeError(f"input {port.name!r} has shape {array.shape}, wanted {port.shape}", where=where)


def check(status: int, where: str) -> None:
    """Raises the error that a status of the model's library stands for."""
    if status:
        name, text = statuses().get(status, (f"status {status}", "a status that edgekit does not know"))
        raise RuntimeStatusError(f"{name}: {text}", where=where, status=name)


@functools.cache
def statuses() -> dict[int, tuple[str, str]]:
    """Every ek_status: value -> (name, text), from the header that the libraries are built with."""
    header = resources.files("edgekit.runtimes.abi").joinpath("edgekit.h").read_text("utf-8")
    return {int(value): (name, text) for name, value, text in re.findall(r'X\((EK_\w+), (\d+), "(.*?)"\)', header)}


class Turns:
    """Calls take turns, `with turns:`; after the last one there are none."""

    def __init__(self) -> None:
        self._lock, self._open = threading.Lock(), True

    def __enter__(self) -> None:
        self._lock.acquire()
        if not self._open:
            self._lock.release()
            raise BundleError("the session is closed", fix="open the bundle again")

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def last(self) -> Iterator[None]:
        """The turn in which the session is closed."""
        with self._lock:
            self._open = False
            yield


def every_step(step: Callable[[int], tuple[int, T]], where: str) -> list[T]:
    """What each step took; step(k) gives status and what it took, and EK_RANGE behind the last one."""
    all_took: list[T] = []
    while True:
        status, took = step(len(all_took))
        if status == RANGE:
            return all_took
        check(status, where)
        all_took.append(took)


def unavailable(what: str, target: str, fix: str) -> UnsupportedError:
    """For what a target cannot tell."""
    return UnsupportedError(f"{what} cannot be had on {target}", where=target, fix=fix)


def levels(manifest: dict[str, Any], target: str) -> list[str]:
    """Names of a target's code levels, best first; none where there is but one."""
    return [str(x["name"]) for x in manifest["targets"][target].get("levels", ())]


def memory(manifest: dict[str, Any], target: str) -> dict[str, int | None]:
    """Bytes by kind, from the manifest."""
    return {"arena_bytes": int(manifest["arena_bytes"]), "weights_bytes": int(manifest["weights_bytes"]),
            "code_bytes": int(manifest["targets"][target]["code_bytes"])}


def _names(names) -> str:
    return "(" + ", ".join(map(str, names)) + ")"
