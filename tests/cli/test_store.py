"""``modpkg store`` and ``modpkg vendor``, on real files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from modpkg.core.leftovers import TEMPORARY
from modpkg.environment.generations import Environment
from tests import tiny
from tests.command import modpkg, modpkg_json, refused

DAY = 86400


@pytest.fixture
def app(home: Path, tmp_path: Path) -> Path:
    """An app with talker 1.0 installed; returns its folder."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntalker = "==1.0"\n')
    modpkg("install")
    return Path.cwd()


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file in place, under all its names."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    path.chmod(mode)


def files_of(home: Path, kind: str) -> list[Path]:
    found = [path for path in (home / "store" / kind).rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: -path.stat().st_size)


def digests(folder: Path) -> dict[str, bytes]:
    packs = Environment(folder / ".modpkg").packs
    return {path.name: path.read_bytes() for path in packs.iterdir()}


def test_info_lists_the_content(app: Path, home: Path) -> None:
    result = modpkg_json("store", "info")
    assert result["folder"] == str(home / "store")
    assert (result["releases"], result["packs"]["count"]) == (3, 2)
    assert result["projects"] == [str(app / "modpkg.lock")]
    text = modpkg("store", "info").stdout
    assert "3 releases" in text
    assert str(app / "modpkg.lock") in text


@pytest.mark.parametrize("kind", ["packs", "blobs", "composed"])
def test_one_flipped_bit_is_found_and_repaired(app: Path, home: Path, kind: str) -> None:
    before = digests(app)
    assert modpkg_json("store", "verify") == {
        "schema": 1,
        "bytes": modpkg_json("store", "info")["size"],
        "damaged": [],
        "repaired": 0,
    }
    path = files_of(home, kind)[0]
    flip(path, path.stat().st_size - 5)
    done = modpkg("store", "verify", "--no-repair", check=False)
    assert done.returncode == 1
    assert "1 corrupt, 0 repaired" in done.stdout
    assert "repaired" in modpkg("store", "verify").stdout
    assert modpkg_json("store", "verify")["damaged"] == []
    assert digests(app) == before  # the environment links the same files
    assert modpkg("install").stdout.startswith("Nothing to do")


def test_only_the_damaged_tensor_is_fetched(app: Path, home: Path) -> None:
    pack = files_of(home, "packs")[0]
    flip(pack, pack.stat().st_size - 1)
    assert "repaired tensor" in modpkg("store", "verify").stdout
    assert len(files_of(home, "packs")) == 2  # what was fetched for it is not kept twice


def test_a_header_that_is_broken_costs_its_pack(app: Path, home: Path) -> None:
    before = digests(app)
    flip(files_of(home, "packs")[0], 20)
    assert "repaired pack" in modpkg("store", "verify").stdout
    assert modpkg_json("store", "verify")["damaged"] == []
    assert digests(app) == before


def test_an_unrepairable_pack_is_not_trusted(app: Path, home: Path) -> None:
    pack = files_of(home, "packs")[0]
    flip(pack, pack.stat().st_size - 1)
    shutil.move(home / "registry", home / "elsewhere")
    done = modpkg("store", "verify", check=False)
    assert done.returncode == 1
    assert "1 corrupt, 0 repaired" in done.stdout
    shutil.move(home / "elsewhere", home / "registry")
    shutil.rmtree(app / ".modpkg")
    modpkg("install")
    modpkg("store", "verify", check=False)  # repairs the old pack from what the install fetched
    assert modpkg_json("store", "verify")["damaged"] == []


def test_gc_keeps_modules_locked_by_known_projects(app: Path, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "modpkg.toml").write_text('[app]\nname = "other"\n[dependencies]\ntalker = "==2.0"\n')
    modpkg("install", cwd=other)
    before = modpkg_json("store", "info")
    first = modpkg_json("store", "gc", "--max-size", "0 B")
    assert first["releases"] == []
    before = modpkg_json("store", "info")
    shutil.rmtree(other)
    planned = modpkg_json("store", "gc", "--max-size", "0 B", "--dry-run")
    assert modpkg_json("store", "info")["size"] == before["size"]
    done = modpkg_json("store", "gc", "--max-size", "0 B")
    assert planned | {"dry_run": False} == done
    after = modpkg_json("store", "info")
    assert (before["releases"], after["releases"]) == (5, 3)
    assert after["size"] == before["size"] - done["freed"] == done["left"]
    assert after["projects"] == [str(app / "modpkg.lock")]
    assert modpkg_json("store", "verify")["damaged"] == []
    modpkg("install", "--offline", "--frozen")


