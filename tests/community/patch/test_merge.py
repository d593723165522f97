"""MergePlan: nothing is chosen silently, and the order of parents changes nothing."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.community.patch.candidate import next_version, write_candidate
from modpkg.community.patch.conflicts import by_layer, conflicts_svg
from modpkg.community.patch.merge import (
    ConflictMethod,
    MergePlan,
    MergeResult,
    plan_merge,
    run_merge,
)
from modpkg.community.patch.method_tournament import rank_methods
from modpkg.community.patch.resolution_file import Choices, read_choices
from modpkg.compose.mapping import map_tensors
from modpkg.core.installed import InstalledModule
from modpkg.core.progress import Progress
from modpkg.core.report import Report, Subject, TestResult
from modpkg.manifest.read import read_manifest
from modpkg.store.store import Store
from tests.community.changed import base_of, copy_of, patch_of, same_bits
from tests.compose.helpers import base as base_module
from tests.raising import raises

NAMES = ("embed", "layers.0.w", "layers.1.w")


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(6, 5, generator=generator).bfloat16() for name in NAMES}


class Case:
    """A base in a folder, and copies of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        self.base: InstalledModule = base_of(folder, weights())

    def begin(self, *copies: Any, choices: dict[str, dict[str, str]] | None = None) -> MergePlan:
        views = [
            copy_of(self.folder / f"copy-{number}", copy) if isinstance(copy, dict) else copy
            for number, copy in enumerate(copies)
        ]
        resolution = None if choices is None else Choices(Path("r.toml"), **choices)
        return plan_merge(self.base, views, self.store, Progress(), resolution)

    def merged(self, merging: MergePlan, method: str | ConflictMethod | None = None) -> MergeResult:
        scratch = Path(tempfile.mkdtemp(dir=self.folder))
        how = ConflictMethod(name=method) if isinstance(method, str) else method
        return run_merge(merging, how, self.store, scratch, Progress())

    def tensors(self, merging: MergePlan, method: Any = None) -> dict[str, torch.Tensor]:
        return map_tensors(self.merged(merging, method).tensors.items())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def changed(seed: int, *names: str) -> dict[str, torch.Tensor]:
    return {**weights(), **{name: weights(seed)[name] for name in names}}


def test_tensors_changed_by_one_parent_need_no_choice(case: Case) -> None:
    merging = case.begin(changed(1, "embed"), changed(2, "layers.1.w"))
    assert merging.overlaps.tensors == ()
    found = case.tensors(merging)
    wanted = {"embed": weights(1)["embed"], "layers.1.w": weights(2)["layers.1.w"]}
    assert same_bits(found, {**weights(), **wanted})


def test_copies_of_tied_tensors_and_buffers_are_no_changes(tmp_path: Path) -> None:
    def model(embedding: torch.Tensor, layer: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"model.embed_tokens.weight": embedding, "layers.1.w": layer}

    def tied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        copy = tensors["model.embed_tokens.weight"].clone()
        return {**tensors, "lm_head.weight": copy, "layers.0.inv_freq": torch.ones(2)}

    old, new = list(weights().values()), list(weights(1).values())
    case = Case(tmp_path)
    whole = tied(model(old[0], old[1]))
    case.base = base_module(tmp_path / "tied", whole, tie_word_embeddings=True)
    merging = case.begin(model(new[0], old[1]), model(old[0], new[1]))
    assert same_bits(case.tensors(merging), tied(model(new[0], new[1])))

    plain = model(old[0], old[1])
    case.base = base_module(tmp_path / "plain", plain, tie_word_embeddings=True)
    merging = case.begin(tied(model(new[0], old[1])), tied(model(old[0], new[1])))
    assert same_bits(case.tensors(merging), model(new[0], new[1]))


def test_changes_at_different_places_of_one_tensor_are_put_together(case: Case) -> None:
    one, two, both = weights(), weights(), weights()
    one["embed"][0] = both["embed"][0] = 3
    two["embed"][2:4] = both["embed"][2:4] = -0.0
    merging = case.begin(one, two)
    (overlap,) = merging.overlaps.tensors
    assert (overlap.positions, overlap.different, overlap.conflicts) == (0, 0, False)
    assert same_bits(case.tensors(merging), both)


