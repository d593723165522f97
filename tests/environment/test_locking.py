"""Locking again and again, with a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from modpkg.core.tree import BlobTree
from modpkg.environment.locking import make_lock
from modpkg.environment.open_registries import OpenRegistries
from modpkg.environment.registries import Registries
from modpkg.environment.up_to_date import stale_reason
from modpkg.manifest.read import parse_manifest
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.identity import set_cool_down, set_info
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.resolve.lock import Lock, format_lock, parse_lock
from tests.modules import publish_collection
from tests.raising import raises

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Shop:
    """A registry whose releases are published on days that the test names, and an app on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "registry"
        self.more = ""

    def publish(self, name: str, version: str, day: int, **requires: str) -> None:
        publish_collection(self.registry, name, version, requires)
        path = self.registry / "index" / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line["version"] == version:
                line["published"] = (START + day * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def lock(
        self, day: int, previous: Lock | None = None, upgrade: Iterable[str] | None = ()
    ) -> Lock:
        manifest = parse_manifest(
            f'[app]\nname = "shop"\n[dependencies]\ntop = "*"\n{self.more}',
            self.folder / "modpkg.toml",
        )
        opened = OpenRegistries(BlobTree(self.folder / "store"))
        registries = Registries(manifest, opened, default=str(self.registry))
        locked = make_lock(manifest, registries, previous, upgrade=upgrade, now=START + day * DAY)
        assert stale_reason(manifest, locked.lock) is None
        return locked.lock


def versions(lock: Lock) -> dict[str, str]:
    return {module.name: module.version for module in lock.module}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    RegistryWriter(shop.registry, "shop").prepare()
    shop.publish("lib", "1", 0)
    shop.publish("top", "1", 0, lib="*")
    return shop


def test_a_span_is_counted_back_from_each_locking(shop: Shop) -> None:
    shop.more = '[resolution]\nexclude-newer = "7 days"\n'
    shop.publish("lib", "2", 10)
    first = shop.lock(12)
    assert versions(first) == {"top": "1", "lib": "1"}
    assert first.resolution.cutoff == "2026-01-06T00:00:00Z"
    assert shop.lock(20, first) == first, "nothing changed: the lock is the same to the byte"
    second = shop.lock(20, first, upgrade=None)
    assert versions(second) == {"top": "1", "lib": "2"}
    assert second.resolution.cutoff == "2026-01-14T00:00:00Z"


def test_a_locked_release_outlives_a_cutoff_that_moves_on(shop: Shop) -> None:
    shop.more = '[resolution]\nexclude-newer = "7 days"\n'
    shop.publish("lib", "2", 10)
    first = shop.lock(17)
    assert versions(first)["lib"] == "2"
    assert versions(shop.lock(300, first))["lib"] == "2"


def test_a_cutoff_added_later_downgrades(shop: Shop) -> None:
    shop.publish("lib", "2", 10)
    first = shop.lock(12)
    assert versions(first)["lib"] == "2"
    shop.more = '[resolution]\nexclude-newer = "2026-01-05"\n'
    assert versions(shop.lock(12, first))["lib"] == "1"
    shop.more += "exclude-newer-package = { lib = false }\n"
    assert versions(shop.lock(12, first))["lib"] == "2"


def test_a_registry_lets_its_releases_cool_down(shop: Shop) -> None:
    set_cool_down(FolderPlace(shop.registry), 7 * DAY)
    shop.publish("lib", "2", 10)
    first = shop.lock(12)
    assert versions(first) == {"top": "1", "lib": "1"}
    assert first.resolution.cool_down == ["shop=7 days"]
    assert parse_lock(format_lock(first), Path("modpkg.lock")) == first
    assert versions(shop.lock(17, first, upgrade=None))["lib"] == "2"
    for more in ('exclude-newer = "0 days"', "exclude-newer-package = { lib = false }"):
        shop.more = f"[resolution]\n{more}\n"
        assert versions(shop.lock(12, first, upgrade=None))["lib"] == "2"
    shop.more = '[resolution]\nexclude-newer = "30 days"\n'  # the manifest's own, and not both
    assert shop.lock(35, first, upgrade=None).resolution.cool_down == []
    shop.more = '[constraints]\nlib = ">=2"\n'
    with raises("M401", match="the cool-down of the registry shop is 7 days"):
        shop.lock(12)
    set_cool_down(FolderPlace(shop.registry), 0 * DAY)
    assert versions(shop.lock(12))["lib"] == "2"


def test_no_cool_down_takes_away_what_is_locked(shop: Shop) -> None:
    shop.publish("lib", "2", 10)
    first = shop.lock(12)
    set_cool_down(FolderPlace(shop.registry), 7 * DAY)
    shop.publish("lib", "3", 12)
    assert versions(shop.lock(13, first, upgrade=None)) == {"top": "1", "lib": "2"}
    assert versions(shop.lock(13))["lib"] == "1"


@pytest.mark.parametrize("text", ["soon", "-1 days", "2026-01-01", "1" * 30, "9999999 days"])
def test_a_cool_down_that_is_no_span_is_refused(shop: Shop, text: str) -> None:
    with raises("M209"):
        set_info(FolderPlace(shop.registry), "cool_down", text)
    path = shop.registry / "registry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cool_down": text}))
    with raises("M209"):
        shop.lock(1)


def test_a_new_strategy_sets_the_lock_aside_but_an_old_one_keeps_it(shop: Shop) -> None:
    shop.publish("lib", "2", 1)
    first = shop.lock(2)
    shop.publish("lib", "3", 3)
    assert versions(shop.lock(4, first))["lib"] == "2"
    shop.more = '[resolution]\nstrategy = "lowest"\n'
    lowest = shop.lock(4, first)
    assert versions(lowest)["lib"] == "1"
    shop.publish("lib", "0.5", 5)
    assert versions(shop.lock(6, lowest))["lib"] == "1"
    assert versions(shop.lock(6, lowest, upgrade=["lib"]))["lib"] == "0.5"


def test_the_lock_records_requirements_without_overrides(
    shop: Shop,
) -> None:
    shop.publish("lib", "2", 1)
    shop.publish("top", "2", 1, lib="<2")
    shop.more = '[overrides]\nlib = "==2"\n'
    lock = shop.lock(2)
    assert versions(lock) == {"top": "2", "lib": "2"}
    assert lock.find("top").requires == ["lib<2"]  # type: ignore[union-attr]
    assert Registry(str(shop.registry)).line("top", "2").requires == ["lib<2"]
