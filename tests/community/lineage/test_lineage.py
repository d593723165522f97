"""Forks and lineage: where a module comes from, identified by digests."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.community.lineage import lineage as lineages
from modpkg.community.lineage.lineage import (
    Ancestor,
    Lineage,
    Parent,
    in_order,
    read_lineage,
    tree_lines,
)
from modpkg.community.lineage.svg import lineage_svg
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.records import BuiltFrom, Provenance, ReleaseRecord, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.manifest.normal import manifest_text, normal_form
from modpkg.manifest.read import parse_manifest
from modpkg.registry.reader import Registry
from registry_spec.check import check
from tests.command import modpkg, modpkg_json, refused
from tests.manifest.strategies import manifests, steady, steady_manifests, toml
from tests.modules import write_module
from tests.tiny import publish, write_adapter, write_base, write_model


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with tiny 1.0 and 2.0, and a fork of the latter that was merged once."""
    folder = tmp_path / "registry"
    monkeypatch.setenv("MODPKG_REGISTRY", str(folder))
    publish(write_base(tmp_path / "one"), folder)
    two = write_base(tmp_path / "two", "2.0", seed=2)
    add(two, ("tiny", "1.0", "trained"))
    publish(two, folder)
    return folder


def add(project: Path, *origins: tuple[str, str, str]) -> None:
    path = project / "modpkg.toml"
    listed = ", ".join(
        f'{{ name = "{name}", version = "{version}", relation = "{relation}" }}'
        for name, version, relation in origins
    )
    path.write_text(f"{path.read_text()}[provenance]\nbuilt-from = [{listed}]\n")


def test_a_fork_of_a_fork_moves_no_weights(registry: Path, tmp_path: Path) -> None:
    said = modpkg("fork", "tiny", "mine", "--registry", str(registry)).stdout
    assert f"modpkg build mine --registry {registry}" in said
    assert "tiny 2.0" in modpkg("log", "tiny").stdout
    lines = []
    for name in ("mine", "yours"):
        if name == "yours":
            modpkg("fork", "mine==1.0.0", "yours", "--out", "folder")
        folder = Path("mine" if name == "mine" else "folder")
        built = modpkg_json("build", folder)
        assert (built["weights"]["unchanged"], built["weights"]["new_bytes"]) == (20, 0)
        lines.append(modpkg_json("publish", folder))
    assert all(line["size"] < 10_000 for line in lines)
    reader = Registry(str(registry))
    tiny, yours = (reader.record(reader.line(n, v)) for n, v in (("tiny", "2.0"), ("yours", "1")))
    assert (tiny.tensors, tiny.files, tiny.provides) == (yours.tensors, yours.files, yours.provides)
    assert (yours.license, yours.summary, yours.kind) == (tiny.license, tiny.summary, tiny.kind)
    (origin,) = yours.provenance.built_from
    assert (origin.name, origin.version, origin.relation) == ("mine", "1.0.0", "forked")
    assert origin.release == lines[0]["release"]
    assert check(str(registry)).problems == []
    output = modpkg("log", "yours").stdout.splitlines()
    assert [line.split("  ")[0].strip("└─ ") for line in output[:1]] == ["yours 1.0.0"]
    assert "└── forked from mine 1.0.0" in output[1]
    assert "    └── forked from tiny 2.0" in output[2]
    assert "        └── trained from tiny 1.0" in output[3]


def test_every_kind_can_be_forked(registry: Path, tmp_path: Path) -> None:
    publish(write_adapter(tmp_path / "lora", base=">=2"), registry)
    publish(write_model(tmp_path / "talker"), registry)
    suite = write_module(
        tmp_path / "suite",
        "suite",
        kind="suite",
        more='[[tests]]\nname = "t"\ncases = "tests/[c].jsonl"\nmetric = "accuracy"\n'
        '[files]\ninclude = ["tests/*"]\n',
        files={"tests/[c].jsonl": b'{"text": "a", "expected": "b"}\n'},
    )
    publish(suite, registry)
    for name in ("tiny-lora", "talker", "suite"):
        modpkg("fork", name, f"my-{name}")
        modpkg("build", f"my-{name}")
        modpkg("publish", f"my-{name}")
        reader = Registry(str(registry))
        old, new = (
            reader.record(reader.line(n, v)) for n, v in ((name, "1.0"), (f"my-{name}", "1.0.0"))
        )
        assert (old.tensors, old.files, old.requires) == (new.tensors, new.files, new.requires)
        assert old.expects == new.expects
    assert 'against = "tiny==2.0"' in Path("my-tiny-lora/modpkg.toml").read_text()
    assert check(str(registry)).problems == []


def test_a_failed_fork_leaves_nothing(registry: Path) -> None:
    assert "another name" in refused("fork", "tiny", "Tiny", status=2)
    assert "error[M312]" in refused("fork", "tiny==9", "mine")
    assert "error[M304]" in refused("fork", "nobody", "mine")
    Path("mine").mkdir()
    Path("mine/file").touch()
    assert "error[M803]" in refused("fork", "tiny", "mine")
    assert [path.name for path in Path().iterdir()] == ["mine"]


