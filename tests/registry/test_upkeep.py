"""Looking after a registry: copies of it, damage, and what nothing names."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.digests import blob_path, digest_bytes, parse_digest
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.progress import Progress
from modpkg.manifest.config import Settings
from modpkg.registry.copying import Copied, copy_releases
from modpkg.registry.damage import Damage, Verification, healthy, mend, without_others
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.place import CopiedBlob
from modpkg.registry.reader import Registry
from modpkg.registry.unnamed import Freed, remove_unnamed
from modpkg.registry.upkeep import all_names, needed_releases, open_alone
from modpkg.registry.writer import RegistryWriter
from registry_spec.check import check
from tests import tiny
from tests.cli.test_everywhere import run
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.servers import serve

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry = tmp_path_factory.mktemp("published") / "registry"
    publish_collection(registry, "lib", "1.0", {"part": ">=1"})
    publish_collection(registry, "lib", "2.0", {"part": ">=2"})
    for version in ("0.5", "1.0", "2.0"):
        publish_collection(registry, "part", version)
    publish_collection(registry, "other", "1.0")
    return registry


@pytest.fixture
def registry(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "registry"))


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("talker")
    tiny.publish_talker(root / "registry", root / "projects")
    return root / "registry"


def copy(source: Path | str, target: Path, *names: str) -> Copied:
    origin = open_alone(str(source), Settings())
    releases = (
        needed_releases(origin, names)
        if names
        else {name: origin.index(name) for name in all_names(origin)}
    )
    return copy_releases(origin, RegistryWriter(target, origin.name), releases, Progress())


def found(registry: Path | str, *names: str, sample: int | None = None) -> list[Damage]:
    opened = open_alone(str(registry), Settings())
    return Verification(opened, Progress()).run(names or all_names(opened), sample).damaged


def labels(registry: Path) -> list[str]:
    reader = Registry(str(registry))
    return [f"{name} {line.version}" for name in all_names(reader) for line in reader.index(name)]


def test_a_copy_is_brought_up_to_date(registry: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    assert copy(registry, mirror) == Copied(releases=6, yanks=0, already=0)
    for path in (REGISTRY_INFO, REGISTRY_MODULES, "index/lib.jsonl"):
        assert (mirror / path).read_bytes() == (registry / path).read_bytes()
    assert check(str(mirror)).problems == []
    assert copy(registry, mirror) == Copied(releases=0, yanks=0, already=6)
    publish_collection(registry, "new", "1.0")
    RegistryWriter(registry).yank("part", "1.0", "bad")
    assert copy(registry, mirror) == Copied(releases=1, yanks=1, already=6)
    assert Registry(str(mirror)).line("part", "1.0").yanked == "bad"
    RegistryWriter(registry).yank("part", "1.0", None)
    copy(registry, mirror)
    assert (mirror / REGISTRY_MODULES).read_bytes() == (registry / REGISTRY_MODULES).read_bytes()


@pytest.mark.parametrize(
    ("names", "copied"),
    [
        (["lib"], ["lib 1.0", "lib 2.0", "part 1.0", "part 2.0"]),
        (["lib>=2"], ["lib 2.0", "part 2.0"]),
        (["part<1", "other"], ["other 1.0", "part 0.5"]),
    ],
)
def test_names_are_copied_with_what_they_need(
    registry: Path, tmp_path: Path, names: list[str], copied: list[str]
) -> None:
    copy(registry, tmp_path / "mirror", *names)
    assert labels(tmp_path / "mirror") == copied
    with raises("M304", match="did you mean 'lib'"):
        copy(registry, tmp_path / "mirror", "libs")
    with raises("M312"):
        copy(registry, tmp_path / "mirror", "lib>=3")


def test_over_http_and_without_a_list(talker: Path, tmp_path: Path) -> None:
    served = shutil.copytree(talker, tmp_path / "served")
    with serve(served) as server:
        copy(server.url, tmp_path / "mirror")
        assert found(server.url) == found(tmp_path / "mirror") == []
        (served / REGISTRY_MODULES).unlink()
        with raises("M870"):
            copy(server.url, tmp_path / "other")
        assert found(server.url, "tiny") == []
    assert labels(tmp_path / "mirror") == labels(talker)


def test_what_stands_in_the_way_of_one_module_is_told_and_the_others_are_copied(
    registry: Path, tmp_path: Path
) -> None:
    publish_collection(tmp_path / "else" / "mirror", "part", "1.0", {"other": ">=1"})
    mirror = shutil.move(tmp_path / "else" / "mirror", tmp_path / "mirror")
    with raises("M872", match="part: part 1.0 is already published"):
        copy(registry, mirror)
    assert labels(mirror) == ["lib 1.0", "lib 2.0", "other 1.0", "part 1.0"]


class Killed(BaseException):
    """The process ends here."""


def test_an_interrupted_copy_is_gone_on_with(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, asked, original = tmp_path / "mirror", list[str](), CopiedBlob.chunks

    def chunks(blob: CopiedBlob) -> Iterator[bytes]:
        if len(asked) == 3:
            raise Killed
        asked.append(blob.digest)
        return original(blob)

    with monkeypatch.context() as patched:
        patched.setattr(CopiedBlob, "chunks", chunks)
        with pytest.raises(Killed):
            copy(registry, mirror)
    assert check(str(mirror)).problems == []
    there = {path.name for path in mirror.glob("blobs/sha256/*/*")}
    assert len(there) == 3

    def noted(blob: CopiedBlob) -> Iterator[bytes]:
        asked.append(blob.digest)
        return original(blob)

    monkeypatch.setattr(CopiedBlob, "chunks", noted)
    copy(registry, mirror)
    assert len(asked) == len(set(asked)) == 6
    assert labels(mirror) == labels(registry)


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_damage_is_found_and_mended(talker: Path, tmp_path: Path) -> None:
    registry = shutil.copytree(talker, tmp_path / "registry")
    mirror = shutil.copytree(talker, tmp_path / "mirror")
    assert found(registry) == []
    line = Registry(str(registry)).index("tiny")[0]
    record = Registry(str(registry)).record(line)
    (pack,) = record.packs
    config = record.files["config.json"].digest
    flip(registry / blob_path(parse_digest(pack)))
    (registry / blob_path(parse_digest(config))).unlink()
    damaged = {one.path: one for one in found(registry)}
    assert {path: one.code for path, one in damaged.items()} == {
        blob_path(parse_digest(pack)): "M305",
        blob_path(parse_digest(config)): "M306",
    }
    assert f"tiny {line.version}" in damaged[blob_path(parse_digest(pack))].releases
    (mirror / blob_path(parse_digest(config))).unlink()
    others = [Registry(str(mirror)), Registry(str(talker)), Registry(str(tmp_path / "none"))]
    for damage in damaged.values():
        sources = healthy(damage, others)
        assert [one.url for one in sources] == [
            *([str(mirror)] if damage.code == "M305" else []),
            str(talker),
        ]
        mend(FolderPlace(registry), damage, sources[0])
    assert found(registry) == []
    with raises("M871"):
        mend(FolderPlace(registry), damage, None)


def test_a_file_that_does_not_end_is_not_read_to_its_end(talker: Path, tmp_path: Path) -> None:
    registry = shutil.copytree(talker, tmp_path / "registry")
    (pack,) = Registry(str(registry)).record(Registry(str(registry)).index("tiny")[0]).packs
    path = blob_path(parse_digest(pack))
    (registry / path).chmod(0o644)
    with open(registry / path, "ab") as file:
        file.truncate(1 << 40)
    (damage,) = found(registry)
    assert (damage.path, damage.code) == (path, "M327")
    with raises("M872", match="has over|is over"):
        copy(registry, tmp_path / "mirror")


def test_a_damaged_record_index_or_list_is_found(registry: Path) -> None:
    line = Registry(str(registry)).line("lib", "1.0")
    flip(registry / blob_path(parse_digest(line.release)))
    (damage,) = found(registry)
    assert (damage.code, damage.releases) == ("M305", ["lib 1.0"])
    assert found(registry, "part") == []
    flip(registry / blob_path(parse_digest(line.release)))
    index = registry / "index" / "part.jsonl"
    good = index.read_bytes()
    index.write_bytes(good.replace(b'"kind":"collection"', b'"kind":"base"', 1) + b"{\n")
    codes = [(one.path, one.code) for one in found(registry)]
    assert codes == [
        (REGISTRY_MODULES, "M305"),
        ("index/part.jsonl", "M209"),
        ("index/part.jsonl", "M310"),
    ]
    index.write_bytes(good)
    assert found(registry) == []
    assert found(registry, sample=1) == []


def test_what_a_mended_record_names_is_mended_too(
    talker: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    registry = shutil.copytree(talker, tmp_path / "registry")
    mirror = tmp_path / "mirror"
    copy(registry, mirror)
    Path("modpkg.toml").write_text(f'[app]\nname = "app"\n[registries]\nacme = "{mirror}"\n')
    line = Registry(str(registry)).index("tiny")[0]
    config = Registry(str(registry)).record(line).files["config.json"].digest
    paths = [blob_path(parse_digest(digest)) for digest in (line.release, config)]

    def verify(*options: str) -> tuple[int, dict[str, object]]:
        status, out, _ = run(capfd, "registry", "verify", str(registry), "tiny", *options, "--json")
        return status, json.loads(out)

    whole = verify()[1]
    for path in paths:
        (registry / path).unlink()
    status, document = verify("--mend")
    assert (status, document["mended"]) == (0, 2)
    assert document["files"] == whole["files"]
    assert found(registry) == []
    for path in paths:
        (registry / path).unlink()
    (mirror / paths[1]).unlink()
    status, document = verify("--mend")
    assert (status, document["mended"]) == (1, 1)
    assert [one.path for one in found(registry)] == [paths[1]]


def test_a_record_that_stays_as_it_was_is_left_damaged(
    registry: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mirror = home / "mirror"
    copy(registry, mirror)
    Path("modpkg.toml").write_text(f'[app]\nname = "app"\n[registries]\nacme = "{mirror}"\n')
    data = b"{}"
    digest = digest_bytes(data)
    index = registry / "index" / "part.jsonl"
    old = Registry(str(registry)).line("part", "1.0").release
    index.write_bytes(index.read_bytes().replace(old.encode(), digest.encode()))
    for root in (registry, mirror):
        path = root / blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    status, out, _ = run(capfd, "registry", "verify", str(registry), "part", "--mend", "--json")
    damaged = [one["path"] for one in json.loads(out)["damaged"]]
    assert (status, damaged.count(blob_path(digest))) == (1, 1)


@pytest.mark.parametrize("data", [b"garbage", b"", b"\xff\x00\n", None])
def test_a_list_of_modules_that_is_damaged_or_missing_is_written_anew(
    registry: Path, home: Path, capfd: pytest.CaptureFixture[str], data: bytes | None
) -> None:
    path = registry / REGISTRY_MODULES
    before = path.read_bytes()
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    codes = [(one.path, one.code) for one in found(registry)]
    assert codes == ([] if data is None else [(REGISTRY_MODULES, "M209")])
    status, out, err = run(capfd, "registry", "verify", str(registry))
    assert status == (0 if data is None else 1)
    assert REGISTRY_MODULES in out + err
    assert run(capfd, "registry", "verify", str(registry), "--mend")[0] == 0
    assert path.read_bytes() == before
    assert found(registry) == []


def test_a_malformed_line_of_the_list_is_damage_and_a_newer_one_is_not(registry: Path) -> None:
    path = registry / REGISTRY_MODULES
    before = path.read_bytes()
    path.write_bytes(before + b'{"spec":99,"name":["other"]}\n')
    assert found(registry) == []
    path.write_bytes(before + b'{"name":"x"}\n')
    assert [one.code for one in found(registry)] == ["M209"]
    with serve(registry) as server:
        path.write_bytes(b"garbage")
        assert [one.reason for one in found(server.url)] == ["1 line is malformed"]


def test_what_is_done_about_damage_depends_on_what_it_is() -> None:
    for code, says in {
        "M306": "publish the release",
        "M305": "remove that file, and publish the release",
        "M562": "where it is right, after a restored back-up, sign it with another key: modpkg",
        "M564": "restore it, or look at it and sign it as it is: modpkg",
        "M877": "whoever has the project runs 'modpkg publish --upload'",
    }.items():
        assert without_others(Damage(path="", releases=[], code=code, reason="")).startswith(says)


def stray(registry: Path, age: datetime.timedelta = datetime.timedelta()) -> Path:
    path = registry / "blobs" / "sha256" / "ab" / f"ab{len(os.listdir(registry)):062d}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"left")
    then = (NOW - age).timestamp()
    os.utime(path, (then, then))
    return path


def free(registry: Path, *, dry_run: bool = False) -> Freed:
    return remove_unnamed(
        FolderPlace(registry), older_than=7 * DAY, now=NOW, progress=Progress(), dry_run=dry_run
    )


def test_what_nothing_names_is_removed_when_it_is_old(registry: Path) -> None:
    young = stray(registry)
    assert free(registry) == Freed(files=0, freed=0, left=7)
    young.unlink()
    old = stray(registry, 8 * DAY)
    for blob in registry.glob("blobs/sha256/*/*"):
        os.utime(blob, (old.stat().st_mtime,) * 2)
    assert free(registry, dry_run=True) == Freed(files=1, freed=4, left=6)
    assert old.exists()
    assert free(registry) == Freed(files=1, freed=4, left=6)
    assert not old.exists()
    assert check(str(registry)).problems == []


@pytest.mark.parametrize("newer", [True, False])
def test_nothing_is_removed_where_it_is_not_known_what_is_named(
    registry: Path, newer: bool
) -> None:
    old = stray(registry, 8 * DAY)
    index = registry / "index" / "lib.jsonl"
    if newer:
        line = json.loads(index.read_bytes().splitlines()[0]) | {"spec": 99, "version": "9"}
        index.write_bytes(index.read_bytes() + json.dumps(line).encode() + b"\n")
    else:
        release = Registry(str(registry)).line("lib", "1.0").release
        (registry / blob_path(parse_digest(release))).unlink()
    with raises("M873", match="not known"):
        free(registry)
    assert old.exists()


def test_nobody_publishes_to_a_folder_meanwhile(registry: Path) -> None:
    stray(registry, 8 * DAY)
    place, done = FolderPlace(registry), []
    with place.writing():
        waiting = threading.Thread(target=lambda: done.append(free(registry)))
        waiting.start()
        time.sleep(0.2)
        assert not done
    waiting.join()
    assert done[0].files == 1


def test_the_commands(
    registry: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def document(*arguments: str, status: int = 0) -> dict[str, object]:
        got, out, err = run(capfd, "registry", *arguments, "--json")
        assert got == status, err
        return json.loads(out)  # type: ignore[no-any-return]

    made, mirror = str(home / "made"), str(home / "mirror")
    for name in ("a" * 101, "a\nb", ""):
        status, _, err = run(capfd, "registry", "init", made, "--name", name)
        assert (status, Path(made).exists()) == (2, False), err
        assert run(capfd, "registry", "init", "s3://none/x", "--name", name)[0] == 2
    assert document("init", made, "--name", "acme")["made"] is True
    assert document("init", made)["name"] == "acme"
    info_file = Path(made) / "registry.json"
    info_file.write_text('{"later":[1],"name":"acme","spec":1}\n')
    assert document("init", made, "--cool-down", "2 weeks")["cool_down"] == "14 days"
    assert json.loads(info_file.read_text())["later"] == [1]  # a later version's
    assert document("init", made)["cool_down"] == "14 days"
    assert document("init", made, "--cool-down", "0 days")["cool_down"] is None
    assert run(capfd, "registry", "init", made, "--cool-down", "2026-01-01")[0] == 2
    assert run(capfd, "registry", "init", made, "--name", "else")[0] == 2
    assert document("copy", str(registry), mirror)["releases"] == 6
    assert run(capfd, "registry", "copy", mirror, f"{mirror}/")[0] == 2
    info = document("info", mirror)
    assert (info["modules"], info["releases"], info["kinds"]) == (3, 6, {"collection": 3})
    assert document("search", "lib", "--registry", mirror)["total"] == 1
    assert document("verify", mirror)["damaged"] == []
    release = Registry(mirror).line("lib", "1.0").release
    flip(Path(mirror) / blob_path(parse_digest(release)))
    assert document("verify", mirror, status=1)["mended"] == 0
    status, out, _ = run(capfd, "registry", "verify", mirror)
    assert status == 1
    assert "remove that file, and publish the release again" in out
    Path("modpkg.toml").write_text(
        f'[app]\nname = "app"\n[registries]\nacme = "{registry}"\ndefault = "{mirror}"\n'
    )
    status, out, err = run(capfd, "registry", "verify", "default", "lib")
    assert status == 1
    assert not err
    assert f"mend it from {registry}: modpkg registry verify {mirror} --mend" in out
    assert document("verify", mirror, "--mend")["mended"] == 1
    assert document("verify", mirror)["damaged"] == []
    assert document("gc", mirror, "--dry-run")["files"] == 0
    assert run(capfd, "registry", "gc", mirror, "--older-than", "1 hour")[0] == 2
    assert run(capfd, "registry", "gc", str(home / "nowhere"))[0] == 1
    assert not (home / "nowhere").exists()
