"""The hub is off before transformers is imported; a process of somebody else is left as it was."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from modpkg.cli import main
from modpkg.core import hub
from modpkg.core.extras import import_extra

PACKAGE = """
import os
HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE") == "1"
read = HF_HUB_OFFLINE
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub and a transformers that were not imported yet, in a process that may ask."""
    for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(hub, "_own", False)
    (tmp_path / "huggingface_hub").mkdir()
    (tmp_path / "huggingface_hub" / "__init__.py").write_text("")
    (tmp_path / "huggingface_hub" / "constants.py").write_text(PACKAGE)
    (tmp_path / "transformers.py").write_text("from huggingface_hub import constants")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("transformers", "huggingface_hub", "huggingface_hub.constants"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]


def constants() -> Any:
    return import_extra("transformers", what="A test", extra="transformers").constants


def test_a_process_of_somebody_else_may_ask_again(packages: None) -> None:
    found = constants()
    assert found.read
    assert not found.HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ
    assert "TRANSFORMERS_OFFLINE" not in os.environ


def test_what_they_chose_stays(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "yes")
    assert constants().HF_HUB_OFFLINE
    assert os.environ["TRANSFORMERS_OFFLINE"] == "yes"


def test_what_they_imported_stays(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as theirs

    assert not constants().read
    assert not theirs.HF_HUB_OFFLINE


def test_a_process_of_its_own_stays_offline(
    packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.turn_off_hub()
    assert constants().HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ  # for the commands that it starts


def test_commands_are_processes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_own", False)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert hub._own
