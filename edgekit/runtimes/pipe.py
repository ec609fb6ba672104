"""Messages over a pipe: a JSON object and a run of bytes, each preceded by its length. Nothing in them is executed.

    4 bytes  length of the JSON text, little endian
    8 bytes  length of the data
    JSON text (UTF-8), data
"""
import json
import struct
from typing import IO

_HEAD = struct.Struct("<IQ")


def send(stream: IO[bytes], message: dict, data: bytes | memoryview = b"") -> None:
    """Writes one message; OSError (BrokenPipeError) where nobody reads any more."""
    text = json.dumps(message).encode()
    stream.write(_HEAD.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict, bytes]:
    """Reads one message; EOFError where the other side is gone."""
    text, data = _HEAD.unpack(_read(stream, _HEAD.size))
    return json.loads(_read(stream, text)), _read(stream, data)


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
