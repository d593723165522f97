"""What one command may take from a registry: a registry that makes things up is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from modpkg.core.home import config_path
from modpkg.core.records import RegistryInfo, decode_record
from modpkg.manifest.config import Settings
from modpkg.manifest.limits import DEFAULTS
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import Resolution, resolve
from tests.raising import raises
from tests.registry.servers import Handler, serve


def line(name: str, version: str, *requires: str, **fields: object) -> bytes:
    release = {"kind": "collection", "release": "sha256:" + "0" * 64, "requires": [*requires]}
    return json.dumps({"name": name, "version": version, **release, **fields}).encode() + b"\n"


def made_up(handler: Handler) -> bytes:
    """Return an index file of a registry that has every name."""
    name = handler.path.rpartition("/")[2].removesuffix(".jsonl")
    kind, _, number = name.partition("-")
    if kind == "chain":
        return line(name, "1", f"chain-{int(number) + 1}")
    if kind == "tree":
        return line(name, "1", f"tree-{2 * int(number)}", f"tree-{2 * int(number) + 1}")
    if kind == "wide":
        return line(name, "1", *(f"fat-{at}" for at in range(60)))
    if kind == "fat":
        return line(name, "1", summary="x" * 50_000)
    if kind == "many":
        return b"".join(line(name, f"1.{at}") for at in range(int(number)))
    if kind == "values":
        return line(name, "1", *(["a"] * int(number)))
    return b""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("made-up")
    (folder / "registry.json").write_text('{"spec":1,"name":"made-up"}')

    def fault(handler: Handler, number: int) -> bool:
        if not handler.path.startswith("/index/"):
            return False
        handler.answer(200, made_up(handler))
        return True

    with serve(folder) as server:
        server.fault = fault
        yield server.url


def resolved(registry: Registry, name: str) -> Resolution:
    return resolve(root_needs(name, (), SpecifierSet(), "modpkg.toml:3"), Catalog(registry))


def limited(address: str, limits: Mapping[str, int]) -> Registry:
    return Registry(address, settings=Settings(limits={**DEFAULTS, **limits}))


@pytest.mark.parametrize(
    ("name", "limits", "things"),
    [
        ("chain-1", {"names": 50}, "50 names of modules"),
        ("tree-1", {"names": 50}, "50 names of modules"),
        ("chain-1", {"requests": 50}, "50 requests for small files"),
        ("wide-1", {"index-bytes": 1_000_000}, "1.0 MB of index files"),
        ("many-101", {"releases": 100}, "100 releases to choose from"),
        ("values-200", {"requirements": 199}, "199 requirements of releases"),
        ("fat-1", {"index-bytes": 999}, "999 B of index files"),
        ("values-200", {"index-values": 200}, "200 values in index files"),
    ],
)
@pytest.mark.parametrize("again", [1, 2])
def test_a_registry_that_makes_things_up_is_refused(
    address: str, name: str, limits: dict[str, int], things: str, again: int
) -> None:
    (key,) = limits
    with raises("M328", match=f"The registry at {address} asks for more than {things}") as caught:
        resolved(limited(address, limits), name)
    assert f"write {key} = " in str(caught.value)
    assert f"under [limits] in {config_path()}" in str(caught.value)


def test_a_folder_is_counted_too(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "registry.json").write_text('{"spec":1,"name":"r"}')
    for at in range(4):
        text = line(f"m{at}", "1", f"m{at + 1}") if at < 3 else line("m3", "1")
        (tmp_path / f"index/m{at}.jsonl").write_bytes(text)
    assert len(resolved(limited(str(tmp_path), {"names": 4}), "m0").modules) == 4
    with raises("M328", match="3 names of modules"):
        resolved(limited(str(tmp_path), {"names": 3}), "m0")
    size = sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    assert resolved(limited(str(tmp_path), {"index-bytes": size}), "m0")
    with raises("M328", match="B of index files"):
        resolved(limited(str(tmp_path), {"index-bytes": size - 1}), "m0")


def test_a_record_of_too_many_values_is_not_decoded() -> None:
    data = b'{"spec":1,"name":"r","more":[' + b"1," * 4_000_001 + b"1]}"
    with raises("M209", match="it has over 4,000,000 values"):
        decode_record(data, RegistryInfo, "registry.json")


def test_what_is_under_its_limits_resolves(address: str) -> None:
    assert len(resolved(limited(address, {"releases": 100}), "many-100").modules) == 1
