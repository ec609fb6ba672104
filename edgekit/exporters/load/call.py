"""One node as the tracer sees it: inputs are values, attributes are Python values."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import AttributeProto, helper

from edgekit.errors import InputError, UnsupportedError
from edgekit.exporters.load.graph import Builder, Value, where


@dataclass(frozen=True)
class Sequence:
    """An ONNX sequence: known in length, so it is a tuple of values while tracing and nothing afterwards."""

    items: tuple[Value, ...]


@dataclass(frozen=True)
class Missing:
    """An empty ONNX optional."""


Item = Value | Sequence | Missing | None


@dataclass(frozen=True)
class Call:
    """op of the default domain at opset `version`; outputs: wished names, '' for one nobody reads."""

    op: str
    inputs: tuple[Item, ...]
    attrs: dict[str, Any]
    outputs: tuple[str, ...]
    name: str
    version: int

    @property
    def where(self) -> str:
        return where(self.op, self.name)

    def replace(self, **changes: Any) -> Call:
        return replace(self, **changes)

    def item(self, index: int) -> Item:
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Value:
        """Input `index`, which must be a tensor."""
        item = self.item(index)
        if not isinstance(item, Value):
            raise InputError(f"input {index} of {self.op} is missing or no tensor", where=self.where)
        return item

    def optional(self, index: int) -> Value | None:
        return None if self.item(index) is None else self.value(index)

    def known(self, index: int, what: str) -> np.ndarray:
        """Input `index` as a constant. UnsupportedError if it is computed from the model's inputs."""
        data = self.value(index).data
        if data is None:
            raise UnsupportedError(f"{what} of {self.op} depends on the model's inputs", where=self.where,
                                   fix="edgekit compiles static programs: make it a constant in the model")
        return data

    def tensors(self) -> list[Value | None]:
        return [self.optional(k) for k in range(len(self.inputs))]

    def without(self, *keys: str) -> Call:
        return self.replace(attrs={k: v for k, v in self.attrs.items() if k not in keys})

    def having(self, **attrs: Any) -> Call:
        return self.replace(attrs=self.attrs | attrs)

    def emit(self, builder: Builder) -> list[Value]:
        return builder.emit(self.op, self.tensors(), self.attrs, self.outputs, self.name)


def attribute(proto: AttributeProto) -> Any:
    """The Python value of an attribute; text is str."""
    value = helper.get_attribute_value(proto)
    if proto.type == AttributeProto.STRING:
        return value.decode("utf-8", "replace")
    if proto.type == AttributeProto.STRINGS:
        return [text.decode("utf-8", "replace") for text in value]
    return list(value) if proto.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value
