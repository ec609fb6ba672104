"""The shipped AArch64 library in an emulator: exact results and exact instruction counts, no real time.

The emulator runs in a child process (`arm_child.py` says why and what is said); this side never imports it. Whatever
the child does (a fault, a hang, its death) ends as a `RuntimeStatusError` here.
"""
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO

from edgekit.errors import BundleError, MissingToolError, RuntimeStatusError
from edgekit.runtimes import pipe

LIMIT = 600.0  # seconds of emulation for one call
GRACE = 20.0   # seconds more until a child that does not answer is ended


class Emulator:
    """A `Memory` (guest.py) of an AArch64 device with one shared library loaded. model: of the processor: "a72" has what
    ARMv8.0 has, "max" all that the emulator knows, half-precision arithmetic with it."""

    pointer = 8
    measured = False

    def __init__(self, library: bytes, limit: float | None = None, model: str = "max"):
        if importlib.util.find_spec("unicorn") is None:
            raise MissingToolError("arm64 code runs here in the emulator 'unicorn', which is not installed",
                                   fix="pip install 'edgekit-deploy[arm64]'")
        self._limit = LIMIT if limit is None else limit
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        self._child = subprocess.Popen([sys.executable, "-P", "-m", "edgekit.runtimes.arm_child", model],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise,
                                       env={**os.environ, "PYTHONPATH": path})
        self._end = weakref.finalize(self, _end, self._child, self._noise)
        try:
            self.symbols = frozenset(self._ask({"op": "load"}, library, BundleError)[0]["symbols"])
        except BaseException:
            self.close()
            raise

    def alloc(self, size: int, data: bytes = b"", writable: bool = True) -> int:
        """Address of `size` zeroed bytes, 64-aligned, that start with `data`."""
        return self._ask({"op": "map", "size": size, "writable": writable}, data)[0]["address"]

    def write(self, address: int, data: bytes) -> None:
        """Stores bytes."""
        self._ask({"op": "write", "address": address}, data)

    def read(self, address: int, size: int) -> bytes:
        """Loads bytes."""
        return self._ask({"op": "read", "address": address, "size": size})[1]

    def call(self, symbol: str, *args: int) -> int:
        """Calls a function with integer arguments; its int32 result."""
        return self._call(symbol, args, False)["result"]

    def count(self, symbol: str, *args: int) -> tuple[int, int]:
        """Like `call`, with the exact number of instructions executed (several times slower)."""
        reply = self._call(symbol, args, True)
        return reply["result"], reply["instructions"]

    def _call(self, symbol: str, args: tuple[int, ...], count: bool) -> dict:
        if symbol not in self.symbols:
            raise BundleError(f"the AArch64 library has no function {symbol!r}", fix="export the bundle again")
        return self._ask({"op": "call", "symbol": symbol, "args": list(args), "count": count, "limit": self._limit})[0]

    def _ask(self, request: dict, data: bytes = b"", error: type = RuntimeStatusError) -> tuple[dict, bytes]:
        if not self._end.alive:
            raise RuntimeStatusError("the session is closed", fix="open the bundle again", status="CLOSED")
        watchdog = threading.Timer(self._limit + GRACE, self._child.kill)
        watchdog.start()
        try:
            assert self._child.stdin and self._child.stdout
            pipe.send(self._child.stdin, request, data)
            reply, out = pipe.receive(self._child.stdout)
        except (OSError, EOFError, ValueError):
            said, code = self._last_words()
            self.close()
            raise RuntimeStatusError(f"the emulator's process ended (exit code {code}){said}", where="arm64",
                                     fix="open the bundle again", status="DIED") from None
        except BaseException:  # Ctrl-C in the middle of a message: the pipe is of no use any more
            self.close()
            raise
        finally:
            watchdog.cancel()
        if "error" in reply:
            fault = {"status": "FAULT"} if error is RuntimeStatusError else {}
            raise error(reply["error"], where="arm64", fix=reply.get("fix", ""), **fault)
        return reply, out

    def _last_words(self) -> tuple[str, int | None]:
        try:
            code = self._child.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        self._noise.seek(max(0, self._noise.seek(0, os.SEEK_END) - 2000))
        lines = self._noise.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return (f": {last}" if last else ""), code

    def close(self) -> None:
        """Ends the child and waits for it; harmless twice."""
        self._end()


def _end(child: subprocess.Popen, noise: IO[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout, noise):
        try:
            if stream:
                stream.close()
        except OSError:  # the last message was never read
            pass
