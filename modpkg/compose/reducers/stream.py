"""Counter-based random numbers: an element's draw depends on its index alone, not on the order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

_INCREMENT = 0x9E3779B97F4A7C15  # the golden ratio
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(seed: int, key: bytes, first: int, shape: tuple[int, ...]) -> Array:
    """Return float64 in [0, 1) for the elements from ``first`` on, of the stream of seed and key.

    Element i is the i-th output of SplitMix64 (Steele, Lea & Flood 2014,
    https://doi.org/10.1145/2714064.2660195), which is a hash of a counter, from a state that is
    SHA-256 of seed and key. The computation is all integer: every machine draws the same numbers.
    """
    places = np.arange(first, first + int(np.prod(shape)))
    return _share(draws_at(stream_of(seed, key), places)).reshape(shape)


def uniform_at(seed: int, key: bytes, places: Any) -> Array:
    """Return what `uniform` draws for the elements at some flat indices."""
    return _share(draws_at(stream_of(seed, key), places))


def stream_of(seed: int, key: bytes) -> int:
    """Return the state from which SplitMix64 draws for a seed and a key."""
    return int.from_bytes(hashlib.sha256(b"%d:" % seed + key).digest()[:8], "little")


def draws_at(stream: int, places: Any) -> Any:
    """Return uint64 for the elements at some flat indices: no two of a stream are equal."""
    x = np.asarray(places, np.int64).view(np.uint64) * np.uint64(_INCREMENT)
    x += np.uint64(stream + _INCREMENT & (1 << 64) - 1)  # index 0 has the first output
    scratch = x >> np.uint64(30)
    x ^= scratch
    for factor, bits in ((_FIRST, 27), (_SECOND, 31)):
        x *= np.uint64(factor)
        x ^= np.right_shift(x, np.uint64(bits), out=scratch)
    return x


def _share(x: Any) -> Array:
    x >>= np.uint64(11)
    draws: Array = x.astype(np.float64)
    draws *= 2.0**-53
    return draws
