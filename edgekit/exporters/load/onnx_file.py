"""Reads an .onnx file, and its external data from the file's own folder only."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, TensorProto

from edgekit.errors import InputError

SIZE_LIMIT = (1 << 31) - (1 << 20)      # protobuf's, with room for the graph itself
AGAIN = "the file is truncated or damaged, or no ONNX model: export or copy it again"


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model in `path`, complete. InputError: not there, not ONNX, over 2 GB, or data outside its folder."""
    where = path.name
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError("it is a folder, not a model", where=where, fix="give the .onnx file itself")
        if size > SIZE_LIMIT:
            raise InputError(f"{size} bytes: over the 2 GB that ONNX files can have", where=where,
                             fix="edgekit is for small nets: export a smaller model")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path), fix="check the path") from None
    if not data:
        raise InputError("the file is empty", where=where, fix=AGAIN)
    if data.startswith(b"version https://git-lfs"):
        raise InputError("the file is a Git LFS pointer, not the model", where=where, fix="git lfs pull")
    model = parse(data, where)
    total = size
    with text_in(where):
        for tensor in tensors(model):
            if tensor.data_location == TensorProto.EXTERNAL:
                total += _attach(tensor, path, where)
                if total > SIZE_LIMIT:
                    raise InputError("model and external data are over 2 GB", where=where, fix="export a smaller model")
    return model


@contextmanager
def text_in(where: str) -> Iterator[None]:
    """protobuf decodes text when it is looked at, which fails in a damaged file."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError("a name in it is not UTF-8", where=where, fix=AGAIN) from None


def parse(data: bytes, where: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputError("not an ONNX model", where=where, fix=AGAIN) from None
    if not model.HasField("graph"):
        raise InputError("not an ONNX model: it holds no graph", where=where, fix=AGAIN)
    return model


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    graphs: list[GraphProto] = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        while graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        while nodes:
            for attribute in nodes.pop().attribute:
                if attribute.type == AttributeProto.TENSOR:
                    yield attribute.t
                yield from attribute.tensors
                if attribute.type == AttributeProto.SPARSE_TENSOR:
                    yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
                if attribute.type == AttributeProto.GRAPH:
                    graphs.append(attribute.g)
                graphs += attribute.graphs


def _attach(tensor: TensorProto, model: Path, where: str) -> int:
    """Reads one tensor's external data into it; its bytes."""
    at = f"{where}: weight {tensor.name}"
    info = {entry.key: entry.value for entry in tensor.external_data}
    file = _inside(info.get("location", ""), model.parent, at)
    try:
        offset, length = int(info.get("offset", 0) or 0), int(info.get("length", -1) or -1)
    except ValueError:
        raise InputError("offset or length of the external data is no number", where=at, fix=AGAIN) from None
    try:
        size = file.stat().st_size
        length = size - offset if length < 0 else length
        if offset < 0 or offset + length > size or length < 0:
            raise InputError(f"{file.name} has {size} bytes, too few for this weight", where=at,
                             fix="copy the data file again: it is truncated or of another model")
        if length > SIZE_LIMIT:
            raise InputError("external data over 2 GB", where=at, fix="export a smaller model")
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
    except OSError as error:
        raise InputError(f"external data {file.name} cannot be read: {error.strerror or error}", where=at,
                         fix="keep the data file beside the model") from None
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
    return length


def _inside(location: str, folder: Path, at: str) -> Path:
    """The data file, which must lie in the model's folder: no absolute path, no '..', no link that leads out of it."""
    fix = "external data must lie in the model's own folder: save the model with its data beside it"
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if not location or "\0" in location or posix.is_absolute() or windows.drive or windows.root \
            or ".." in posix.parts or ".." in windows.parts:
        raise InputError(f"external data at {location!r} is outside of the model's folder", where=at, fix=fix)
    try:
        file, root = (folder / location).resolve(), folder.resolve()
    except (OSError, RuntimeError):
        raise InputError(f"external data at {location!r} cannot be found", where=at, fix=fix) from None
    if not file.is_relative_to(root):
        raise InputError(f"external data at {location!r} leads out of the model's folder", where=at, fix=fix)
    if file.exists() and not file.is_file():
        raise InputError(f"external data at {location!r} is no file", where=at, fix=fix)
    return file
