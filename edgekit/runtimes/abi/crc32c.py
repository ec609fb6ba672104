"""CRC-32C (Castagnoli, RFC 3720 B.4) of large data in numpy.

The data is cut into many equal pieces whose CRCs advance side by side, one byte of each at a time; the pieces are then
joined pairwise, for a CRC is linear over GF(2): crc(a + b) = shift(crc(a), len(b)) ^ crc(b) without the complements,
and shift is a 32 x 32 bit matrix (the method of zlib's crc32_combine, Mark Adler).
"""
import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_LANES = 4096


@functools.cache
def _tables() -> np.ndarray:
    """(4, 256) uint32: slicing by four, as in ek_crc32c.h."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    tables = [table]
    for _ in range(3):
        tables.append((tables[-1] >> 8) ^ table[tables[-1] & 255])
    return np.stack(tables)


def _apply(matrix: np.ndarray, crc: np.ndarray) -> np.ndarray:
    """matrix times each crc over GF(2); matrix: (32,) uint32, the image of each bit."""
    bits = (crc[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.bitwise_xor.reduce(np.where(bits, matrix, np.uint32(0)), axis=-1)


def _shift(nbytes: int) -> np.ndarray:
    """The matrix that carries a raw CRC over nbytes of zeros."""
    bit = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = (bit >> 1).astype(np.uint32)  # one zero bit: bit k moves to k - 1 and bit 0 becomes the polynomial
    power[0] = _POLYNOMIAL
    result, n = bit, nbytes * 8
    while n:
        if n & 1:
            result = _apply(power, result)
        power, n = _apply(power, power), n >> 1
    return result


def _raw(data: np.ndarray, crc: int) -> int:
    """Carries a raw CRC over bytes, one at a time."""
    table = _tables()[0].tolist()
    for byte in data.tolist():
        crc = (crc >> 8) ^ table[(crc ^ byte) & 255]
    return crc


def crc32c(data) -> int:
    """The checksum of bytes, a bytearray, a memoryview or a uint8 array."""
    flat = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    piece = flat.size // _LANES // 4 * 4
    crc = 0xFFFFFFFF
    if piece:
        words = np.ascontiguousarray(flat[:_LANES * piece].view("<u4").reshape(_LANES, piece // 4).T)
        t = _tables()
        lanes = np.zeros(_LANES, np.uint32)
        for word in words:
            lanes ^= word
            lanes = t[3][lanes & 255] ^ t[2][(lanes >> 8) & 255] ^ t[1][(lanes >> 16) & 255] ^ t[0][lanes >> 24]
        step = _shift(piece)
        while lanes.size > 1:
            lanes = _apply(step, lanes[0::2]) ^ lanes[1::2]
            step = _apply(step, step)
        crc = int(_apply(_shift(_LANES * piece), np.array([crc], np.uint32))[0]) ^ int(lanes[0])
    return _raw(flat[_LANES * piece:], crc) ^ 0xFFFFFFFF
