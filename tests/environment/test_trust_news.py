"""What is new in a lock in terms of trust, said in one line when it is taken in."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from modpkg.environment.trust_news import TrustNews, shown_news, taken_for, well_known
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.identity import set_cool_down
from modpkg.registry.reader import Registry
from tests.cli.test_everywhere import run
from tests.command import check_shape
from tests.modules import publish_collection, publish_versions, write_module

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def shop(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with ``words`` 1.0 and 1.1 of long ago, which an app requires."""
    monkeypatch.chdir(tmp_path)
    registry = tmp_path / "shop"
    publish_versions(registry, "words", ["1.0", "1.1"])
    Path("modpkg.toml").write_text(
        f'[app]\nname = "app"\n[dependencies]\nwords = "*"\n[registries]\ndefault = "{registry}"\n'
    )
    return registry


def require(*names: str) -> None:
    path = Path("modpkg.toml")
    added = "".join(f'{name} = "*"\n' for name in names)
    path.write_text(path.read_text().replace("[registries]", f"{added}[registries]"))


def news(capfd: Capture, *arguments: str) -> list[dict[str, str]]:
    """Return what is new in what ``lock`` locks, and check that it is said in one line too."""
    lock = Path("modpkg.lock")
    before = lock.read_bytes() if lock.exists() else None
    status, out, err = run(capfd, "lock", *arguments)
    assert status == 0, err
    told = [line for line in out.splitlines() if line.startswith("New here: ")]
    lock.unlink() if before is None else lock.write_bytes(before)
    status, out, _ = run(capfd, "lock", *arguments, "--json")
    document = json.loads(out)
    check_shape(document, "lock")
    assert len(told) == (1 if document.get("news") else 0)
    assert all(one["name"] in told[0] for one in document.get("news", []))
    return document.get("news", [])  # type: ignore[no-any-return]


def test_nothing_is_told_where_nothing_is_new(shop: Path, capfd: Capture) -> None:
    assert news(capfd) == []
    publish_versions(shop, "other", ["1.0", "1.1"])
    require("other")
    assert news(capfd) == []


def test_a_signer_is_news_once(shop: Path, tmp_path: Path, capfd: Capture) -> None:
    signer = json.loads(run(capfd, "key", "new", "ada", "--no-passphrase", "--json")[1])["public"]
    for name in ("words", "tags"):
        folder = write_module(tmp_path / name, name, "2.0")
        assert run(capfd, "build", str(folder))[0] == 0
        to = ("--registry", str(shop), "--sign", "ada", "--allow-breaking", "a test")
        assert run(capfd, "publish", str(folder), *to)[0] == 0
    kinds = [(one["kind"], one["name"], one.get("signer")) for one in news(capfd)]
    assert kinds == [("signer", "words", signer)]
    require("tags")
    assert [one["kind"] for one in news(capfd)] == ["first-release"]
    Path("modpkg.lock").unlink()
    assert run(capfd, "trust", "add", "*", signer)[0] == 0
    assert "signer" not in {one["kind"] for one in news(capfd)}  # who is named is known


def test_the_first_release_of_a_name_is_news_for_a_week(shop: Path, capfd: Capture) -> None:
    publish_collection(shop, "fresh")
    publish_collection(shop, "top", "1.0", {"fresh": "*"})
    publish_versions(shop, "old", ["1.0"])
    require("top", "old")
    assert [(one["kind"], one["name"]) for one in news(capfd)] == [
        ("first-release", "top"),
        ("first-release", "fresh"),
    ]
    assert news(capfd) == []
    publish_collection(shop, "hasty", "1.0")
    publish_collection(shop, "hasty", "1.1")  # a second release makes a name no older
    require("hasty")
    (one,) = news(capfd)
    first = Registry(str(shop)).line("hasty", "1.0").published
    assert (one["kind"], one["version"], one["published"]) == ("first-release", "1.1", first)
    status, out, _ = run(capfd, "install", "--upgrade", "--json")
    assert (status, "news" in json.loads(out)) == (0, False)


def test_a_name_that_can_be_taken_for_a_known_one_is_news(shop: Path, capfd: Capture) -> None:
    assert news(capfd) == []
    for name in ("wards", "swords", "w0rds", "words-2", "letters"):
        publish_versions(shop, name, ["1.0", "1.1"])
    require("wards", "w0rds", "words-2", "letters")
    assert [(one["name"], one["like"]) for one in news(capfd)] == [
        ("wards", "words"),
        ("w0rds", "words"),
    ]


def test_names_that_many_act_on_are_known(shop: Path) -> None:
    lines = [
        {"name": f"lora-{number}", "version": "1", "kind": "adapter", "bases": bases}
        for number, bases in enumerate([["llama"]] * 2 + [["llama", "rare"]])
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (shop / "modules.jsonl").write_text(text)
    assert well_known(Registry(str(shop))) == ["llama"]
    assert [taken_for(name, ["llama"]) for name in ("lama", "llama", "llama-3", "x")] == [
        *("llama", None, None, None)
    ]
    (shop / "modules.jsonl").write_bytes(b"\xff" * 10)
    assert well_known(Registry(str(shop))) == []


def test_a_release_that_has_not_cooled_down_is_news(shop: Path, capfd: Capture) -> None:
    set_cool_down(FolderPlace(shop), timedelta(days=3))
    assert news(capfd) == []
    path = shop / "index" / "words.jsonl"
    hours = datetime.now(timezone.utc) - timedelta(hours=5)
    lines = path.read_text().splitlines()
    line = json.loads(lines[1]) | {"published": hours.strftime("%Y-%m-%dT%H:%M:%SZ")}
    path.write_text(f"{lines[0]}\n{json.dumps(line)}\n")
    Path("modpkg.lock").unlink()
    assert news(capfd) == []
    assert 'version = "1.0"' in Path("modpkg.lock").read_text()
    (one,) = news(capfd, "--exclude-newer", "0 days", "--upgrade")
    assert (one["kind"], one["version"], one["cool_down"]) == ("young", "1.1", "3 days")
    young = TrustNews(**one)
    for age, text in ((0.5, "less than an hour"), (1, "1 hour"), (30, "30 hours"), (50, "2 days")):
        assert f" is {text} old," in shown_news([young], hours + timedelta(hours=age))
