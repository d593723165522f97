"""From a patch to a release, with a review between: on a folder, and by a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_everywhere import run
from tests.community.tiny import publish_encoder_and_head
from tests.e2e import review_story

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

    review_story.tell(tmp_path, str(registry), as_one)
