"""Files that are written whole or not at all."""
import os
from contextlib import suppress
from pathlib import Path

from edgekit.errors import InputError


def check_place(path: Path) -> None:
    """InputError where `write_text` would fail: asked before work that would be lost."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError("cannot be written", where=str(path), fix="check the path and its permissions")


def write_text(path: Path, text: str) -> None:
    """The text as UTF-8 in place of what was there. InputError where that cannot be."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path), fix="check the path and its permissions") from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
