"""The vectors: what the code writes today, and what it says of each bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.errors import ModpkgError
from modpkg.core.names import module_name, parse_requirement, parse_version, requirement_text
from modpkg.registry.reader import Registry
from modpkg.release.places import chain_of, entries_by_identity
from modpkg.resolve.lock import read_lock
from registry_spec import VECTORS
from registry_spec.judge import JUDGES, compose, decoded, fit
from registry_spec.vectors import YANKED, write_vectors
from tests.resolve.universe import Universe


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".gitattributes"
    }


def load(path: str) -> Any:
    return json.loads((VECTORS / path).read_text("utf-8"))


def test_the_committed_vectors_are_what_the_code_writes(tmp_path: Path) -> None:
    write_vectors(tmp_path / "one")
    write_vectors(tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert tree(tmp_path / "one") == tree(VECTORS), "run: python -m registry_spec vectors"


def test_the_vectors_are_small() -> None:
    assert sum(map(len, tree(VECTORS).values())) < 140_000


def test_the_vectors_have_a_module_of_each_kind() -> None:
    registry = Registry(str(VECTORS / "registry"))
    kinds = {line.kind for name in registry.names() or [] for line in registry.index(name)}
    assert kinds == {"base", "adapter", "model", "collection"}
    assert registry.line(*YANKED[:2]).yanked == YANKED[2]
    expects = registry.expects(registry.line("tiny-lora", "1.0").expects["tiny-base"])
    assert list(expects.tensors) == ["layers.0.weight"]


def test_the_lock_leaves_out_the_yanked_release_and_the_prerelease() -> None:
    lock = read_lock(VECTORS / "modpkg.lock")
    assert lock is not None
    assert [(module.name, module.version) for module in lock.module] == [
        ("tiny-model", "1.0.0"),
        ("tiny-lora", "1.0.0"),
        ("tiny-base", "1.0.0"),
        ("tiny-set", "1.0.0"),
    ]


INVALID = [
    pytest.param(section, case["input"], case["code"], id=f"{section}: {case['why']}")
    for section, cases in load("invalid/invalid.json").items()
    for case in cases
]


@pytest.mark.parametrize(("section", "given", "code"), INVALID)
def test_each_invalid_input_gives_its_code(section: str, given: Any, code: str) -> None:
    with pytest.raises(ModpkgError) as caught:
        JUDGES[section](given)
    assert caught.value.code == code


def test_every_section_of_invalid_inputs_has_a_reader() -> None:
    assert load("invalid/invalid.json").keys() == JUDGES.keys()


@pytest.mark.parametrize("case", load("fits.json"), ids=lambda case: case["why"])
def test_each_pair_of_interfaces_has_its_fit(case: dict[str, Any]) -> None:
    assert fit(case) == case["outcome"]


@pytest.mark.parametrize("case", load("resolution.json"), ids=lambda case: case["why"])
def test_each_resolution_has_its_versions(case: dict[str, Any], tmp_path: Path) -> None:
    universe = Universe(tmp_path / "registry")
    for release, requires in case["releases"].items():
        universe.add(*release.split("=="), *requires)
    settings = dict(case.get("resolution", {}))
    if "prereleases" in settings:
        settings["prereleases"] = frozenset(settings["prereleases"])
    assert (
        universe.versions(*case["roots"], locked=case.get("locked"), **settings) == case["chosen"]
    )


@pytest.mark.parametrize("case", load("compose.json"), ids=lambda case: case["why"])
def test_each_recipe_has_its_normal_form(case: dict[str, Any]) -> None:
    assert compose(case["written"]) == case["normal"]


@pytest.mark.parametrize("case", load("decoded.json"), ids=lambda case: case["why"])
def test_each_payload_decodes_to_its_tensor(case: dict[str, Any]) -> None:
    assert decoded(case["input"]).hex() == case["tensor"]


def test_the_vectors_hold_every_encoding_and_a_chain() -> None:
    registry = Registry(str(VECTORS / "registry"))
    first, second, third = map(registry.record, registry.index("tiny-tune"))
    assert all(entry.encoding is None for entry in first.tensors.values())
    methods = {n: e.encoding and e.encoding.method for n, e in second.tensors.items()}
    assert methods == {
        "few.weight": "sparse",
        "little.weight": "difference",
        "other.weight": "planes",
        "same.weight": None,
    }
    chain = chain_of(third.tensors["few.weight"], entries_by_identity(third).get)
    assert [entry.digest for entry in chain] == [
        record.tensors["few.weight"].digest for record in (second, first)
    ]
    fork = registry.record(registry.line("tiny-fork", "1.0.0"))
    assert (fork.tensors, fork.sources) == (third.tensors, third.sources)


def test_normal_forms() -> None:
    normal = load("normal.json")
    assert {text: module_name(text) for text in normal["names"]} == normal["names"]
    for text, wanted in normal["requirements"].items():
        found = parse_requirement(text)
        assert requirement_text(found.name, found.extras, found.specifier) == wanted
    for one, other in normal["equal_versions"]:
        assert parse_version(one) == parse_version(other)
