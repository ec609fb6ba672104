"""Lines of progress on standard error, and a sign of life where nothing was said for a while."""
import sys
import threading
import time
from typing import Self, TextIO

from edgekit.text import printable

_SILENCE = 5.0  # seconds


class Progress:
    """Called with short lines of text. Used as a context with `alive`, it repeats the last line every five silent seconds."""

    def __init__(self, quiet: bool = False, alive: bool = True, stream: TextIO | None = None):
        self._stream = None if quiet else stream or sys.stderr
        self._alive = alive and not quiet
        self.interrupted = 0  # the signal, set by who catches it: native code may swallow the exception, the next line does not
        self._begin = self._said = time.monotonic()
        self._line = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __call__(self, line: str) -> None:
        if self.interrupted:
            raise KeyboardInterrupt(self.interrupted)
        self._line, self._said = line, time.monotonic()
        self._write(line)

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            print(f"[{time.monotonic() - self._begin:5.1f} s] {printable(line)}", file=self._stream, flush=True)
        except (OSError, ValueError):
            self._stream = None  # nobody listens any more

    def _watch(self) -> None:
        while not self._done.wait(_SILENCE / 4):
            if self._line and time.monotonic() - self._said > _SILENCE:
                self._said = time.monotonic()
                self._write(f"still at it: {self._line}")

    def __enter__(self) -> Self:
        if self._alive:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
