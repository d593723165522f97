"""The memory that a dry run reports is an upper bound that does not grow with the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.compose.composition import Composition
from modpkg.compose.memory import peak_bytes
from modpkg.compose.plan import plan
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Step
from tests import forkserver
from tests.compose.helpers import adapter, base, module

ROWS, COLUMNS, RANK = 2048, 1024, 8
ROOT = Path(__file__).parents[2]

_CHILD = """
import json, resource, sys
import numpy, torch
from pathlib import Path
from modpkg.compose.executor import compose
from tests.compose.test_memory import composition
made = composition(Path(sys.argv[1]), sys.argv[2], tensors=int(sys.argv[3]), again=True)
unit = 1 if sys.platform == "darwin" else 1024
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
before = peak()
compose(made, Path(sys.argv[1]) / "store", threads=2)
print(json.dumps(peak() - before))
"""


def composition(folder: Path, recipe: str, *, tensors: int, again: bool = False) -> Composition:
    """Return a plan over ``tensors`` matrices of 4 MB each; ``again`` finds those on the disk."""
    import torch

    from tests.compose.helpers import of_folder

    paths = [f"model.layers.{number}.q" for number in range(tensors)]
    draws = torch.Generator().manual_seed(1)

    def weights() -> dict[str, torch.Tensor]:
        return {
            f"{path}.weight": torch.randn((ROWS, COLUMNS), generator=draws).bfloat16()
            for path in paths
        }

    lora = recipe in ("lora", "dora")
    if again:
        modules = {
            name: of_folder(folder / name, name, "adapter" if lora and name == "one" else "base")
            for name in ("base", "one", "two")
            if (folder / name).is_dir()
        }
    else:
        modules = {"base": base(folder, weights())}
        if lora:
            pairs = {p: (torch.randn(RANK, COLUMNS), torch.randn(ROWS, RANK)) for p in paths}
            modules["one"] = adapter(folder, "one", pairs, r=RANK)
        else:
            for name in ("one", "two"):
                modules[name] = module(folder, name, "base", weights(), config={})
    op = "lora" if lora else "dense"
    steps = tuple(Step(op=op, module=ModuleName(name)) for name in modules if name != "base")
    method = "sum" if lora else recipe
    made = Compose(
        base=ModuleName("base"),
        method=method,
        parameters={"density": 0.5} if "ties" in method else {},
        steps=steps,
    )
    return plan("model", "1", made, modules)


@pytest.mark.parametrize("recipe", ["lora", "linear", "ties-mergekit", "ties", "model-stock"])
def test_composing_stays_within_the_bound(tmp_path: Path, recipe: str) -> None:
    predicted = peak_bytes(composition(tmp_path, recipe, tensors=4), 2)
    done = forkserver.run("-c", _CHILD, str(tmp_path), recipe, "4", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) <= predicted


def test_the_bound_does_not_grow_with_the_model(tmp_path: Path) -> None:
    few = composition(tmp_path / "few", "linear", tensors=2)
    many = composition(tmp_path / "many", "linear", tensors=5)
    assert peak_bytes(few, 2) == peak_bytes(many, 2)
    assert peak_bytes(few, 1) < peak_bytes(few, 2)
    assert peak_bytes(many, 2) < 128e6
