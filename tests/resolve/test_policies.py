"""What a project asks of every resolution: strategies, bounds, cool-down, the engine itself."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from packaging.version import Version

from modpkg.core.records import (
    Expects,
    Provenance,
    Provides,
    ReleaseRecord,
    TensorEntry,
    TensorType,
    TouchedTensor,
    canonical_json,
)
from modpkg.core.tree import BlobTree
from modpkg.registry.reader import Registry
from tests.raising import raises
from tests.resolve.universe import Universe, bound


@pytest.fixture
def universe(tmp_path: Path) -> Universe:
    return Universe(tmp_path / "registry")


@pytest.fixture
def shop(universe: Universe) -> Universe:
    """top needs mid, mid needs lib; each in three versions."""
    for version in ("1", "2", "3"):
        universe.add("top", version, "mid")
        universe.add("mid", version, "lib")
        universe.add("lib", version)
    return universe


# Strategies


def test_highest_lowest_and_lowest_direct(shop: Universe) -> None:
    assert shop.versions("top") == {"top": "3", "mid": "3", "lib": "3"}
    assert shop.versions("top>=2", strategy="lowest") == {"top": "2", "mid": "1", "lib": "1"}
    assert shop.versions("top>=2", strategy="lowest-direct") == {"top": "2", "mid": "3", "lib": "3"}


def test_a_direct_module_is_lowest_wherever_else_it_is_needed(shop: Universe) -> None:
    found = shop.versions("top", "lib>=2", strategy="lowest-direct")
    assert found == {"top": "1", "lib": "2", "mid": "3"}


def test_lowest_rises_only_where_required(universe: Universe) -> None:
    universe.add("a", "1", "c>=2")
    universe.add("a", "2")
    universe.add("b", "1")
    universe.add("c", "1")
    universe.add("c", "2", "b>=2")
    assert universe.versions("a", "b", strategy="lowest") == {"a": "2", "b": "1"}


def test_the_lock_comes_before_the_strategy(shop: Universe) -> None:
    assert shop.versions("top", locked={"top": "2"}, strategy="lowest")["top"] == "2"


# Keeping the lock


def test_upgrading_one_module_keeps_the_others(shop: Universe) -> None:
    locked = {"top": "1", "mid": "1"}  # the lock without lib: that is what --upgrade-package means
    assert shop.versions("top", locked=locked) == {"top": "1", "mid": "1", "lib": "3"}


def test_upgrading_one_module_moves_only_what_it_must(universe: Universe) -> None:
    universe.add("a", "1", "c<2")
    universe.add("a", "2", "c>=2")
    for version in ("1", "2", "3"):
        universe.add("c", version)
        universe.add("d", version)
    locked = {"a": "1", "c": "1", "d": "1"}
    assert universe.versions("a", "c", "d", locked=locked) == locked
    del locked["c"]  # c may move, but a, which is kept, holds it
    assert universe.versions("a", "c", "d", locked=locked) == {"a": "1", "c": "1", "d": "1"}
    locked = {"c": "1", "d": "1"}  # a moves, and takes c with it; d stays
    assert universe.versions("a", "c", "d", locked=locked) == {"a": "2", "c": "3", "d": "1"}


def test_a_new_module_does_not_move_locked_versions(universe: Universe) -> None:
    universe.add("top", "1", "lib<3", "other")
    universe.add("top", "2", "lib", "other")
    for version in ("1", "2", "3"):
        universe.add("new", version, f"lib>={version}")
        universe.add("lib", version)
        universe.add("other", version)
    locked = {"top": "1", "lib": "1", "other": "1"}
    found = universe.versions("new", "top", locked=locked)  # lib moves too, top holds it back
    assert found == {"new": "2", "top": "1", "lib": "2", "other": "1"}
    found = universe.versions("new>=3", "top", locked=locked)  # now top has to move too
    assert found == {"new": "3", "top": "2", "lib": "3", "other": "1"}


def test_locked_versions_do_not_depend_on_a_cycle(universe: Universe) -> None:
    for version in ("1", "2"):
        universe.add("a", version, "b")
        universe.add("b", version, "c")
        universe.add("c", version, "b")
        universe.add("d", version)
    locked = {"a": "1", "b": "1", "d": "1"}
    assert universe.versions("a", "d", locked=locked) == {"a": "1", "d": "1", "b": "1", "c": "2"}


def test_a_locked_version_out_of_a_roots_range_moves_alone(universe: Universe) -> None:
    for version in ("1", "2", "3"):
        universe.add("a", version)
        universe.add("b", version)
    locked = {"a": "1", "b": "2"}
    assert universe.versions("a>1", "b", locked=locked) == {"a": "3", "b": "2"}


# Constraints and overrides


def test_a_constraint_narrows_and_does_not_require(shop: Universe) -> None:
    shop.add("other", "1")
    narrow = {"lib": bound("<3"), "other": bound("<2")}
    assert shop.versions("top", constraints=narrow) == {"top": "3", "mid": "3", "lib": "2"}


def test_a_constraint_is_shown_with_its_line(shop: Universe) -> None:
    with raises("M401") as caught:
        shop.versions("lib>=3", constraints={"lib": bound("<3", "modpkg.toml:7")})
    assert "lib 3 is excluded by the constraint lib<3 (modpkg.toml:7)." in str(caught.value)


def test_an_override_replaces_every_requirement(universe: Universe) -> None:
    universe.add("a", "1", "lib<2")
    universe.add("b", "1", "lib==1")
    universe.add("lib", "1", extras={"fast": ["quick"]})
    universe.add("lib", "3", extras={"fast": ["quick"]})
    universe.add("quick", "1")
    assert universe.versions("a", "b", overrides={"lib": ">=2"})["lib"] == "3"
    assert universe.versions("a", "lib[fast]<2", overrides={"lib": "==3"}) == {
        "a": "1",
        "lib": "3",
        "quick": "1",
    }
    with raises("M401") as caught:
        universe.versions("lib", overrides={"lib": ">=9"})
    assert "modpkg.toml:9 (an override) needs lib>=9." in str(caught.value)
    assert "Every requirement on lib is replaced by lib>=9, an override in modpkg.toml:9." in str(
        caught.value
    )


def test_a_constraint_holds_under_an_override_too(shop: Universe) -> None:
    found = shop.versions(
        "top", overrides={"lib": ">=1"}, constraints={"lib": bound("<2")}, strategy="highest"
    )
    assert found["lib"] == "1"


# Pre-releases and yanked releases


def test_prereleases_of_a_name_can_count_as_final_ones(universe: Universe) -> None:
    universe.add("a", "1", "lib", "other")
    for name in ("lib", "other"):
        universe.add(name, "1.0")
        universe.add(name, "2.0rc1")
    found = universe.versions("a", prereleases=frozenset({"lib"}))
    assert found == {"a": "1", "lib": "2.0rc1", "other": "1.0"}
    assert universe.versions("a", "lib>=1.0a1")["lib"] == "1.0"
    assert universe.versions("a", constraints={"lib": bound(">=2.0rc1")})["lib"] == "2.0rc1"
    assert universe.versions("a", overrides={"lib": "==2.0rc1"})["lib"] == "2.0rc1"


def test_a_module_that_needs_a_prerelease_gets_it(universe: Universe) -> None:
    universe.add("a", "1", "lib>=2.0b1")
    universe.add("b", "1", "lib")
    for version in ("1.0", "2.0a1", "2.0b1", "2.0b2"):
        universe.add("lib", version)
    assert universe.versions("a", "b") == {"a": "1", "b": "1", "lib": "2.0b2"}
    assert universe.versions("b", "a", strategy="lowest")["lib"] == "2.0b1"
    assert universe.versions("b") == {"b": "1", "lib": "1.0"}


def test_a_range_from_a_prerelease_takes_the_final_release(universe: Universe) -> None:
    for version in ("0.1.0a1", "0.2.0", "0.3.0", "1.0.0a1"):
        universe.add("a", version)
    assert universe.versions("a>=0.1.0a1") == {"a": "0.3.0"}
    assert universe.versions("a>=0.1.0a1", strategy="lowest") == {"a": "0.2.0"}
    assert universe.versions("a>0.3.0") == {"a": "1.0.0a1"}
    assert universe.versions("a==0.1.0a1") == {"a": "0.1.0a1"}


def test_a_prerelease_is_taken_where_each_final_release_conflicts(universe: Universe) -> None:
    universe.add("a", "1", "b")
    universe.add("b", "1", "c<2")
    universe.add("b", "2rc1", "c")
    universe.add("c", "1")
    universe.add("c", "2")
    assert universe.versions("a", "c>=2") == {"a": "1", "c": "2", "b": "2rc1"}
    assert universe.versions("a") == {"a": "1", "b": "1", "c": "1"}


# Fit


@pytest.fixture
def bases(universe: Universe) -> Universe:
    """base in versions 1, 1.1 (with the weights of 1) and 2; lora was made for those of 1."""
    provides = universe.document(Provides(tensors={"w": TensorType("F32", [1])}, ports={}))
    made_for, other = ("sha256:" + digit * 64 for digit in "89")
    for version, weights in (("1", made_for), ("1.1", made_for), ("2", other)):
        tensors = {"w": TensorEntry("F32", [1], weights, pack=other, offset=0, length=4)}
        record = ReleaseRecord(
            name="base",
            version=version,
            kind="collection",
            license="MIT",
            manifest={},
            packs={other: 4},
            tensors=tensors,
            provides=provides,
            provenance=Provenance(built_with="hand"),
        )
        release = BlobTree(universe.folder).add(canonical_json(record))
        universe.add("base", version, provides=provides, release=release)
    for name, weights in (("lora", made_for), ("other", other)):
        touched = Expects(tensors={"w": TouchedTensor("F32", [1], weights)})
        universe.add(name, "1", "base", expects={"base": universe.document(touched)})
    return universe


@pytest.mark.parametrize("roots", [["lora"], ["base", "lora"], ["lora", "base"], ["model"]])
def test_a_base_that_a_module_fits_exactly_is_preferred(bases: Universe, roots: list[str]) -> None:
    bases.add("model", "1", "base", "lora")
    assert bases.versions(*roots)["base"] == "1.1", "the newest one with these weights"
    assert bases.versions(*roots, fit="any")["base"] == "2"
    assert bases.versions(*roots, strategy="lowest")["base"] == "1"
    assert bases.versions("base") == {"base": "2"}
    assert bases.versions("lora", "base>=2")["base"] == "2", "drift is allowed"


def test_the_lock_comes_before_an_exact_fit(bases: Universe) -> None:
    assert bases.versions("lora", locked={"base": "2"})["base"] == "2"
    assert bases.versions("lora", locked={"base": "2"}, strict=True)["base"] == "1.1"


def test_the_base_is_taken_on_which_the_fewest_modules_drift(bases: Universe) -> None:
    assert bases.versions("lora", "other")["base"] == "2", "one drifts on each"
    bases.add("third", "1", "base", expects=bases.expects("lora"))
    assert bases.versions("other", "lora", "third")["base"] == "1.1"


def test_the_newest_module_decides_and_not_the_newest_base(bases: Universe) -> None:
    bases.add("lora", "2", "base", expects=bases.expects("other"))
    assert bases.versions("base", "lora") == {"base": "2", "lora": "2"}
    assert bases.versions("base<2", "lora") == {"base": "1.1", "lora": "2"}
    assert bases.versions("base<2", "lora", strict=True) == {"base": "1.1", "lora": "1"}


def test_a_final_base_comes_before_a_prerelease_that_fits_exactly(bases: Universe) -> None:
    bases.add("rc", "1", "base>=2", expects=bases.expects("lora"))
    line = bases.line("base", "1")
    bases.add("base", "3rc1", provides=line.provides, release=bases.again(line, "3rc1"))
    assert bases.versions("rc")["base"] == "2"
    assert bases.versions("rc", strict=True)["base"] == "3rc1"


def test_a_base_without_its_record_fits_nothing_exactly(bases: Universe) -> None:
    bases.add("base", "1.2", provides=bases.line("base", "1").provides)
    assert bases.versions("lora")["base"] == "1.1"
    assert bases.versions("lora", "base>=1.2,<2")["base"] == "1.2"
    with raises("M401", match="the release record of base 1.2 is missing or damaged"):
        bases.versions("lora", "base>=1.2,<2", strict=True)


def test_no_record_is_read_without_a_choice(
    bases: Universe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a record was read")

    monkeypatch.setattr(Registry, "record", fail)
    assert bases.versions("base") == {"base": "2"}
    assert bases.versions("lora", "base==1")["base"] == "1"
    assert bases.versions("lora", locked={"lora": "1", "base": "2"})["base"] == "2"


def test_a_locked_prerelease_stays_and_admits_no_other(universe: Universe) -> None:
    for version in ("1.0", "2.0rc1", "2.0rc2"):
        universe.add("a", version)
    assert universe.versions("a", locked={"a": "2.0rc1"}) == {"a": "2.0rc1"}
    assert universe.versions("a", locked={}) == {"a": "1.0"}


def test_a_locked_prerelease_is_no_final_release(universe: Universe) -> None:
    universe.add("b", "1", "a>=1.0a2")
    universe.add("a", "1.0a1")
    universe.add("a", "1.0a2")
    assert universe.versions("a", "b", locked={"a": "1.0a1"}) == {"a": "1.0a2", "b": "1"}


def test_yanked_only_when_pinned_by_a_root_or_locked(universe: Universe) -> None:
    universe.add("a", "1", "lib==2")
    universe.add("lib", "1")
    universe.add("lib", "2", yanked="")
    with raises("M401", match="lib 2 was yanked: no reason was given"):
        universe.versions("a")
    for asked in ("lib==2", "lib===2"):
        found = universe.resolve("a", asked)
        assert found.warnings == ("lib 2 was yanked: no reason was given",)
    assert universe.versions("a", locked={"lib": "2"})["lib"] == "2"
    assert universe.versions("a", constraints={"lib": bound("==2")})["lib"] == "2"
    with raises("M401"):
        universe.versions("lib==2.*")


# Cool-down


def test_releases_newer_than_the_cutoff_are_excluded(universe: Universe) -> None:
    universe.add("a", "1", published="2026-01-01T00:00:00Z")
    universe.add("a", "2", published="2026-02-01T00:00:00Z")
    universe.add("a", "3", published="2026-02-01T01:00:01+01:00")
    universe.add("local", "1", published="")
    universe.add("odd", "1", published="yesterday")
    cutoff = datetime(2026, 2, 1, tzinfo=timezone.utc)
    assert universe.versions("a", cutoff=cutoff) == {"a": "2"}
    exempt = universe.versions("a", "local", cutoff=cutoff, cutoffs={"local": None})
    assert exempt == {"a": "2", "local": "1"}
    with raises("M401", match="local 1 has no publication time"):
        universe.versions("local", cutoff=cutoff)  # nothing that a registry leaves out helps it
    assert universe.versions("a", cutoff=cutoff, cutoffs={"a": None}) == {"a": "3"}
    early = datetime(2026, 1, 15, tzinfo=timezone.utc)
    assert universe.versions("a", cutoff=cutoff, cutoffs={"a": early}) == {"a": "1"}
    assert universe.versions("a", cutoffs={"a": early}) == {"a": "1"}
    with raises("M401", match="a 3 was published .* after the cut-off 2026"):
        universe.versions("a>2", cutoff=cutoff)
    with raises("M401", match="has no publication time"):
        universe.versions("odd", cutoff=cutoff)


def test_the_lock_is_no_way_around_the_cutoff(universe: Universe) -> None:
    universe.add("a", "1", published="2026-01-01T00:00:00Z")
    universe.add("a", "2", published="2026-02-01T00:00:00Z")
    cutoff = datetime(2026, 1, 15, tzinfo=timezone.utc)
    assert universe.versions("a", locked={"a": "2"}, cutoff=cutoff) == {"a": "1"}


def test_a_final_release_after_the_cutoff_leaves_prereleases_alone_there(
    universe: Universe,
) -> None:
    universe.add("a", "1rc1", published="2026-01-01T00:00:00Z")
    universe.add("a", "1", published="2026-02-01T00:00:00Z")
    cutoff = datetime(2026, 1, 15, tzinfo=timezone.utc)
    assert universe.versions("a", cutoff=cutoff) == {"a": "1rc1"}


# The engine


def test_a_release_that_requires_a_newer_modpkg_is_skipped(universe: Universe) -> None:
    universe.add("a", "1")
    universe.add("a", "2", requires_modpkg=">=9")
    universe.add("a", "3", requires_modpkg="what is this")
    assert universe.versions("a") == {"a": "1"}
    assert universe.versions("a", engine=Version("9.1")) == {"a": "2"}
    with raises("M401", match=r"a 2 requires modpkg >=9, and this is modpkg 0"):
        universe.versions("a>1")


# Extras


def test_extras_are_normal_and_may_need_extras(universe: Universe) -> None:
    universe.add("a", "1", extras={"Big_News": ["b[X.Y]>=1"], "all": ["a[big.news]"]})
    universe.add("b", "1", extras={"x-y": ["c"]})
    universe.add("b", "2")
    universe.add("c", "1")
    found = universe.resolve("A[ALL]")
    assert found.modules["a"].extras == ("all", "big-news")  # type: ignore[index]
    assert found.warnings == ("b 2 has no extra 'x-y'",)
    assert universe.versions("a[all]", "b<2") == {"a": "1", "b": "1", "c": "1"}


def test_an_extra_is_of_the_same_version_as_its_module(universe: Universe) -> None:
    universe.add("a", "1", extras={"x": ["c<2"]})
    universe.add("a", "2", extras={"x": ["c>=2"]})
    universe.add("b", "1", "a[x]<2")
    universe.add("c", "1")
    universe.add("c", "2")
    assert universe.versions("a", "b") == {"a": "1", "b": "1", "c": "1"}
    with raises("M401"):
        universe.versions("a[x]>=2", "b")


def test_extras_in_a_circle(universe: Universe) -> None:
    universe.add("a", "1", extras={"x": ["b[y]"]})
    universe.add("b", "1", extras={"y": ["a[x]"]})
    assert universe.versions("a[x]") == {"a": "1", "b": "1"}


# Bad input


def test_a_missing_dependency_is_shown_with_a_similar_name(universe: Universe) -> None:
    universe.add("a", "1", "summarizr")
    universe.add("summarizer", "1")
    with raises("M401") as caught:
        universe.versions("a")
    assert "a 1 needs any version of summarizr." in str(caught.value)
    assert "; did you mean 'summarizer'?" in str(caught.value)


def test_an_older_version_without_the_missing_dependency_is_tried(universe: Universe) -> None:
    universe.add("a", "1")
    universe.add("a", "2", "ghost")
    assert universe.versions("a") == {"a": "1"}


def test_bad_rows_are_skipped_and_the_rest_works(universe: Universe) -> None:
    universe.add("a", "1")
    universe.write("a", b'{"name": "a", "version"')
    universe.write("a", b'{"name":"a","version":"8","spec":2,"shape":{"new":1}}')
    universe.add("a", "9", "not a requirement !!")
    universe.add("a", "2")
    assert universe.versions("a") == {"a": "2"}
    (warning,) = universe.warnings
    assert "a.jsonl:2: skipped, " in warning
    assert warning.endswith("; 2 other lines of the file skipped too")


def test_an_index_without_a_valid_line_is_not_a_missing_index(universe: Universe) -> None:
    universe.write("a", b"garbage")
    with raises("M304", match="that can be read .its index file has no valid line"):
        universe.versions("a")


def test_two_rows_of_one_version_are_named_both(universe: Universe) -> None:
    universe.add("top", "1", "a")
    universe.add("a", "1.0")
    universe.add("a", "1")
    with raises("M209", match=r"a\.jsonl .*lines 1 and 2 are both of version 1"):
        universe.versions("top")


def test_a_module_that_needs_itself(universe: Universe) -> None:
    universe.add("a", "1", "a")
    universe.add("a", "2", "a>=2")
    universe.add("a", "3", "a<3")
    assert universe.versions("a") == {"a": "2"}
    universe.add("b", "1", "b>1")
    with raises("M401", match="b 1 needs b>1"):
        universe.versions("b")


@pytest.mark.parametrize("asked", ["a>2,<1", "a==7", "a>=1,!=1,!=2", "a<0"])
def test_unsatisfiable_requirements_list_the_available_versions(
    universe: Universe, asked: str
) -> None:
    universe.add("a", "1")
    universe.add("a", "2")
    with raises("M401", match="a is available in 2, 1"):
        universe.versions(asked)