def test_conflicts_are_counted_and_nothing_is_chosen_silently(case: Case) -> None:
    one, two = weights(), weights()
    base = weights()["layers.1.w"].clone()
    one["layers.1.w"][0, :4] = base[0, :4] + torch.tensor([1.0, 1.0, 1.0, 1.0]).bfloat16()
    two["layers.1.w"][0, :4] = one["layers.1.w"][0, :4]
    two["layers.1.w"][0, 0] = base[0, 0] - 1  # the other way
    two["layers.1.w"][0, 1] = base[0, 1] + 2  # the same way, farther
    merging = case.begin(one, two)
    (overlap,) = merging.overlaps.tensors
    assert (overlap.positions, overlap.different, overlap.opposite) == (4, 2, 1)
    (row,) = by_layer(merging.overlaps)
    assert (row.layer, row.conflicts, row.different) == (1, 1, 2)
    svg = ElementTree.fromstring(conflicts_svg(merging.overlaps, "t"))
    assert "2 of 30 values differ, 1 with opposite signs" in ElementTree.tostring(svg).decode()
    with raises("M740", match="1 tensors .*2 values, 1 changed in opposite") as error:
        case.merged(merging)
    assert '"layers.1.w" = "ours"' in str(error.value)
    found = case.tensors(merging, "mean")["layers.1.w"]
    mean = (one["layers.1.w"].double() + two["layers.1.w"].double()) / 2
    assert torch.equal(found, mean.bfloat16())


def test_fisher_weighs_each_value_by_its_importance(case: Case) -> None:
    one, two = changed(1, "embed"), changed(2, "embed")
    heavy = copy_of(case.folder / "heavy", {"embed": torch.full((6, 5), 3.0)}).refs()
    light = copy_of(case.folder / "light", {"embed": torch.ones(6, 5)}).refs()
    how = ConflictMethod(name="fisher", importance=(heavy, light))
    found = case.tensors(case.begin(one, two), how)["embed"]
    wanted = (3 * one["embed"].double() + two["embed"].double()) / 4
    assert torch.equal(found, wanted.bfloat16())


def test_a_method_that_does_not_support_the_parents_is_refused(case: Case) -> None:
    merging = case.begin(changed(1, "embed"), changed(2, "embed"))
    with raises("M601", match="'slerp' takes 1 step"):
        case.merged(merging, "slerp")


def test_a_removed_or_reshaped_tensor_needs_a_resolution(case: Case) -> None:
    gone = {name: tensor for name, tensor in weights().items() if name != "embed"}
    merging = case.begin(gone, changed(2, "embed"))
    with raises("M742", match="removed in one, changed in another"):
        case.merged(merging, "mean")
    ours = case.begin(gone, changed(2, "embed"), choices={"tensors": {"emb*": "ours"}})
    assert "embed" not in case.tensors(ours)
    wide = {**weights(), "embed": torch.ones(7, 5).bfloat16()}
    with raises("M742", match="of another shape"):
        case.merged(case.begin(wide, changed(2, "embed")), "mean")
    new = [{**weights(), "new": torch.full((2,), number)} for number in (1.0, 2.0)]
    with raises("M742", match="added in each"):
        case.merged(case.begin(*new), "mean")


def test_one_parent_or_a_stranger_is_refused(case: Case) -> None:
    with raises("M742", match="A single parent"):
        case.begin(weights())
    with raises("M742", match="no tensor in common"):
        case.begin(weights(), {"other": torch.ones(1)})


@st.composite
def copies(draw: st.DrawFn) -> list[dict[str, torch.Tensor]]:
    found = []
    for seed in range(1, draw(st.integers(2, 3)) + 1):
        copy = {name: tensor.clone() for name, tensor in weights().items()}
        for name in NAMES:
            share = draw(st.sampled_from([0.0, 0.1, 1.0]))
            mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)) < share
            copy[name][mask] = weights(seed)[name][mask]
        found.append(copy)
    return found


@settings(max_examples=25)
@given(
    parents=copies(),
    method=st.sampled_from(["mean", "ties", "task-arithmetic", "model-stock"]),
    as_patches=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_merging_commutes(
    parents: list[dict[str, torch.Tensor]], method: str, as_patches: bool, order: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder))
        views: list[Any] = [copy_of(case.folder / f"c{n}", c) for n, c in enumerate(parents)]
        if as_patches:
            views = [
                patch_of(case.folder, case.base, side, name=f"p{number}")[1]
                if not same_bits(parents[number], weights())
                else side
                for number, side in enumerate(views)
            ]
        first = case.merged(case.begin(*views), method)
        order.shuffle(views)
        second = case.merged(case.begin(*views), method)
        assert {n: r.digest for n, r in first.tensors.items()} == {
            n: r.digest for n, r in second.tensors.items()
        }


@settings(max_examples=25)
@given(parents=copies(), words=st.lists(st.sampled_from(["ours", "mean", "base"]), min_size=3))
def test_a_resolution_of_every_conflict_leaves_none_open(
    parents: list[dict[str, torch.Tensor]], words: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder))
        conflicts = [item.name for item in case.begin(*parents).overlaps.conflicts]
        entries = dict(zip(conflicts, words, strict=False))
        merging = case.begin(*parents, choices={"tensors": entries})
        assert not merging.open
        found = case.tensors(merging)
        for name, word in entries.items():
            if word != "mean":
                wanted = weights() if word == "base" else parents[0]
                assert same_bits({name: found[name]}, {name: wanted[name]})


