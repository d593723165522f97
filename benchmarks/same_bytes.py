"""Whether a device gives the bytes of the CPU: hard models of every method, composed on both.

    python -m benchmarks.same_bytes [--device cuda] [--seeds 20]

Each tensor is compared with the exact results, rounded, where the method has exact ones. Prints a
line per composition, and fails if any byte differs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import Composition, ComputedTensor
from modpkg.compose.exact import ExactTensor
from modpkg.compose.executor import compose
from modpkg.compose.reducers import find_reducer
from modpkg.compose.tensor import Job, Reduction
from modpkg.core.installed import TensorRef
from modpkg.core.packs import PackTensor
from tests.compose.hard_tensors import hard_compositions


def check_devices(folder: Path, device: str, seed: int = 0) -> Iterator[tuple[str, int, list[str]]]:
    """Compose hard models on the CPU and on a device, in a folder.

    Yields each composition's name, its number of tensors, and what is different. On both sides and
    in the exact results, the bytes have to be the same.
    """
    for composition in hard_compositions(folder / f"inputs-{seed}", seed):
        here = compose(composition, folder / f"cpu-{seed}", device="cpu").tensors
        there = compose(composition, folder / f"device-{seed}", device=device).tensors
        different = []
        for name, item in composition.computed.items():
            known = {device: _bytes(there[name]), "cpu": _bytes(here[name])}
            if (exact := _exact(composition, name, item)) is not None:
                known["exactly"] = exact
            first = known.pop(device)
            different += [f"{name}: not as {way}" for way, data in known.items() if data != first]
        yield composition.name, len(composition.computed), different


def _bytes(ref: TensorRef) -> bytes:
    return Path(ref.file).read_bytes()[ref.offset : ref.offset + ref.length]


def _exact(composition: Composition, name: str, item: ComputedTensor) -> bytes | None:
    """Return the exact results of a tensor; None if its method measures something over all."""
    place = PackTensor(item.dtype, item.shape, 0, item.length)
    with np.errstate(all="ignore"), TensorBlocks(composition.name, name, item) as blocks:
        job = Job(model=composition.name, name=name, computed=item, file="", place=place)
        exact: ExactTensor | None = Reduction(job, blocks).exact
        if exact is None:
            return None
        reducer = find_reducer(item.reducer, composition.name)
        if reducer.measure is not None and reducer.across:
            return None
        return exact.at(np.arange(blocks.count)).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu-torch")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    wrong: list[str] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for name, count, different in check_devices(Path(folder), options.device, seed):
                print(f"{options.device}, seed {seed}, {name}: {count} tensors, ", end="")
                ways = Counter(line.rpartition(": ")[2] for line in different)
                found = ", ".join(f"{times} {way}" for way, times in ways.items())
                print(found.upper() or "equal", flush=True)
                wrong += different
    if wrong:
        raise SystemExit("\n".join(wrong[:40]))


if __name__ == "__main__":
    main()
