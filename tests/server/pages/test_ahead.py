"""What is published is looked at before anybody asks for its page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modpkg.server import chores
from modpkg.server.changed_modules import MOST, ChangedModules
from modpkg.server.pages.ahead import prepare_candidates, prepare_module
from modpkg.server.pages.candidates import candidate_page
from modpkg.server.pages.catalogue import Catalogue
from modpkg.server.pages.tensors import tensors_page
from registry_spec.samples import Samples
from registry_spec.session_publisher import SessionPublisher
from tests.server.conftest import token_for
from tests.server.live import live_server


def until(true: Callable[[], bool]) -> bool:
    """Return whether something becomes true within the time that a loaded machine needs."""
    ends = time.monotonic() + 120
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)
    return true()


def test_changed_modules_are_waited_for() -> None:
    changed = ChangedModules()
    assert changed.wait(0) == []
    for number in range(MOST + 2):
        changed.add(f"m{number}")
    changed.add("m9")
    names = changed.wait(60)
    assert names[0] == "m3", "those that came last"
    assert (len(names), changed.wait(0)) == (MOST - 1, [])
    changed.wake()
    assert changed.wait(60) == []


def test_a_release_and_a_candidate_are_prepared_when_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    monkeypatch.setattr(chores, "COUNTS_SECONDS", 600.0)
    monkeypatch.setattr(chores, "prepare_module", lambda _, name, __: prepared.append(name))
    monkeypatch.setattr(chores, "prepare_candidates", lambda _, name: prepared.append(f"{name}#"))
    samples = Samples(tmp_path / "samples")
    with live_server(tmp_path / "registry") as server:
        api = f"{server.settings.url}/api/1/"
        publisher = SessionPublisher(api, token_for(server, "ada"))
        publisher.publish(samples.text("words", "1.0"))
        assert until(lambda: prepared == ["words", "words#"])
        number = publisher.submit(samples.text("words", "2.0"), "Better.")
        assert until(lambda: len(prepared) == 4)
        publisher.request("POST", f"modules/words/candidates/{number}/accept", {})
        assert until(lambda: len(prepared) == 6)


def test_what_is_prepared_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Samples(tmp_path / "samples")
    with live_server(tmp_path / "registry") as server:
        api = f"{server.settings.url}/api/1/"
        publisher = SessionPublisher(api, token_for(server, "ada"))
        for version, changed in (("1.0", 0), ("2.0", 1)):
            publisher.publish(samples.base("words", version, changed))
        number = publisher.submit(samples.base("words", "3.0", 2), "Better.")
        catalogue = Catalogue(server.place.source)
        prepare_module(catalogue, "words", set())
        prepare_candidates(catalogue, "words")

        def read(*_: object) -> bytes:
            raise AssertionError("it is read again")

        monkeypatch.setattr(Catalogue, "_blob", read)
        releases, candidates = catalogue.releases("words"), catalogue.candidates("words")
        assert tensors_page(catalogue, releases, releases.newest, "", 1).compared is not None
        assert candidate_page(catalogue, releases, candidates, number, 1).difference is not None
