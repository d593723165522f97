"""Patches: whatever changed, base and patch give the copy back, bit for bit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from modpkg.community.patch.factors import bounds, find_low_rank, spacing
from modpkg.community.patch.tensor_encodings import as_gaps
from modpkg.compose.executor import compose
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.plan import plan
from modpkg.compose.torch_arrays import round_into
from modpkg.core.errors import PatchError
from modpkg.core.filenames import PATCH
from modpkg.core.names import module_name
from modpkg.manifest.schema import Compose, Step
from tests.community.changed import applied, base_of, copy_of, patch_of, same_bits
from tests.compose.helpers import of_folder
from tests.raising import raises

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
KINDS = ("same", "sparse", "dense", "rows", "columns", "low rank", "zeros", "retyped", "trimmed")
KINDS += ("reshaped", "removed", "integers")


def change(tensor: torch.Tensor, kind: str, seed: int) -> torch.Tensor | None:
    """Return what a training of some kind makes of a tensor; None where it is gone."""
    generator = torch.Generator().manual_seed(seed)
    if not tensor.numel():
        return tensor
    wide = tensor.double()
    matrix = wide.reshape(wide.shape[0] if wide.ndim else 1, -1)
    if kind == "sparse":
        mask = torch.rand(wide.shape, generator=generator) < 0.1
        return (wide + mask * torch.randn(wide.shape, generator=generator)).to(tensor.dtype)
    if kind == "dense":
        return (wide + 0.01 * torch.randn(wide.shape, generator=generator)).to(tensor.dtype)
    if kind == "rows":
        scale = 1 + 0.3 * torch.randn(len(matrix), 1, generator=generator).to(tensor.dtype)
        return (matrix * scale.double()).reshape(wide.shape).to(tensor.dtype)
    if kind == "columns":
        scale = 1 + 0.3 * torch.randn(1, matrix.shape[1], generator=generator).to(tensor.dtype)
        return (matrix * scale.double()).reshape(wide.shape).to(tensor.dtype)
    if kind == "low rank":
        b = torch.randn(len(matrix), 2, generator=generator)
        a = torch.randn(2, matrix.shape[1], generator=generator)
        return (matrix + 0.1 * (b @ a).double()).reshape(wide.shape).to(tensor.dtype)
    if kind == "zeros":
        zeros = torch.rand(wide.shape, generator=generator) < 0.3
        signs = torch.where(torch.rand(wide.shape, generator=generator) < 0.5, -0.0, 0.0)
        return torch.where(zeros, signs.to(tensor.dtype), tensor)
    if kind == "retyped":
        return tensor.float() if tensor.dtype != torch.float32 else tensor.double()
    if kind == "trimmed":
        return tensor[:-1].clone() if tensor.ndim and len(tensor) > 1 else tensor
    if kind == "reshaped":
        return tensor.reshape(-1, 1).clone()
    return None if kind == "removed" else tensor


@st.composite
def changes(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    base, copy = {"always": torch.arange(3.0)}, {"always": torch.arange(3.0)}
    for number in range(draw(st.integers(1, 4))):
        seed = draw(st.integers(0, 2**16))
        shape = draw(
            st.sampled_from([(), (7,), (6, 5), (40, 24), (24, 300), (4, 3, 5), (1, 9), (0, 3)])
        )
        dtype = draw(st.sampled_from(FLOATS))
        kind = draw(st.sampled_from(KINDS))
        name = f"layers.{number}.w"
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        if kind == "zeros":
            tensor = tensor.where(tensor > 0, -0.0)
        if kind == "integers":
            base[name] = (tensor * 9).long()
            copy[name] = base[name] + 1
            continue
        base[name] = tensor.to(dtype)
        if (new := change(base[name], kind, seed + 1)) is not None:
            copy[name] = new
        if draw(st.booleans()):
            copy[f"{name}.new"] = tensor.half()
    return base, copy


@settings(max_examples=30)
@given(case=changes(), deltas=st.booleans())
def test_base_and_patch_give_the_copy_bit_for_bit(
    case: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]], deltas: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        base = base_of(place, case[0])
        copy = copy_of(place / "copy", case[1])
        try:
            _, written = patch_of(place, base, copy, deltas=deltas)
        except PatchError:
            assert same_bits(*case)
            return
        assert same_bits(applied(place, base, written), case[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["sparse", "rows", "columns", "low rank"])
def test_each_kind_of_change_takes_its_own_form(
    dtype: torch.dtype, kind: str, tmp_path: Path
) -> None:
    old = torch.randn(160, 200, generator=torch.Generator().manual_seed(3)).to(dtype)
    new = change(old, kind, 4)
    assert new is not None
    base = base_of(tmp_path, {"w": old})
    found, written = patch_of(tmp_path, base, copy_of(tmp_path / "copy", {"w": new}))
    form = found.forms["w"]
    assert form.name == kind
    assert form.bytes < 0.6 * new.numel() * new.element_size()
    if kind == "low rank":
        assert form.rank == 2
    assert same_bits(applied(tmp_path, base, written), {"w": new})


def test_a_dense_change_is_stored_whole_as_a_lossless_delta(tmp_path: Path) -> None:
    old = torch.randn(200, 200, generator=torch.Generator().manual_seed(3)).bfloat16()
    new = (old.float() * (1 + 0.01 * torch.randn(200, 200))).bfloat16()
    base, copy = base_of(tmp_path, {"w": old}), copy_of(tmp_path / "copy", {"w": new})
    plain, _ = patch_of(tmp_path, base, copy)
    small, _ = patch_of(tmp_path, base, copy, deltas=True, name="q")
    assert plain.forms["w"].name == small.forms["w"].name == "whole"
    assert small.bytes < 0.7 * plain.bytes


def test_full_rank_changes_are_not_factorized(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    old = torch.randn(64, 64, generator=generator, dtype=torch.float64).bfloat16().double()
    moved = (old + 0.5 * torch.randn(64, 64, generator=generator)).bfloat16().double()
    assert find_low_rank(old, moved, "BF16", 16) is None
    assert find_low_rank(old, old, "BF16", 16) is None


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_values_within_the_bounds_round_to_the_value(dtype: str) -> None:
    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 2.0
    special = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -4.0, 6e-8, 1e-39])
    rounded = torch.cat([values, special]).to(kinds[dtype])
    low, high = bounds(rounded.double(), dtype)
    for edge in (low, high):
        out = torch.empty_like(rounded)
        round_into(out, edge)
        assert torch.equal(out, rounded)
    assert (high - low >= 0.7 * spacing(rounded.double(), dtype)).all()


@given(st.lists(st.integers(0, 5000), unique=True, min_size=1, max_size=60))
def test_gaps_lead_back_to_the_places(places: list[int]) -> None:
    wanted = torch.tensor(sorted(places))
    inputs = {"gaps": as_gaps(wanted).double(), "values": torch.zeros(len(places)).double()}
    assert PATCHED.prepare is not None
    from modpkg.compose.composition import Term

    found = PATCHED.prepare(inputs, Term(op="patch", weight=1.0, inputs={}), torch.zeros(5001))
    assert torch.equal(found["indices"], wanted)


# What is refused --------------------------------------------------------------------------


def small(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(8, 8, generator=generator).bfloat16() for name in ("a.0.w", "a.1.w")}


def test_the_same_copy_is_no_patch(tmp_path: Path) -> None:
    base = base_of(tmp_path, small())
    with raises("M734", match="nothing to create a patch from"):
        patch_of(tmp_path, base, copy_of(tmp_path / "copy", small()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_copy_with_nan_is_refused_by_tensor(value: float, tmp_path: Path) -> None:
    copy = small()
    copy["a.1.w"][3, 3] = value
    with raises("M733", match=r"'a\.1\.w' of .* has 1 non-finite values"):
        patch_of(tmp_path, base_of(tmp_path, small()), copy_of(tmp_path / "copy", copy))


def test_a_copy_of_another_model_is_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path, small())
    with raises("M735", match="no tensor in common"):
        patch_of(tmp_path, base, copy_of(tmp_path / "copy", {"other": torch.ones(2)}))
    with raises("M735", match="modpkg import peft"):
        patch_of(tmp_path, base, copy_of(tmp_path / "two", small(), adapter_config={}))


def test_a_patch_made_for_another_base_names_the_tensor(tmp_path: Path) -> None:
    base, other = base_of(tmp_path, small()), base_of(tmp_path / "other", small(5))
    copy = {**small(), "a.1.w": small(9)["a.1.w"]}
    _, written = patch_of(tmp_path, base, copy_of(tmp_path / "copy", copy))
    with raises("M731", match=r"made for base==1\.0, and 'a\.1\.w' of base"):
        applied(tmp_path, other, written)
    fewer = base_of(tmp_path / "fewer", {"a.0.w": small()["a.0.w"]})
    with raises("M732", match=r"has no tensor 'a\.1\.w'"):
        applied(tmp_path, fewer, written)


def rewritten(folder: Path, **changed: object) -> None:
    """Change what a patch's record says."""
    record = json.loads((folder / PATCH).read_text())
    record |= changed
    (folder / PATCH).write_text(json.dumps(record))


