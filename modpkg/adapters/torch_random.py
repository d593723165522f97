"""The numbers that torch draws on a CPU from a seed, computed without torch.

PEFT draws some values again when it loads an adapter, instead of keeping them in its file. What is
here is torch's algorithm (a Mersenne twister, seeded with the low 32 bits): an adapter is the same
whatever version of torch composes it. Tests compare it with torch itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modpkg.adapters.formula import Array

_STATE = 624
_LARGE = (2**32 - 1) // 20
"""From this length on, torch permutes in another way, which has no cheap beginning."""


def _draws(seed: int, count: int) -> NDArray[np.uint64]:
    """Return the first numbers of 32 bits that a generator gives."""
    state = [seed & 0xFFFFFFFF]
    for index in range(1, _STATE):
        last = state[-1]
        state.append((1812433253 * (last ^ (last >> 30)) + index) & 0xFFFFFFFF)
    twister = np.random.MT19937()
    twister.state = {
        "bit_generator": "MT19937",
        "state": {"key": np.array(state, dtype=np.uint32), "pos": _STATE},
    }
    return twister.random_raw(count)  # type: ignore[no-any-return, unused-ignore]


def permutes(count: int) -> bool:
    """Return whether `beginning_of_permutation` is known for so many elements."""
    return 0 < count < _LARGE


def beginning_of_permutation(seed: int, count: int, first: int) -> NDArray[np.int64]:
    """Return ``torch.randperm(count)[:first]`` of a generator with a seed."""
    moved: dict[int, int] = {}
    places = []
    draws = _draws(seed, min(first, count - 1)).tolist()
    for index in range(first):
        other = index + (draws[index] % (count - index) if index < len(draws) else 0)
        places.append(moved.get(other, other))
        moved[other] = moved.get(index, index)
    return np.array(places, dtype=np.int64)


def normal(seed: int, count: int, deviation: float) -> Array:
    """Return ``torch.normal(0, deviation)`` of ``count`` float32, to within their rounding."""
    if count < 16:  # Box-Muller in float64, two numbers at a time
        pairs = (count + 1) // 2
        draws = _draws(seed, 4 * pairs).reshape(-1, 2)
        uniform = ((draws[:, 0] << 32 | draws[:, 1]) & (2**53 - 1)) * 2.0**-53
        angle, radius = 2 * np.pi * uniform[::2], np.sqrt(-2 * np.log1p(-uniform[1::2]))
        values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
        return values[:count] * deviation
    last = 16 if count % 16 else 0
    draws = _draws(seed, count + last)
    uniform = (draws & (2**24 - 1)) * 2.0**-24

    def blocks(values: Any) -> Any:
        first, second = values.reshape(-1, 2, 8).swapaxes(0, 1)
        radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)

    result = np.empty(count)
    whole = count - count % 16
    result[:whole] = blocks(uniform[:whole])
    if last:  # torch draws the last 16 again
        result[-16:] = blocks(uniform[count:])
    return result * deviation
