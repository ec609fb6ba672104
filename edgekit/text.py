"""Names come from files of strangers: no control character of theirs, a new line neither, reaches the terminal."""
from typing import Any


def printable(value: Any) -> Any:
    """Texts with what is no printable character escaped, in dicts and lists too; the rest as it is."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    if isinstance(value, dict):
        return {printable(k): printable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(printable, value)) if type(value) in (list, tuple) else value
    return value