def damaged(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = folder / "patch.safetensors"
    save_file({**load_file(path), name: tensor}, path)


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """A patch in the folder ``p``: one value of a tensor, and another tensor whole."""
    copy = {**small(), "a.1.w": small(9)["a.1.w"]}
    copy["a.0.w"][0, 0] = 7
    patch_of(tmp_path, base_of(tmp_path, small()), copy_of(tmp_path / "copy", copy))
    return tmp_path / "p"


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"gaps": "a.0.w.gaps"}, "has the inputs gaps, which are not a known form"),
        ({"gaps": "a.0.w.gaps", "values": "none"}, "names 'none' as its values"),
        ({"rows": "a.0.w.gaps"}, "has rows of dtype U8"),
        ({"rows": "a.1.w"}, "has rows of shape"),
        ({"a": "a.1.w", "b": "a.0.w.values"}, "has a of shape .* whose product is not"),
        ({"gaps": "a.0.w.gaps", "values": "a.1.w"}, "has gaps of shape"),
        ({"whole": "a.1.w"}, "has another digest than the tensor that the patch has for it"),
    ],
)
def test_a_record_that_does_not_match_its_tensors_is_refused(
    inputs: dict[str, str], reason: str, patched: Path
) -> None:
    tensors = json.loads((patched / PATCH).read_text())["tensors"]
    tensors["a.0.w"]["inputs"] = inputs
    rewritten(patched, tensors=tensors)
    with raises("M730", match="'a.0.w' " + reason):
        again(patched)


