"""Resolving: newest first, breadth first; extras, pre-releases, yanks and fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.core.names import parse_requirement
from modpkg.core.records import Expects, Provides, TensorType, TouchedTensor
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from tests.modules import publish_collection
from tests.raising import raises
from tests.resolve.universe import Universe


@pytest.fixture
def universe(tmp_path: Path) -> Universe:
    return Universe(tmp_path / "registry")


def test_the_newest_version_that_fits_is_taken(universe: Universe) -> None:
    for version in ("1.0", "1.10", "1.9", "2.0"):
        universe.add("a", version)
    assert universe.versions("a") == {"a": "2.0"}
    assert universe.versions("a<2") == {"a": "1.10"}


def test_the_answer_is_ordered_breadth_first(universe: Universe) -> None:
    universe.add("top", "1", "b", "a")
    universe.add("a", "1", "c")
    universe.add("b", "1", "d")
    universe.add("c", "1")
    universe.add("d", "1")
    assert list(universe.versions("top")) == ["top", "b", "a", "d", "c"]


def test_an_older_version_is_taken_when_the_newest_cannot_be(universe: Universe) -> None:
    universe.add("top", "1", "a<2", "b")
    universe.add("a", "1")
    universe.add("a", "2")
    universe.add("b", "1", "a<2")
    universe.add("b", "2", "a>=2")
    assert universe.versions("top") == {"top": "1", "a": "1", "b": "1"}


def test_a_cycle_is_no_trouble(universe: Universe) -> None:
    universe.add("a", "1", "b")
    universe.add("b", "1", "a", "b")
    assert universe.versions("a") == {"a": "1", "b": "1"}


def test_extras_add_their_modules_at_the_same_version(universe: Universe) -> None:
    universe.add("a", "1", extras={"news": ["b"], "all": ["a[news]"]})
    universe.add("b", "1")
    found = universe.resolve("a[all]")
    assert list(found.modules) == ["a", "b"]
    assert found.modules["a"].extras == ("all", "news")
    assert universe.versions("a") == {"a": "1"}


def test_an_unknown_extra_is_a_warning(universe: Universe) -> None:
    universe.add("a", "1")
    assert universe.resolve("a[nope]").warnings == ("a 1 has no extra 'nope'",)


def test_final_releases_come_before_prereleases(universe: Universe) -> None:
    for version in ("1.0", "2.0rc1"):
        universe.add("a", version)
    universe.add("only", "1.0a1")
    assert universe.versions("a") == {"a": "1.0"}
    assert universe.versions("a>=2.0rc1") == {"a": "2.0rc1"}
    assert universe.versions("only") == {"only": "1.0a1"}
    assert universe.versions("a>1") == {"a": "2.0rc1"}, "no final release is in the range"
    with raises("M401", match="a is available in 1.0, 2.0rc1"):
        universe.versions("a>=2")


def test_yanked_by_pep_592(universe: Universe) -> None:
    universe.add("a", "1")
    universe.add("a", "2", yanked="wrong labels")
    assert universe.versions("a") == {"a": "1"}
    assert universe.versions("a", locked={"a": "2"}) == {"a": "2"}
    pinned = universe.resolve("a==2")
    assert pinned.warnings == ("a 2 was yanked: wrong labels",)
    with raises("M401", match="a 2 was yanked: wrong labels"):
        universe.versions("a>1")


def test_the_lock_is_kept_where_it_fits(universe: Universe) -> None:
    for version in ("1", "2", "3"):
        universe.add("a", version)
    assert universe.versions("a", locked={"a": "2"}) == {"a": "2"}
    assert universe.versions("a>2", locked={"a": "2"}) == {"a": "3"}


def test_a_base_that_does_not_fit_is_skipped_before_weights_are_fetched(universe: Universe) -> None:
    small = universe.document(Provides(tensors={"w": TensorType("F32", [2, 2])}, ports={}))
    large = universe.document(Provides(tensors={"w": TensorType("F32", [4, 4])}, ports={}))
    touched = TouchedTensor("F32", [2, 2], "sha256:" + "1" * 64)
    expects = universe.document(Expects(tensors={"w": touched}))
    universe.add("base", "1", provides=small)
    universe.add("base", "2", provides=large)
    universe.add("lora", "1", "base", expects={"base": expects})
    assert universe.versions("lora") == {"lora": "1", "base": "1"}
    with raises("M401", match=r"tensor 'w' has shape \[4, 4\], not \[2, 2\]"):
        universe.versions("lora", "base>=2")


def test_a_conflict_names_the_requirements_and_where_they_are_written(universe: Universe) -> None:
    universe.add("a", "1", "c<2")
    universe.add("b", "1", "c>=2")
    universe.add("c", "1")
    universe.add("c", "2")
    with raises("M401") as caught:
        universe.versions("a", "b")
    text = str(caught.value)
    assert "a 1 needs c<2." in text
    assert "b 1 needs c>=2." in text


def test_a_root_out_of_range_names_its_line(universe: Universe) -> None:
    universe.add("a", "1")
    with raises("M401") as caught:
        universe.versions("a", "a>=3")
    assert "modpkg.toml:2 needs a>=3." in str(caught.value)
    assert "a is available in 1." in str(caught.value)


def test_an_unknown_name_suggests_a_near_one(universe: Universe) -> None:
    universe.add("summarizer", "1")
    with raises("M304", match="did you mean 'summarizer'"):
        universe.versions("sumarizer")


def test_the_answer_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    answers = []
    for number, order in enumerate((("1", "2", "3"), ("3", "1", "2"))):
        universe = Universe(tmp_path / str(number))
        for version in order:
            universe.add("a", version)
        answers.append(universe.versions("a<3"))
    assert answers == [{"a": "2"}, {"a": "2"}]


def test_published_modules_resolve(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "lib", "1.0")
    publish_collection(registry, "top", "1.0", {"lib": "^1.0"})
    found = resolve(
        root_needs("top", (), parse_requirement("top").specifier, ""),
        Catalog(Registry(str(registry))),
    )
    assert [str(c.release) for c in found.modules.values()] == ["top 1.0", "lib 1.0"]