def test_gc_removes_old_entries_and_remembers_use(app: Path, home: Path) -> None:
    Path("modpkg.lock").unlink()
    shutil.rmtree(".modpkg")
    old = (home / "store").stat().st_mtime - 40 * DAY
    for path in [*(home / "store").rglob("*")]:
        if path.is_file():
            os.utime(path, (old, old))
    assert "Freed" in modpkg("store", "gc", "--older-than", "60 days").stdout
    assert modpkg_json("store", "info")["releases"] == 3
    modpkg("install")
    shutil.rmtree(".modpkg")
    Path("modpkg.lock").unlink()
    assert modpkg_json("store", "gc")["releases"] == []  # it was used just now
    for path in (home / "store").rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    assert len(modpkg_json("store", "gc")["releases"]) == 3
    assert files_of(home, "packs") == []


def test_an_install_over_the_cap_runs_gc(app: Path, home: Path) -> None:
    (home / "config.toml").write_text('[store]\nmax-size = "1 kB"\n')
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntalker = "==2.0"\n')
    modpkg("install")
    result = modpkg_json("store", "info")
    assert result["releases"] == 3  # those of talker 1.0 went, which nothing locks any more
    assert modpkg_json("store", "verify")["damaged"] == []


def test_environments_outlive_a_cleared_store(app: Path, home: Path) -> None:
    before = digests(app)
    assert "Freed" in modpkg("store", "clear").stdout
    assert modpkg_json("store", "info")["size"] == 0
    assert modpkg("install").stdout.startswith("Nothing to do")
    assert modpkg("diff", "talker", "talker").stdout.endswith("20 same\n")
    shutil.rmtree(".modpkg")
    modpkg("install")
    assert digests(app) == before


@pytest.mark.parametrize(
    ("option", "text"),
    [("--max-size", "ten"), ("--older-than", "2026-01-01"), ("--older-than", "x")],
)
def test_a_malformed_size_or_span_is_an_error(option: str, text: str) -> None:
    assert f"{text!r} is not a s" in refused("store", "gc", option, text, status=2)


def test_a_vendored_copy_installs_without_the_registry(app: Path, home: Path) -> None:
    locked = Path("modpkg.lock").read_text()
    output = modpkg("vendor", "copy").stdout
    assert "Vendored 3 modules" in output
    assert sorted(path.name for path in Path("copy/index").iterdir()) == [
        "talker.jsonl",
        "tiny-lora.jsonl",
        "tiny.jsonl",
    ]
    assert Path("copy/index/tiny-lora.jsonl").read_text().count("\n") == 1
    before = digests(app)
    shutil.rmtree(home)
    shutil.rmtree(".modpkg")
    modpkg("install", "--frozen", "--offline", "--registry", "copy")
    assert digests(app) == before
    assert Path("modpkg.lock").read_text() == locked


def test_vendoring_resumes_after_a_kill_at_its_first_file(app: Path) -> None:
    Path("copy").mkdir()
    Path("copy", f"{TEMPORARY}0-0").write_text("")
    modpkg("vendor", "copy")
    assert not list(Path("copy").glob(f"{TEMPORARY}*"))


def test_vendoring_again_leaves_exactly_the_lock(app: Path) -> None:
    modpkg("vendor", "copy")
    first = {path.name for path in Path("copy/blobs").rglob("*") if path.is_file()}
    modpkg("install", "talker==2.0")
    modpkg("vendor", "copy")
    modpkg("vendor", "fresh")
    second, fresh = (
        {path.name for path in Path(folder, "blobs").rglob("*") if path.is_file()}
        for folder in ("copy", "fresh")
    )
    assert second == fresh != first
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert "mine exists and is not empty" in refused("vendor", "mine")
