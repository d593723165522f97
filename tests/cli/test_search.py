"""``search`` and ``info``: what registries can tell of modules that are not installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.registry.module_lines import format_module_lines, parse_module_lines
from tests import tiny
from tests.cli.test_everywhere import run
from tests.command import check_shape
from tests.modules import publish_collection
from tests.registry.servers import Server, serve


@pytest.fixture
def registry(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "registry"
    tiny.publish_talker(folder, tmp_path / "projects")
    publish_collection(folder, "lib", "1.0")
    publish_collection(folder, "talking", "1.0")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def server(registry: Path) -> Iterator[Server]:
    with serve(registry) as running:
        yield running


def found(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    return [module["name"] for module in document(capfd, "search", *arguments)["modules"]]


def document(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    status, out, err = run(capfd, *arguments, "--json")
    assert (status, err) == (0, ""), out
    check_shape(json.loads(out), *arguments)
    return json.loads(out)


def test_words_are_found_in_names_and_other_texts(
    registry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert found(capfd) == ["lib", "talker", "talking", "tiny", "tiny-lora"]
    assert found(capfd, "talk") == ["talker", "talking"]
    assert found(capfd, "TINY") == ["tiny", "tiny-lora"], "the name itself comes first"
    assert found(capfd, "tiny_lora") == ["tiny-lora"]
    assert found(capfd, "adapter") == ["tiny-lora"], "its kind"
    assert found(capfd, "generation") == ["talker"], "its task"
    assert found(capfd, "tiny", "adapter") == ["tiny-lora"], "all words"
    assert found(capfd, "--kind", "base") == ["tiny"]
    limited = document(capfd, "search", "--limit", "2")
    assert (len(limited["modules"]), limited["total"]) == (2, 5)


def test_what_people_see(registry: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = run(capfd, "search", "lib")[1]
    assert out.splitlines()[0].split() == ["Name", "Version", "Kind", "Summary"]
    assert run(capfd, "search", "nothing") == (0, "No module was found.\n", "")
    assert "4 more modules; --limit shows more." in run(capfd, "search", "--limit", "1")[1]


def test_a_server_is_searched_by_its_modules_file(
    server: Server, registry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert found(capfd, "talk", "--registry", server.url) == ["talker", "talking"]
    assert found(capfd, "talk", "--registry", server.url, "--offline") == ["talker", "talking"]
    (registry / REGISTRY_MODULES).unlink()
    status, _, err = run(capfd, "search", "talk", "--registry", server.url)
    assert status == 1
    assert "error[M806]" in err
    assert document(capfd, "info", "talker", "--registry", server.url)["kind"] == "model"


def test_a_folder_without_that_file_is_searched_by_name(
    registry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (registry / REGISTRY_MODULES).unlink()
    assert found(capfd, "talk") == ["talker", "talking"]
    assert found(capfd, "adapter") == []


def test_several_registries(
    registry: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(tmp_path / "own", "own-lib", "1.0")
    publish_collection(tmp_path / "mine", "my-lib", "1.0")
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[registries]\nown = "own"\n')
    (home / "config.toml").write_text(
        f'[registries]\nmine = "{tmp_path}/mine"\nalso = "{tmp_path}/own"\n'
    )
    assert found(capfd, "lib") == ["lib", "my-lib", "own-lib"]
    assert found(capfd, "lib", "--registry", "own") == ["own-lib"]
    assert "Registry" in run(capfd, "search", "lib")[1].splitlines()[0]
    (tmp_path / "own" / "registry.json").unlink()
    (tmp_path / "own" / REGISTRY_MODULES).unlink()
    status, out, err = run(capfd, "search", "lib")
    assert status == 0
    assert "my-lib" in out
    assert "There is no registry at" in err


def test_text_of_a_registry_that_could_move_the_cursor_is_written_out(
    registry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = registry / REGISTRY_MODULES
    lines = parse_module_lines(path.read_bytes(), "here")
    lines["lib"] = replace(lines["lib"], summary="a\x1b[2Jb\u202e")
    path.write_bytes(format_module_lines(lines))
    _, out, err = run(capfd, "search")
    assert "lib        1.0      collection  a\\x1b[2Jb\\u202e" in out
    assert err == ""


def test_info_of_an_adapter(
    registry: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.publish(tiny.write_base(tmp_path / "b", "1.1", seed=9), registry)
    info = document(capfd, "info", "tiny-lora")
    assert (info["name"], info["version"], info["kind"]) == ("tiny-lora", "2.0", "adapter")
    assert [(fit["version"], fit["fit"].split(":")[0]) for fit in info["fits"]] == [
        ("1.1", "drifted"),
        ("1.0", "exact"),
    ]
    assert [(origin["name"], origin["version"]) for origin in info["built_from"]] == [
        ("tiny", "1.0")
    ]
    assert info["tensors"] > 0
    assert info["parameters"] > info["tensors"]
    assert info["size"] > 2 * info["parameters"]
    assert info["locked"] is None
    out = run(capfd, "info", "tiny-lora")[1]
    assert "Fit:       tiny 1.0: exact" in out
    assert "Origin:    built against tiny 1.0" in out


def test_info_of_a_name_that_is_misspelt(registry: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capfd, "info", "tiny-lira")
    assert (status, "did you mean 'tiny-lora'?" in err) == (1, True)


def test_info_of_versions(registry: Path, capfd: pytest.CaptureFixture[str]) -> None:
    publish_collection(registry, "lib", "2.0", {"talking": ">=1"})
    publish_collection(registry, "lib", "3.0rc1")
    assert run(capfd, "yank", "lib==2.0", "--reason", "too early")[0] == 0
    info = document(capfd, "info", "lib")
    assert (info["version"], info["requires"]) == ("1.0", [])
    assert [(one["version"], one["yanked"]) for one in info["versions"]] == [
        ("3.0rc1", None),
        ("2.0", "too early"),
        ("1.0", None),
    ]
    yanked = document(capfd, "info", "lib==2.0")
    assert (yanked["requires"], yanked["yanked"]) == (["talking>=1"], "too early")
    assert "lib 2.0  yanked: too early" in run(capfd, "info", "lib==2.0")[1]
    assert document(capfd, "info", "lib>=3.0rc1")["version"] == "3.0rc1"
    assert "error[M304]" in run(capfd, "info", "nope")[2]
    assert "error[M312]" in run(capfd, "info", "lib>7")[2]
    assert run(capfd, "info", "no name")[0] == 2


def test_info_says_what_is_locked(registry: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "*"\n')
    assert run(capfd, "lock")[0] == 0
    publish_collection(registry, "lib", "2.0")
    info = document(capfd, "info", "lib")
    assert (info["version"], info["locked"]) == ("2.0", "1.0")