def test_a_lineage_has_every_release_with_its_digest(registry: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", base=">=2")
    add(adapter, ("tiny", "2.0", "patched"))
    publish(adapter, registry)
    merged = write_base(tmp_path / "merged", "3.0", seed=3)
    add(merged, ("tiny", "2.0", "merged"), ("tiny-lora", "1.0", "merged"))
    publish(merged, registry)
    result = modpkg_json("log", "tiny")
    reader = Registry(str(registry))
    digests = {line.version: line.release for line in reader.index("tiny")}
    assert result["releases"] == [digests["3.0"], digests["2.0"], digests["1.0"]]
    lora = reader.line("tiny-lora", "1.0").release
    assert result["ancestors"][digests["3.0"]]["parents"] == [
        {"release": digests["2.0"], "relation": "merged"},
        {"release": lora, "relation": "merged"},
    ]
    assert result["ancestors"][lora]["parents"] == [
        {"release": digests["2.0"], "relation": "patched"}
    ]
    modpkg("log", "tiny", "--svg", "tiny.svg")
    picture = ElementTree.parse("tiny.svg").getroot()
    shapes = [element.tag.rpartition("}")[2] for element in picture.iter()]
    assert (shapes.count("circle"), shapes.count("path")) == (4, 4)
    text = Path("tiny.svg").read_text()
    assert all(digest in text for digest in (*digests.values(), lora))
    modpkg("log", "tiny", "--svg", "again.svg")
    assert Path("again.svg").read_text() == text


def test_missing_ancestors_are_named(registry: Path, tmp_path: Path) -> None:
    modpkg("fork", "tiny", "mine")
    modpkg("build", "mine")
    modpkg("publish", "mine")
    line = Registry(str(registry)).line("tiny", "2.0")
    shutil.move(registry / "index" / "tiny.jsonl", tmp_path / "kept")
    assert "forked from tiny 2.0" in modpkg("log", "mine").stdout
    assert "missing: not in" in modpkg("log", "mine").stdout
    # the registry has another release of that version: only digests differ
    publish(write_base(tmp_path / "other", "2.0", seed=7), registry)
    assert "missing: another release has this version in" in modpkg("log", "mine").stdout
    # its record is damaged
    shutil.move(tmp_path / "kept", registry / "index" / "tiny.jsonl")
    blob = BlobTree(registry).path(Digest(line.release))
    blob.chmod(0o644)
    blob.write_bytes(b"{}")
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    assert "missing: cannot be read" in modpkg("log", "mine").stdout


def hostile(registry: Path, name: str, origins: list[BuiltFrom]) -> str:
    """Publish a record by hand, made of what its maker likes; return its digest."""
    module = {"kind": "collection", "license": "MIT", "name": name, "version": "1.0"}
    record = ReleaseRecord(
        name=name,
        version="1.0",
        kind="collection",
        license="MIT",
        manifest={"module": module},
        provenance=Provenance(built_with="hand", built_from=origins),
    )
    release = BlobTree(registry).add(canonical_json(record))
    line = {"name": name, "version": "1.0", "kind": "collection", "release": release}
    (registry / "index" / f"{name}.jsonl").write_bytes(canonical_json(line) + b"\n")
    return release


def test_hostile_records_are_read_to_an_end(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # names that climb, and versions that are none, are not followed
    hostile(registry, "evil", [BuiltFrom("../../etc", "1.0", digest_bytes(b"x"))])
    output = modpkg("log", "evil").stdout
    assert "missing: cannot be read" in output
    assert "is not a module name" in output
    # a circle is one of names alone: no digest can name what names it
    guess = digest_bytes(b"a guess")
    first = hostile(registry, "ring-a", [BuiltFrom("ring-b", "1.0", guess)])
    hostile(registry, "ring-b", [BuiltFrom("ring-a", "1.0", first)])
    assert "another release has this version" in modpkg("log", "ring-b").stdout
    # a chain without an end, and each of it made from the one before thousands of times
    below = hostile(registry, "chain-0", [])
    for number in range(1, 60):
        origins = [BuiltFrom(f"chain-{number - 1}", "1.0", below, "merged")] * 200
        below = hostile(registry, f"chain-{number}", origins)
    reader = Registry(str(registry))
    found = read_lineage("chain-59", lambda name: reader)
    assert len(found.ancestors) == 60
    assert len(tree_lines(found)) == 59 * 200 + 1
    monkeypatch.setattr(lineages, "MOST_RELEASES", 10)
    cut = read_lineage("chain-59", lambda name: reader)
    assert cut.cut
    assert "too many releases" in cut.ancestors[in_order(cut.ancestors)[0]].missing
    ElementTree.fromstring(lineage_svg(cut))


graphs = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=10)


@given(graphs)
@steady
def test_any_graph_is_ordered_and_drawn(links: list[list[int]]) -> None:
    """Circles too, which only a broken digest could make."""
    ancestors = {
        str(number): Ancestor(
            name=f"m{number % 3}",
            version=f"1.{number}",
            release=str(number),
            parents=tuple(Parent(str(to), "merged") for to in to_all),
        )
        for number, to_all in enumerate(links)
    }
    found = Lineage("m0", ("0",), ancestors, cut=False)
    order = in_order(ancestors)
    assert sorted(order) == sorted(ancestors)
    backward = all(to < number for number, to_all in enumerate(links) for to in to_all)
    if backward:
        for number, to_all in enumerate(links):
            assert all(order.index(str(to)) < order.index(str(number)) for to in to_all)
    branches = tree_lines(found)
    assert len({b.ancestor.release for b in branches if not b.repeated}) <= len(ancestors)
    ElementTree.fromstring(lineage_svg(found))


@given(manifests())
@steady_manifests
def test_a_manifest_that_is_written_is_read_back(data: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml(data[key])}" for key in data)
    form = normal_form(parse_manifest(text, Path("modpkg.toml")))
    assert normal_form(parse_manifest(manifest_text(form), Path("modpkg.toml"))) == form
    assert msgspec.json.encode(json.loads(msgspec.json.encode(form))) == msgspec.json.encode(form)
