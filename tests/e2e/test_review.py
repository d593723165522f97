"""From a patch to a release, with a review between: on a folder, and by a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from modpkg.server.tables import Account, Event, Role
from tests.cli.test_everywhere import run
from tests.community.tiny import publish_encoder_and_head
from tests.e2e import review_story
from tests.server.conftest import token_for
from tests.server.live import live_server

pytestmark = pytest.mark.usefixtures("forked_python")


def test_on_a_folder(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "registry"
    publish_encoder_and_head(registry, tmp_path / "projects")
    monkeypatch.setenv("MODPKG_REGISTRY", str(registry))

    def as_one(who: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path / "app" if who == "app" else tmp_path)
        monkeypatch.setenv("LOGNAME", who)
        return run(capfd, *arguments)

    review_story.tell(tmp_path, str(registry), as_one, reviewed=False)


def test_by_a_server(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_encoder_and_head(tmp_path / "aside", tmp_path / "projects")
    with live_server(tmp_path / "storage") as server:
        names = ("ada", "bob", "rita", "mary", "app")
        tokens = {name: token_for(server, name) for name in names}
        monkeypatch.setenv("MODPKG_REGISTRY", server.settings.url)

        def as_one(who: str, *arguments: str) -> tuple[int, str, str]:
            monkeypatch.chdir(tmp_path / "app" if who == "app" else tmp_path)
            monkeypatch.setenv("MODPKG_TOKEN", tokens[who])
            return run(capfd, *arguments)

        for module in ("encoder-1.0", "mood-1.0"):
            status, _, err = as_one("mary", "publish", str(tmp_path / "projects" / module))
            assert status == 0, err
        with server.database.begin() as db:
            rita = db.scalar(select(Account.id).where(Account.name == "rita"))
            db.add(Role(module="encoder", account_id=rita, role="reviewer"))
        review_story.tell(tmp_path, server.settings.url, as_one, reviewed=True)
        with server.database.begin() as db:
            found = select(Event.actor, Event.action).where(Event.module == "encoder")
            events = [tuple(row) for row in db.execute(found.order_by(Event.id))]
    assert ("mary", "candidate.accept") in events
    assert ("rita", "candidate.approval") in events
    assert ("ada", "submit") in events
