"""A merge that is made again is the same, or what differs is said."""

from __future__ import annotations

from pathlib import Path

import torch
from msgspec.structs import replace

from modpkg.community.patch.merge import ConflictMethod, plan_merge, run_merge
from modpkg.community.patch.remembered_merge import (
    check_same_merge,
    choices_again,
    parents_again,
    remember_merge,
)
from modpkg.community.patch.resolution_file import Choices
from modpkg.core.progress import Progress
from modpkg.manifest.merge import merge_data, read_merge
from modpkg.manifest.schema import RememberedMerge
from modpkg.store.store import Store
from modpkg.toml.node import ManifestSource, Node
from tests.community.changed import base_of, copy_of
from tests.raising import raises


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(6, 5, generator=generator) for name in ("embed", "layers.0.w")}


def merged(folder: Path, *seeds: int) -> RememberedMerge:
    choices = Choices(Path("r.toml"), {"z": "ours", "embed": "base", "a": "ours"})
    base = base_of(folder, weights(0))
    parents = [copy_of(folder / f"copy-{seed}", weights(seed)) for seed in seeds]
    store = Store(folder / "store")
    kept = Choices(choices.path, {"embed": choices.tensors["embed"]})
    merge = plan_merge(base, parents, store, Progress(), kept)
    heavy = copy_of(folder / "heavy", weights(9)).refs()
    how = ConflictMethod(name="fisher", importance=(heavy, heavy), weights=(0.7, 1.0))
    (folder / "scratch").mkdir()
    result = run_merge(merge, how, store, folder / "scratch", Progress())
    return remember_merge(merge, how, choices, result.tensors)


def test_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    found = merged(tmp_path, 1, 2)
    assert [parent.folder for parent in found.parents] == ["copy-1", "copy-2"]
    assert [one.pattern for one in found.resolution] == ["z", "embed", "a"]
    assert (found.conflicts.tensors, found.conflicts.values) == (2, 60)
    node = Node(ManifestSource("a record"), (), {"merge": merge_data(found)})
    assert read_merge(node) == found
    choices = choices_again(found, "m")
    assert choices is not None
    assert list(choices.tensors) == ["z", "embed", "a"]
    assert parents_again(found, ["x", "y"]) == ["x", "y"]
    with raises("M901", match="takes 2 folders"):
        parents_again(found, [])


def test_what_differs_is_said(tmp_path: Path) -> None:
    one = merged(tmp_path / "1", 1, 2)
    check_same_merge(one, merged(tmp_path / "2", 1, 2), "tiny")
    with raises("M236", match="copy-2 has other weights"):
        check_same_merge(one, merged(tmp_path / "3", 1, 3), "tiny")
    with raises("M237", match="merged to sha256:"):
        check_same_merge(one, replace(one, result=f"sha256:{'0' * 64}"), "tiny")
