"""What patching and merging say to do works: copies, bases, conflicts and their resolutions."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import safetensors_bytes
from tests.e2e.remedies import Run, fails, remedy_of, works
from tests.e2e.test_remedies_of_builds import base_weights

TENSOR = "model.norm.weight"
BASE = ["--base", "tiny==1.0"]


def copy_of(folder: Path, value: float | None = None, tensor: str = TENSOR) -> Path:
    """Write a copy of tiny 1.0 whose tensor has another first value."""
    tiny.write_base(folder)
    (folder / "modpkg.toml").unlink()
    weights = folder / "model.safetensors"
    tensors = base_weights(weights)
    if value is not None:
        dtype, shape, raw = tensors[tensor]
        tensors[tensor] = (dtype, shape, struct.pack("<f", value) + raw[4:])
        weights.write_bytes(safetensors_bytes(tensors))
    return folder


def create(copy: Path, out: str) -> list[str | Path]:
    name = ["--name", out, "--license", "MIT", "--out", out]
    return ["patch", "create", copy, *BASE, *name]


@pytest.fixture
def patches(registry: Path, run: Run) -> list[str]:
    """Two patches of one base, which change one value each in the same place."""
    for number, name in enumerate(("one", "two"), 1):
        works(run, *create(copy_of(Path(f"copy-{name}"), float(number)), name))
    return ["one", "two"]


def test_m733_to_m735_of_a_copy(registry: Path, run: Run) -> None:
    assert "nothing to create a patch from" in fails(run, "M734", *create(copy_of(Path("a")), "p"))
    assert "fix the training" in fails(run, "M733", *create(copy_of(Path("b"), float("nan")), "p"))
    shutil.copytree("../projects/lora", "c", dirs_exist_ok=True)
    fails(run, "M735", *create(Path("c"), "p"))
    works(run, *create(copy_of(Path("d"), 3.0), "p"))


def test_m731_and_m732_of_another_base(patches: list[str], registry: Path, run: Run) -> None:
    tiny.publish(tiny.write_base(Path("other"), "2.0", seed=5), registry)
    apply = ["patch", "apply", "one", "--out", "out", "--base"]
    text = fails(run, "M731", *apply, "tiny==2.0")
    works(run, *apply, "tiny==1.0")
    merge = remedy_of(text.replace("OTHER", "two"))
    works(run, *merge, "--method", "mean", "--out", "merged")
    tiny.publish(tiny.write_base(Path("small"), "3.0", seed=5, layers=1), registry)
    works(run, *create(copy_of(Path("e"), 3.0, "model.layers.1.mlp.up_proj.weight"), "deep"))
    text = fails(run, "M732", "patch", "apply", "deep", "--out", "o", "--base", "tiny==3.0")
    assert "use the base that it was made for" in text
    works(run, "patch", "apply", "deep", "--out", "o", *BASE)


def test_m730_creates_the_patch_again(patches: list[str], run: Run) -> None:
    record = Path("one/patch.json")
    record.write_text("{")
    text = fails(run, "M730", "patch", "apply", "one", "--out", "out", *BASE)
    assert remedy_of(text) == ["patch", "create"]
    shutil.rmtree("one")
    works(run, *create(Path("copy-one"), "one"))
    works(run, "patch", "apply", "one", "--out", "out", *BASE)


def test_m740_to_m742_of_a_conflict(patches: list[str], run: Run) -> None:
    merge = ["merge", *BASE, *patches, "--out"]
    assert "two" in fails(run, "M742", "merge", *BASE, "one", "--out", "out")
    text = fails(run, "M740", *merge, "out")
    works(run, *merge, "mean", "--method", "mean")
    found = re.search(r"'(\[\w+\])' and '(\".*?\" = \"ours\")'", text)
    assert found is not None
    choices = Path("choices.toml")
    choices.write_text(f"{found[1]}\n{found[2].replace('ours', 'mine')}\n")
    assert "ours" in fails(run, "M741", *merge, "out", "--resolution", choices)
    choices.write_text(f"{found[1]}\n{found[2]}\n")
    works(run, *merge, "ours", "--resolution", choices)