def again(folder: Path) -> dict[str, torch.Tensor]:
    from modpkg.community.modules.reference import view_of_folder
    from modpkg.core.progress import Progress

    side = view_of_folder(str(folder), Progress())
    return applied(folder.parent, of_folder(folder.parent / "base", "base", "base"), side)


def test_a_tensor_that_nothing_names_is_refused(patched: Path) -> None:
    damaged(patched, "spare", torch.ones(2))
    with raises("M603", match="spare"):
        again(patched)


def test_values_that_do_not_match_their_indices_are_refused(patched: Path) -> None:
    damaged(patched, "a.0.w.gaps", torch.tensor([200], dtype=torch.uint8))
    with raises("M601", match="indices of a patch do not fit"):
        again(patched)


def test_a_patch_that_does_not_restore_the_copy_is_refused(patched: Path) -> None:
    damaged(patched, "a.0.w.values", torch.tensor([8.0]).bfloat16())
    with raises("M736", match=r"does not restore 'a\.0\.w'"):
        again(patched)


def test_nan_in_a_patch_is_refused_whatever_its_form(patched: Path) -> None:
    damaged(patched, "a.0.w.values", torch.tensor([float("nan")]).bfloat16())
    with raises("M605", match=r"a\.0\.w"):
        again(patched)


