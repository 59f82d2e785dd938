"""A keyed permutation of [0, n) that is computed, not stored.

An unbalanced Feistel network over the smallest power of two that holds n, with cycle walking: an
image outside [0, n) is encrypted again until it falls inside (Black and Rogaway, "Ciphers with
Arbitrary Finite Domains", CT-RSA 2002, section 4). The domain is smaller than 2n, so fewer than
two passes are expected per element. It is not meant to be cryptographically strong; it is meant
to shuffle 10^13 tokens without an index array.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megascale.errors import DataError

Uint64Array = NDArray[np.uint64]

ROUNDS = 8
MAX_SIZE = 2**63

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix64(values: Uint64Array) -> Uint64Array:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of uint64."""
    mixed = (values ^ (values >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def derive_key(*parts: str | int) -> int:
    """A 64-bit key from names and numbers, the same on every machine and Python version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def numbered_keys(key: int, numbers: ArrayLike) -> Uint64Array:
    """One 64-bit key per number (block or epoch), all derived from `key`."""
    counted = np.asarray(numbers).astype(np.uint64)
    counted = np.atleast_1d(counted) + np.uint64(1)
    return mix64(mix64(counted * _GOLDEN) ^ np.uint64(key)).reshape(np.shape(numbers))


def permute(indices: ArrayLike, size: int, keys: ArrayLike) -> NDArray[np.int64]:
    """Image of `indices` under the permutation of [0, size) that `keys` names.

    Args:
        indices: integers in [0, size), any shape.
        size: number of elements, 1 to 2**63.
        keys: one 64-bit key, or an array broadcast against `indices` (a key per element).

    Returns:
        int64 array of the shape of `indices`; for one key, a bijection of [0, size).

    Raises:
        DataError: size out of range, or an index outside [0, size).
    """
    return _walk(indices, size, keys, _encrypt)


def unpermute(images: ArrayLike, size: int, keys: ArrayLike) -> NDArray[np.int64]:
    """Inverse of `permute`: same arguments, same errors."""
    return _walk(images, size, keys, _decrypt)


def _walk(indices, size, keys, step) -> NDArray[np.int64]:
    if not 1 <= size <= MAX_SIZE:
        raise DataError.of("permutation size", size, "must lie between 1 and 2**63")
    values = np.asarray(indices)
    shape = values.shape
    values = values.astype(np.uint64).ravel()
    limit = np.uint64(size)
    if values.size and bool((values >= limit).any()):
        raise DataError.of("permutation index", int(values.max()), f"must lie in [0, {size})")
    key_array = np.broadcast_to(np.asarray(keys, dtype=np.uint64), shape).ravel()
    if size == 1:
        return np.zeros(shape, dtype=np.int64)
    bits = max(2, (size - 1).bit_length())
    values = step(values, key_array, bits)
    outside = np.flatnonzero(values >= limit)
    while outside.size:
        walked = step(values[outside], key_array[outside], bits)
        values[outside] = walked
        outside = outside[walked >= limit]
    return values.astype(np.int64).reshape(shape)


def _round_key(keys: Uint64Array, number: int) -> Uint64Array:
    return keys + np.uint64((number + 1) * int(_GOLDEN) % 2**64)


def _encrypt(values: Uint64Array, keys: Uint64Array, bits: int) -> Uint64Array:
    left_bits, right_bits = bits // 2, bits - bits // 2
    left, right = values >> np.uint64(right_bits), values & _mask(right_bits)
    for number in range(ROUNDS):
        left, right = (
            right,
            (left ^ mix64(mix64(right) ^ _round_key(keys, number))) & _mask(left_bits),
        )
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _decrypt(values: Uint64Array, keys: Uint64Array, bits: int) -> Uint64Array:
    left_bits, right_bits = bits // 2, bits - bits // 2
    left, right = values >> np.uint64(right_bits), values & _mask(right_bits)
    for number in reversed(range(ROUNDS)):
        left, right = (
            (right ^ mix64(mix64(left) ^ _round_key(keys, number))) & _mask(right_bits),
            left,
        )
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)
