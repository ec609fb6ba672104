"""The header of weights.bin, and the size of that of saved states, as ek_runtime.h knows them."""
import struct

from edgekit.runtimes.abi.crc32c import crc32c

FORMAT = 1
WEIGHTS_MAGIC = b"EKWEIGHT"
WEIGHTS_HEADER, STATE_HEADER = 64, 32
_WEIGHTS = struct.Struct("<8sIIQQI24x")  # magic, format, header bytes, payload bytes, plan id, CRC-32C of the payload


def weights_header(payload_bytes: int, payload_crc: int, plan_id: int) -> bytes:
    """The 64 bytes before the payload; the last four are the CRC-32C of the sixty before them."""
    head = _WEIGHTS.pack(WEIGHTS_MAGIC, FORMAT, WEIGHTS_HEADER, payload_bytes, plan_id, payload_crc)
    return head + struct.pack("<I", crc32c(head))