def test_a_patch_without_a_record_or_with_a_broken_one_is_refused(patched: Path) -> None:
    (patched / PATCH).write_text("{}")
    with raises("M730", match="not a valid patch"):
        again(patched)
    (patched / PATCH).unlink()
    with raises("M730", match="has no patch.json"):
        again(patched)


def test_first_rows_that_contradict_the_record_are_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path, small())
    copy = {**small(), "a.0.w": small()["a.0.w"][:3].clone()}
    found, _ = patch_of(tmp_path, base, copy_of(tmp_path / "copy", copy))
    assert found.forms["a.0.w"].name == "first rows"
    assert found.bytes == 0
    folder = tmp_path / "p"
    tensors = json.loads((folder / PATCH).read_text())["tensors"]
    tensors["a.0.w"]["first"] = 4
    rewritten(folder, tensors=tensors)
    with raises("M730", match=r"'a\.0\.w' does not match the slice"):
        again(folder)
    tensors["a.0.w"]["first"] = 9
    rewritten(folder, tensors=tensors)
    with raises("M730", match="cannot be the first 9 rows of a tensor of shape"):
        again(folder)


# As a step --------------------------------------------------------------------------------


def test_patches_add_up_with_other_changes(tmp_path: Path) -> None:
    """Two patches of one tensor are added up; at half its scale, a patch goes half the way."""
    old = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    one, two = old.clone(), old.clone()
    one[0] += 1
    two[1] += 2
    base = base_of(tmp_path, {"w": old})
    for name, tensor in (("one", one), ("two", two)):
        patch_of(tmp_path, base, copy_of(tmp_path / f"{name}-copy", {"w": tensor}), name=name)
    modules = {name: of_folder(tmp_path / name, name, "patch") for name in ("one", "two")}
    modules["base"] = base

    def composed(*steps: tuple[str, float]) -> torch.Tensor:
        recipe = Compose(
            base=module_name("base"),
            steps=tuple(
                Step(op="patch", module=module_name(name), scale=scale) for name, scale in steps
            ),
        )
        found = compose(plan("m", "1", recipe, modules), tmp_path / "store")
        from modpkg.compose.mapping import map_tensors

        return map_tensors(found.tensors.items())["w"]

    assert torch.equal(composed(("one", 1.0)), one)
    both = composed(("one", 1.0), ("two", 1.0))
    assert torch.allclose(both, one + two - old)
    assert torch.equal(both, composed(("two", 1.0), ("one", 1.0)))
    assert torch.allclose(composed(("one", 0.5)), (one + old) / 2)


def test_new_tensors_of_a_patch_cannot_be_scaled(tmp_path: Path) -> None:
    base = base_of(tmp_path, small())
    copy = {"a.0.w": small()["a.0.w"], "extra": torch.ones(2).bfloat16()}
    patch_of(tmp_path, base, copy_of(tmp_path / "copy", copy))
    modules = {"base": base, "p": of_folder(tmp_path / "p", "p", "patch")}

    def planned(**step: object) -> object:
        steps = (Step(op="patch", module=module_name("p"), **step),)  # type: ignore[arg-type]
        return plan("m", "1", Compose(base=module_name("base"), steps=steps), modules)

    assert planned()
    with raises("M601", match="has a scale, but the patch has 'extra'"):
        planned(scale=0.5)
    with raises("M601", match="lists what it replaces"):
        planned(replace=("a.",))
