"""Compose once, in a process that imports nothing else: what `benchmarks.compose` measures.

    python benchmarks/compose_once.py MODULES RECIPE STORE THREADS HOW

MODULES is a file with pickled modules, HOW is ``verified`` if they were just verified, as by an
install that fetched them, or ``hashed`` if they are to be hashed again.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "base": 1.0, "weights": (0.5, 0.5)},
    "linear-uneven": {"method": "linear", "base": 0.4, "weights": (0.37, 0.23)},
    "ties": {"method": "ties", "weights": (0.5, 0.5), "density": 0.5},
    "ties-uneven": {"method": "ties", "weights": (0.7, 0.4), "density": 0.3},
}
"""Weights that are powers of two suit modpkg; uneven ones are what people use."""


def compose_once(modules: Path, recipe: str, store: Path, threads: int, how: str) -> None:
    """Compose a recipe of modules into a store."""
    from modpkg.compose.executor import compose
    from modpkg.compose.plan import plan
    from modpkg.core.names import ModuleName
    from modpkg.core.verified import VerifiedFiles
    from modpkg.manifest.schema import Compose, Step

    found = pickle.loads(modules.read_bytes())
    base = ModuleName("a")
    if recipe == "lora":
        made = Compose(base=base, steps=(Step(op="lora", module=ModuleName("adapter")),))
    else:
        wanted = RECIPES[recipe]
        linear = wanted["method"] == "linear"
        made = Compose(
            base=base,
            method="linear" if linear else "ties-mergekit",
            parameters=(
                {"base_weight": wanted["base"]} if linear else {"density": wanted["density"]}
            ),
            steps=tuple(
                Step(op="dense", module=ModuleName(name), scale=weight)
                for name, weight in zip("bc", wanted["weights"], strict=True)
            ),
        )
    verified = None
    if how == "verified":
        verified = VerifiedFiles()
        for file in {ref.file for module in found.values() for ref in module.tensors.values()}:
            verified.add(file)
    compose(plan("model", "1.0", made, found), store, threads=threads, verified=verified)


if __name__ == "__main__":
    compose_once(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
