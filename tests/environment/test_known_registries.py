"""What a lock knows of registries is not lost by commands that need nothing of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modpkg.environment.signed_registries import with_later
from modpkg.resolve.lock import Lock, LockedModule, LockedRegistry
from tests.environment.test_logged import Machine, add, gone, grow, locked, machine, one
from tests.trust.log.logged import LoggedRegistry

__all__ = ["machine", "one"]
Machines = Callable[[str], Machine]


@pytest.mark.parametrize("command", ["lock", "update", "variable"])
def test_another_registry_that_is_asked_leaves_what_was_known(
    command: str,
    one: LoggedRegistry,
    machine: Machines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has never seen the registry is then held to what the lock says of it, as before."""
    copy = tmp_path / "copy"
    shutil.copytree(one.folder, copy)
    ada = machine("ada")
    ada.ok("lock")
    before = locked(ada.app)
    if command == "variable":
        monkeypatch.setenv("MODPKG_REGISTRY", str(copy))
        ada.ok("lock")
        monkeypatch.delenv("MODPKG_REGISTRY")
    else:
        ada.ok(command, "--registry", str(copy))
    text = (ada.app / "modpkg.lock").read_text()
    assert f'address = "{one.folder}"\nlog = ' in text
    assert before["log-root"] in text
    gone(one)
    machine("bob").fails("M551", "lock")


def test_a_registry_whose_last_module_goes_stays_known_while_the_manifest_names_it(
    one: LoggedRegistry, machine: Machines
) -> None:
    ada = machine("ada")
    ada.ok("lock")
    before = locked(ada.app)
    manifest = ada.app / "modpkg.toml"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('words = "*"\n', ""))
    ada.ok("lock")
    assert locked(ada.app) == before
    manifest.write_text(whole.replace('words = "*"\n', "").replace(str(one.folder), "elsewhere"))
    ada.ok("lock")
    assert "[[registry]]" not in (ada.app / "modpkg.lock").read_text()


def test_a_rollback_does_not_take_back_what_is_known(
    one: LoggedRegistry, machine: Machines
) -> None:
    ada = machine("ada")
    ada.ok("install")
    assert locked(ada.app)["log-size"] == 1
    grow(one, 3)
    one.publish("tones")
    add(ada.app, "tones")
    ada.ok("install")
    known = locked(ada.app)
    assert known["log-size"] == 5
    ada.ok("rollback")
    assert locked(ada.app) == known
    assert "tones" not in (ada.app / "modpkg.lock").read_text()
    ada.ok("verify")  # the generation that is current is of this lock
    ada.ok("install")
    assert locked(ada.app) == known


def test_of_two_states_of_a_registry_the_newer_one_counts() -> None:
    def lock(*registries: LockedRegistry, at: str = "a") -> Lock:
        module = LockedModule(
            name="words",
            version="1.0",
            kind="collection",
            registry="r",
            address=at,
            release="sha256:" + "0" * 64,
        )
        return Lock(requirements=[], module=[module], registry=list(registries))

    def signed(version: int, snapshot: int, root: str = "x") -> LockedRegistry:
        return LockedRegistry(address="a", root=root, root_version=version, snapshot=snapshot)

    def logged(size: int, key: str = "k") -> LockedRegistry:
        return LockedRegistry(
            address="a", log="l", log_key=key, log_size=size, log_root=f"root {size}"
        )

    def later(earlier: Lock, current: Lock) -> list[LockedRegistry]:
        return with_later(earlier, current, Path("/app")).registry

    assert later(lock(signed(1, 1)), lock(signed(1, 2))) == [signed(1, 2)]
    assert later(lock(signed(1, 2)), lock(signed(1, 1))) == [signed(1, 2)]
    assert later(lock(signed(1, 9)), lock(signed(2, 2))) == [signed(2, 2)]  # another online key
    assert later(lock(signed(3, 9, "y")), lock(signed(1, 1))) == [signed(1, 1)]
    assert later(lock(logged(2)), lock(logged(1))) == [logged(2)]
    assert later(lock(logged(2)), lock(logged(3))) == [logged(3)]
    assert later(lock(logged(9, "old")), lock(logged(3))) == [logged(3)]
    assert later(lock(signed(1, 1)), lock()) == []  # 'trust forget'
    assert later(lock(signed(1, 1)), lock(at="b")) == [signed(1, 1)]
    assert later(lock(), lock(signed(1, 1))) == [signed(1, 1)]
