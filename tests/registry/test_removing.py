"""Releases that are removed for good, and deprecated ones."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import pytest
from packaging.version import Version

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.manifest.config import Settings
from modpkg.registry import removing
from modpkg.registry.copying import Copied, copy_releases
from modpkg.registry.damage import Verification
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.known import KnownTensors
from modpkg.registry.reader import Registry
from modpkg.registry.removing import RemovedReleases, remove_release
from modpkg.registry.unnamed import PRIVATE_TREE, remove_unnamed
from modpkg.registry.upkeep import all_names, open_alone
from modpkg.registry.writer import RegistryWriter
from registry_spec.check import check
from tests.command import modpkg, modpkg_json, refused
from tests.modules import publish_collection
from tests.raising import raises
from tests.tiny import publish, write_base


@pytest.fixture
def registry(home: Path) -> Path:
    """A registry with tiny 1.0 and 2.0, and a fork of the latter."""
    folder = home / "registry"
    publish(write_base(home / "projects" / "one"), folder)
    publish(write_base(home / "projects" / "two", "2.0", seed=2), folder)
    modpkg("fork", "tiny==2.0", "mine", "--out", str(home / "projects" / "mine"))
    modpkg("build", str(home / "projects" / "mine"))
    modpkg("publish", str(home / "projects" / "mine"))
    return folder


def blobs(registry: Path) -> set[str]:
    return {path.name for path in registry.glob("blobs/sha256/*/*")}


def packs(registry: Path, name: str, version: str) -> set[str]:
    opened = Registry(str(registry))
    record = opened.record(opened.line(name, version))
    return {pack.removeprefix("sha256:") for pack in record.packs}


def remove(
    registry: Path, name: str, version: str | None, reason: str = "leaked"
) -> RemovedReleases:
    return remove_release(RegistryWriter(registry), name, version, reason, Progress())


def line(registry: Path, name: str, version: str) -> IndexLine:
    return Registry(str(registry)).line(name, version)


def sound(registry: Path) -> None:
    assert check(str(registry)).problems == []
    opened = open_alone(str(registry), Settings())
    assert Verification(opened, Progress()).run(all_names(opened)).damaged == []


def test_what_only_a_removed_release_has_is_gone(registry: Path) -> None:
    own, before = packs(registry, "tiny", "1.0"), blobs(registry)
    done = remove(registry, "tiny", "1.0")
    assert own
    assert not own & blobs(registry)
    assert before - blobs(registry) == own | {line(registry, "tiny", "1.0").release[7:]}
    assert (done.files, done.shared > 0) == (len(before) - len(blobs(registry)), True)
    left = line(registry, "tiny", "1.0")
    assert (left.yanked, left.removed) == ("leaked", "leaked")
    sound(registry)
    with raises("M480", match="tiny 1.0 was removed"):
        Registry(str(registry)).record(left)
    found = KnownTensors(registry, "tiny", Version("1.5"))
    assert found.earlier(None, {}) == {}


def test_what_a_fork_names_stays(registry: Path) -> None:
    shared = packs(registry, "tiny", "2.0")
    assert shared <= packs(registry, "mine", "1.0.0")
    remove(registry, "tiny", "2.0")
    assert shared <= blobs(registry)
    sound(registry)
    assert modpkg_json("install", "mine")["modules"][0]["name"] == "mine"
    assert "was removed" in refused("fork", "tiny==2.0", "other")


def test_what_a_private_module_names_stays(registry: Path) -> None:
    shared = packs(registry, "tiny", "2.0")
    private = registry / PRIVATE_TREE
    shutil.copytree(registry / "index", private / "index", ignore=lambda *_: ["tiny.jsonl"])
    (private / "blobs").mkdir()
    remove(registry, "mine", "1.0.0")
    remove(registry, "tiny", "2.0")
    assert shared <= blobs(registry)
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=30)

    def collect() -> None:
        age = datetime.timedelta(days=7)
        remove_unnamed(FolderPlace(registry), older_than=age, now=later, progress=Progress())

    collect()
    assert shared <= blobs(registry)
    (private / "index" / "mine.jsonl").unlink()
    collect()
    assert not shared & blobs(registry)


def test_a_removed_version_and_a_removed_name_are_never_used_again(
    registry: Path, home: Path
) -> None:
    remove(registry, "tiny", "1.0", "a secret")
    again = home / "projects" / "one"
    with raises("M481", match="that version was removed \\(a secret\\)"):
        publish(again, registry)
    other = write_base(home / "projects" / "other", "1.0.0", seed=7)
    with raises("M481"):
        publish(other, registry)
    publish(write_base(home / "projects" / "three", "3.0", seed=3), registry)
    remove(registry, "tiny", None)
    with raises("M481", match="choose another name"):
        publish(write_base(home / "projects" / "four", "4.0", seed=4), registry)
    with raises("M482"):
        RegistryWriter(registry).yank("tiny", "1.0", None)
    with raises("M482"):
        RegistryWriter(registry).deprecate("tiny", None, "old")
    assert not packs(registry, "mine", "1.0.0") - blobs(registry)
    sound(registry)


def test_a_module_of_which_all_was_removed_is_listed_and_not_found(registry: Path) -> None:
    remove(registry, "tiny", None)
    listed = Registry(str(registry)).modules()
    assert listed is not None
    assert listed["tiny"].removed == "leaked"
    assert [one["name"] for one in modpkg_json("search")["modules"]] == ["mine"]
    assert "M480" in refused("info", "tiny")
    before = (registry / REGISTRY_MODULES).read_bytes()
    RegistryWriter(registry).describe_all()
    assert (registry / REGISTRY_MODULES).read_bytes() == before


def test_what_was_interrupted_is_gone_on_with(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> set[str]:
        raise Killed

    own = packs(registry, "tiny", "1.0")
    with monkeypatch.context() as patched:
        patched.setattr(removing, "named_blobs", killed)
        with pytest.raises(Killed):
            remove(registry, "tiny", "1.0")
    assert line(registry, "tiny", "1.0").removed == "leaked"
    assert own <= blobs(registry)
    sound(registry)
    remove(registry, "tiny", "1.0", "another reason")
    assert line(registry, "tiny", "1.0").removed == "leaked"
    assert not own & blobs(registry)


def test_copies_follow(registry: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"

    def copy() -> Copied:
        origin = open_alone(str(registry), Settings())
        releases = {name: origin.index(name) for name in all_names(origin)}
        return copy_releases(origin, RegistryWriter(mirror, origin.name), releases, Progress())

    copy()
    RegistryWriter(registry).deprecate("tiny", "2.0", "old", "mine>=1")
    remove(registry, "tiny", "1.0")
    assert copy() == Copied(releases=0, yanks=2, already=3)
    assert blobs(mirror) == blobs(registry)
    assert (mirror / "index" / "tiny.jsonl").read_bytes() == (
        registry / "index" / "tiny.jsonl"
    ).read_bytes()
    sound(mirror)
    shutil.rmtree(mirror)
    copy()
    assert blobs(mirror) == blobs(registry)
    remove(mirror, "mine", "1.0.0", "not here")
    assert copy().yanks == 0
    assert line(mirror, "mine", "1.0.0").removed == "not here"


def test_a_lock_with_a_removed_release_says_so(registry: Path, home: Path) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntiny = ">=1"\n')
    modpkg("install")
    remove(registry, "tiny", "2.0", "leaked")
    told = "tiny 2.0 was removed from its registry: leaked"
    assert told in modpkg("install").stderr  # nothing to do
    row = modpkg_json("outdated")["modules"][0]
    assert (row["removed"], row["update"]) == ("leaked", "1.0")
    assert "2.0 (removed: leaked)" in modpkg("outdated").stdout
    assert "tiny 2.0 was locked, and it was removed from its registry: leaked" in refused(
        "add", "mine"
    )
    shutil.rmtree(".modpkg")
    shutil.rmtree(home / "store")
    assert "M480" in refused("install", "--frozen")
    assert "M480" in refused("install")
    modpkg("update", "tiny", "--accept-changed", "tiny")
    assert modpkg_json("lock")["module"][0]["version"] == "1.0"
    assert "was removed from its registry" in refused("install", "tiny==2.0")


def test_an_only_release_that_was_removed_or_lost_is_listed(home: Path) -> None:
    folder = home / "registry"
    publish_collection(folder, "lib", "1.0")
    publish_collection(folder, "other", "1.0")
    text = '[app]\nname = "app"\n[dependencies]\nlib = "*"\nother = "*"\n'
    Path("modpkg.toml").write_text(text)
    modpkg("lock")
    publish_collection(folder, "other", "1.1")
    remove(folder, "lib", "1.0", "leaked")
    one, other = modpkg_json("outdated")["modules"]
    assert (one["name"], one["removed"], one["update"], one["newest"]) == (
        "lib",
        "leaked",
        None,
        None,
    )
    assert (other["name"], other["update"], other["newest"]) == ("other", None, "1.1")
    assert "update --dry-run" in one["reason"]
    assert "lib" in refused("update", "--dry-run")
    (folder / "index" / "lib.jsonl").unlink()
    one, _ = modpkg_json("outdated")["modules"]
    assert "not have it any more" in one["replaced"]
    assert "no module named 'lib'" in one["reason"]
    Path("modpkg.toml").write_text(text.replace("other", "nothing"))
    publish_collection(folder, "lib", "1.0")
    assert "M304" in refused("outdated")


def test_the_command(registry: Path) -> None:
    before = blobs(registry)
    assert "--reason" in refused("registry", "remove", "tiny==1.0", status=2)
    assert "M312" in refused("registry", "remove", "tiny==9", "--reason", "x")
    done = modpkg_json("registry", "remove", "tiny==1.0", "--reason", "leaked")
    assert done["files"] == len(before - blobs(registry))
    assert [one["removed"] for one in done["lines"]] == ["leaked"]
    assert (
        "Removed mine (all releases)"
        in modpkg("registry", "remove", "mine", "--reason", "gone").stdout
    )
    out = modpkg("info", "tiny").stdout
    assert "removed: leaked" in out


# Deprecated


def test_a_deprecated_release_is_told_once_with_what_to_use_instead(registry: Path) -> None:
    done = modpkg_json("deprecate", "tiny==2.0", "--reason", "slow", "--successor", "mine >= 1")
    assert [(x["version"], x["deprecated"], x["successor"]) for x in done["lines"]] == [
        ("2.0", "slow", "mine>=1")
    ]
    told = "tiny 2.0 is deprecated: slow; use mine>=1 instead"
    assert modpkg("install", "tiny").stderr.count(told) == 1
    assert "deprecated" not in modpkg("install").stderr
    assert told in modpkg("lock", "--upgrade").stderr
    info = modpkg_json("info", "tiny")
    assert (info["deprecated"], info["successor"]) == ("slow", "mine>=1")
    assert [one["deprecated"] for one in info["versions"]] == ["slow", None]
    assert "deprecated: slow; use mine>=1 instead" in modpkg("info", "tiny").stdout
    found = modpkg_json("search", "tiny")["modules"][0]
    assert (found["deprecated"], found["successor"]) == ("slow", "mine>=1")
    assert "(deprecated, use mine>=1)" in modpkg("search", "tiny").stdout
    row = modpkg_json("outdated")["modules"][0]
    assert (row["name"], row["deprecated"], row["successor"]) == ("tiny", "slow", "mine>=1")
    shutil.rmtree(".modpkg", ignore_errors=True)
    modpkg("deprecate", "tiny==2.0", "--undo")
    assert "deprecated" not in modpkg("lock", "--upgrade").stderr


def test_all_releases_of_a_module_are_deprecated_together(registry: Path) -> None:
    assert "Deprecated tiny (2 releases)" in modpkg("deprecate", "tiny").stdout
    for text in (registry / "index" / "tiny.jsonl").read_text().splitlines():
        assert json.loads(text)["deprecated"] == ""
    publish_collection(registry, "lib", "1.0")
    assert "deprecated" not in (registry / "index" / "lib.jsonl").read_text()
    assert "M312" in refused("deprecate", "tiny==7")
    assert "M304" in refused("deprecate", "nothing")
    assert "one line" in refused("deprecate", "tiny", "--reason", "a\nb", status=2)
    assert "M103" in refused("deprecate", "tiny", "--successor", "a b c", status=2)
    assert "--undo" in refused("deprecate", "tiny", "--undo", "--reason", "x", status=2)


def test_a_build_does_not_refer_to_what_is_gone(registry: Path, home: Path) -> None:
    remove(registry, "tiny", "1.0")
    project = write_base(home / "projects" / "same", "3.0")
    new = publish(project, registry)
    record = Registry(str(registry)).record(new)
    for pack in record.packs:
        assert (registry / blob_path(parse_digest(pack))).is_file()
    sound(registry)
