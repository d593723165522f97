"""Which release of its base a module is built against: by ``against``, by fit, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from modpkg.core.records import ReleaseRecord
from modpkg.registry.reader import Registry
from tests import tiny
from tests.command import modpkg, modpkg_json, refused
from tests.raising import raises


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """tiny 1.0, 1.0.1 (the same weights), 1.1 (others) and 2.0 (another width)."""
    folder = home / "registry"
    for version, change in (
        ("1.0", {}),
        ("1.0.1", {}),
        ("1.1", {"seed": 9}),
        ("2.0", {"hidden": 12}),
    ):
        tiny.publish(tiny.write_base(tmp_path / version, version, **change), folder)
    return folder


def adapter(
    folder: Path, against: str = "", base: str = ">=1", version: str = "1.0", **shape: int
) -> Path:
    tiny.write_adapter(folder, version, base=base, **shape)
    if against:
        path = folder / "modpkg.toml"
        path.write_text(path.read_text().replace("[module]", f'[module]\nagainst = "{against}"'))
    return folder


def built(registry: Path, folder: Path) -> ReleaseRecord:
    line = tiny.publish(folder, registry)
    return Registry(str(registry)).record(line)


def against(record: ReleaseRecord) -> str:
    return record.provenance.built_from[0].version


def test_the_release_that_the_manifest_names_is_used_and_recorded(
    registry: Path, tmp_path: Path
) -> None:
    record = built(registry, adapter(tmp_path / "a", "Tiny==1.0"))
    assert against(record) == "1.0"
    assert record.manifest["module"]["against"] == "tiny==1.0"
    old = Registry(str(registry)).record(Registry(str(registry)).line("tiny", "1.0"))
    name = "model.layers.0.self_attn.q_proj.weight"
    expects = Registry(str(registry)).expects(record.expects["tiny"])
    assert expects.tensors[name].digest == old.tensors[name].digest


def test_a_module_that_fits_several_releases_asks_for_the_one(
    registry: Path, tmp_path: Path
) -> None:
    with raises("M421", match=r"fits several releases of tiny, .*: 1.1, 1.0.1, 1.0\. Say"):
        built(registry, adapter(tmp_path / "a", base=">=1,<2"))
    assert against(built(registry, adapter(tmp_path / "b", base="==1.1"))) == "1.1"


def test_the_release_that_provenance_names_is_used(registry: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    path = folder / "modpkg.toml"
    origin = '{ name = "tiny", version = "1.0", relation = "trained" }'
    path.write_text(f"{path.read_text()}[provenance]\nbuilt-from = [{origin}]\n")
    assert against(built(registry, folder)) == "1.0"


def test_releases_of_the_same_weights_need_no_answer(registry: Path, tmp_path: Path) -> None:
    assert against(built(registry, adapter(tmp_path / "a", base=">=1,<1.1"))) == "1.0.1"


def test_a_newest_release_that_does_not_fit_is_promised_and_refused(
    registry: Path, tmp_path: Path
) -> None:
    assert against(built(registry, adapter(tmp_path / "b", version="2.0", hidden=12))) == "2.0"
    with raises("M604", match="of tiny 2.0 needs"):
        built(registry, adapter(tmp_path / "c"))


@pytest.mark.parametrize(
    ("given", "base", "reason"),
    [
        ("tiny==1.0", ">=1.1", r"is tiny 1.0, and tiny under \[dependencies\] allows only >=1.1"),
        ("other==1.0", ">=1", r"names other, which is not under \[dependencies\]; .* other = "),
        ("tiny>=1.0", ">=1", "does not name one release"),
        ("tiny==1.*", ">=1", "does not name one release"),
        ("tiny", ">=1", "does not name one release"),
    ],
)
def test_a_release_that_cannot_be_it_is_an_error_of_the_manifest(
    tmp_path: Path, given: str, base: str, reason: str
) -> None:
    with raises("M110", match=reason):
        tiny.publish(adapter(tmp_path / "a", given, base), tmp_path / "registry")


def test_only_what_acts_on_a_base_is_made_against_one(tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path / "base")
    path = folder / "modpkg.toml"
    path.write_text(path.read_text().replace("[module]", '[module]\nagainst = "x==1"'))
    with raises("M110", match="does not go with kind 'base'"):
        tiny.publish(folder, tmp_path / "registry")


def test_a_missing_release_is_named_with_what_there_is(registry: Path, tmp_path: Path) -> None:
    with raises("M420", match=r"made against tiny 1.5, .* does not have; it has 1.0, 1.0.1, 1.1"):
        built(registry, adapter(tmp_path / "a", "tiny==1.5"))


def test_build_takes_a_release_that_does_not_contradict_the_manifest(
    registry: Path, tmp_path: Path
) -> None:
    folder = adapter(tmp_path / "a", base=">=1,<2")
    assert "--against tiny==1.1" in refused("build", folder)
    assert "against  tiny 1.0\n" in modpkg("build", folder, "--against", "tiny==1.0").stdout
    assert "against  tiny 1.1\n" in modpkg("build", folder, "--against", "1.1").stdout
    assert "error[M422]" in refused("build", folder, "--against", "other==1.1")
    named = adapter(tmp_path / "b", "tiny==1.0")
    assert "error[M422]" in refused("build", named, "--against", "1.1")
    modpkg("build", named, "--against", "1.0")


def test_an_import_writes_what_an_adapter_was_trained_on(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tiny.write_adapter(tmp_path / "peft")
    (source / "modpkg.toml").unlink()

    def imported(*options: str) -> str:
        shutil.rmtree("out", ignore_errors=True)
        done = modpkg_json("import", "peft", source, "--name", "x", "--out", "out", *options)
        assert f'against = "{done["against"]}"' in Path("out/modpkg.toml").read_text()
        return str(done["against"])

    assert imported("--base", "tiny>=1,<1.1") == "tiny==1.0.1"
    assert imported("--base", "tiny>=1", "--against", "tiny==1.0") == "tiny==1.0"
    assert imported("--base", "tiny==1.1") == "tiny==1.1"
    assert imported("--base", "tiny>=1.1") == "tiny==1.1", "it does not fit 2.0"
    modpkg("build", "out")
    shutil.rmtree("out")
    command = ("import", "peft", source, "--name", "x", "--out", "out", "--base")
    text = refused(*command, "tiny>=1")
    assert "error[M421]" in text
    assert "--against tiny==1.1" in text
    assert "error[M420]" in refused(*command, "tiny", "--against", "tiny==1.7")
    assert "error[M116]" in refused(*command, "tiny<1", "--against", "tiny==1.0", status=2)
    assert not Path("out").exists()
    done = modpkg(*command, "unknown>=1")
    assert "not checked against its base" in done.stderr
    assert "against" not in Path("out/modpkg.toml").read_text()
