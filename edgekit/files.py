"""Files that are written whole or not at all."""
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import InputError


def write_text(path: Path, text: str) -> None:
    """The text as UTF-8 in place of what was there. InputError where that cannot be."""
    with _aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


def check_place(path: Path) -> None:
    """InputError where `write_text` would fail: asked before work that would be lost."""
    with _aside(path) as aside:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        aside.touch()


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside the path, for a file that is gone afterwards."""
    aside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        yield aside
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path), fix="check the path and its permissions") from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
