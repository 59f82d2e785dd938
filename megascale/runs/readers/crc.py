"""CRC-32C (Castagnoli) of many short records at once, as TensorBoard's record files use it."""

from __future__ import annotations

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected
_MASK_DELTA = 0xA282EAD8


def _table() -> np.ndarray:
    value = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        value = np.where(value & 1, (value >> 1) ^ np.uint32(_POLYNOMIAL), value >> 1)
    return value.astype(np.uint32)


_TABLE = _table()


def masked_crc32c(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the masked checksums of every piece of a buffer.

    Pieces of equal length are worked on together, a byte of each at a time.

    Args:
        data: uint8 buffer.
        starts, lengths: int64, one per piece; all pieces lie inside the buffer.

    Returns:
        uint32, one per piece: the CRC rotated right by 15 bits plus a constant, modulo 2**32.
    """
    result = np.empty(len(starts), dtype=np.uint32)
    if not len(starts):
        return result
    order = np.argsort(lengths, kind="stable")
    sizes, first = np.unique(lengths[order], return_index=True)
    for size, group in zip(sizes, np.split(order, first[1:]), strict=True):
        crc = np.full(len(group), 0xFFFFFFFF, dtype=np.uint32)
        begins = starts[group]
        for offset in range(int(size)):
            crc = _TABLE[(crc ^ data[begins + offset]) & 0xFF] ^ (crc >> 8)
        crc ^= np.uint32(0xFFFFFFFF)
        rotated = ((crc >> 15) | (crc << 17)).astype(np.uint64)
        result[group] = ((rotated + _MASK_DELTA) & 0xFFFFFFFF).astype(np.uint32)
    return result
