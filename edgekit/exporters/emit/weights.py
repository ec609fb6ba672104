"""weights.bin and the identity that ties it to the code. Byte by byte in docs/bundle.md."""
import hashlib
from collections.abc import Mapping

import numpy as np

from edgekit.errors import InputError
from edgekit.exporters.lower.plan import Plan
from edgekit.runtimes.abi.crc32c import crc32c
from edgekit.runtimes.abi.layout import STATE_HEADER, weights_header

_SLACK = 64  # zero bytes after the last constant, so that whole vectors may be read there


def plan_id(plan: Plan) -> int:
    """64 bits that code and weights of the same plan share. New numbers in the same places keep it: retrained weights
    fit the library that is already on the device."""
    return int.from_bytes(hashlib.sha256(repr(plan).encode("utf-8")).digest()[:8], "little")


def payload_bytes(plan: Plan) -> int:
    """Bytes of weights.bin after its header."""
    return -(-plan.weights_bytes // 64) * 64 + _SLACK


def saved_state_bytes(plan: Plan) -> int:
    """NAME_STATE_BYTES: a header and all states, densely."""
    sizes = {b.name: b.nbytes for b in plan.state_buffers}
    return STATE_HEADER + sum(sizes[s.buffer] for s in plan.states)


def pack_weights(plan: Plan, weights: Mapping[str, np.ndarray]) -> bytes:
    """weights.bin: each constant of the plan, row-major and little-endian, at its offset; zeros between."""
    payload = bytearray(payload_bytes(plan))
    for c in plan.constants:
        array = weights.get(c.name)
        if array is None or str(array.dtype) != c.dtype or array.shape != c.shape or array.nbytes != c.nbytes:
            found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise InputError(f"constant {c.name!r} is {found}, the plan wants {c.dtype}{list(c.shape)}",
                             where=plan.name)
        if c.offset % 64 or c.offset + c.nbytes > plan.weights_bytes:
            raise InputError(f"constant {c.name!r} lies outside the weights", where=plan.name)
        payload[c.offset:c.offset + c.nbytes] = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return weights_header(len(payload), crc32c(payload), plan_id(plan)) + bytes(payload)