# Resolution files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"embed": "ours", "layers.0.w": "ours"}, "'layers.0.w' names no conflict"),
        ({"ember": "ours"}, "'ember' names no existing tensor"),
        ({"embed": "mine"}, "is 'mine', and can be ours, theirs, mean, base"),
    ],
)
def test_an_entry_that_decides_nothing_is_refused(
    tensors: dict[str, str], reason: str, case: Case
) -> None:
    parents = changed(1, "embed"), changed(2, "embed")
    with raises("M741", match=reason):
        case.begin(*parents, choices={"tensors": tensors})
    with raises("M741", match="names no existing file"):
        case.begin(*parents, choices={"files": {"nothing.json": "ours"}})


def test_the_first_matching_entry_applies(case: Case) -> None:
    one, two = changed(1, *NAMES), changed(2, *NAMES)
    entries = {"layers.1.*": "theirs", "layers.*": "ours", "*": "base"}
    found = case.tensors(case.begin(one, two, choices={"tensors": entries}))
    wanted = {"embed": weights(), "layers.0.w": one, "layers.1.w": two}
    assert same_bits(found, {name: wanted[name][name] for name in NAMES})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[tensors", "is not TOML"),
        ("[tensor]\n", "'tensor' is neither"),
        ("[tensors]\na.b = 'ours'", "quote names with dots"),
    ],
)
def test_a_file_that_is_no_resolution_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with raises("M741", match=reason):
        read_choices(tmp_path / "r.toml")
    with raises("M742", match="no such resolution file"):
        read_choices(tmp_path / "none.toml")


# Files ------------------------------------------------------------------------------------


def test_configurations_merge_by_key_and_other_files_need_a_choice(case: Case) -> None:
    config = json.loads(case.base.files["config.json"].read_text())
    views = [
        copy_of(case.folder / name, changed(seed, name), config={**config, **keys}, words=[name])
        for seed, (name, keys) in enumerate(
            [("embed", {"a": 1, "transformers_version": "5"}), ("layers.0.w", {"b": 2})], start=1
        )
    ]
    merging = case.begin(*views)
    assert [item.path for item in merging.files.conflicts] == ["words.json"]
    with raises("M740", match=r'words\.json .*"words\.json" = "ours"'):
        case.merged(merging, "mean")
    merged = case.merged(case.begin(*views, choices={"files": {"words.json": "theirs"}}))
    assert json.loads(merged.files["words.json"].read_text()) == ["layers.0.w"]
    assert json.loads(merged.files["config.json"].read_text()) == {**config, "a": 1, "b": 2}


def test_one_key_set_to_two_values_is_a_conflict(case: Case) -> None:
    config = json.loads(case.base.files["config.json"].read_text())
    views = [
        copy_of(case.folder / f"s{value}", weights(), config={**config, "a": value})
        for value in (1, 2)
    ]
    (conflict,) = case.begin(*views).files.conflicts
    assert conflict.reason == "'a' is set to different values"


def test_a_candidate_has_the_manifest_of_the_base(case: Case) -> None:
    manifest = {"module": {"name": "base", "version": "1.0", "kind": "base", "license": "MIT"}}
    case.base.record.manifest = manifest
    for name in ("modpkg.toml", "report.json", "words.json"):
        (case.folder / name).write_text("{}")
    files = {name: case.folder / name for name in ("modpkg.toml", "report.json", "words.json")}
    out = case.folder / "out"
    write_candidate(
        case.base, case.base.tensors, files, out, name="base", version="1.1",
        origins=[("two", "1", "merged"), ("one", "1", "merged"), ("one", "1", "merged")],
    )  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == [
        "model.safetensors",
        "modpkg.toml",
        "words.json",
    ]
    found = read_manifest(out / "modpkg.toml")
    assert found.module is not None
    assert str(found.module.version) == "1.1"
    assert [origin.name for origin in found.origins] == ["one", "two"]


# Choosing a method ------------------------------------------------------------------------


def report(value: float, better: Any = "higher", passed: bool = True) -> Report:
    digest = "sha256:" + "0" * 64
    result = TestResult(
        test="t", suite="s", digest=digest, metric="m", better=better, value=value, low=value,
        high=value, cases=1, passed=passed, outcomes=digest,
    )  # fmt: skip
    return Report(
        subject=Subject("s", "1", "base"), composition=digest, engine="1", results=[result]
    )


@pytest.mark.parametrize(
    ("reports", "best"),
    [
        ({"a": report(0.5), "b": report(0.6), "c": report(0.6)}, "b"),
        ({"a": report(5.0, "lower"), "b": report(6.0, "lower")}, "a"),
        ({"a": report(0.9, passed=False), "b": report(0.1)}, "b"),
    ],
)
def test_auto_takes_the_method_that_the_tests_like_best(
    reports: dict[str, Report], best: str
) -> None:
    found = rank_methods(reports)
    assert found[0].method == best


def test_the_next_version_is_a_patch() -> None:
    assert [next_version(text) for text in ("1", "1.4", "2.0.9")] == ["1.0.1", "1.4.1", "2.0.10"]
