"""``why-not`` where the signer of a version keeps it out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_everywhere import run
from tests.modules import publish_collection
from tests.trust.test_signed_releases import Capture, app, keys, release
from tests.trust.test_successors import succeed, versions

__all__ = ["app", "keys"]


def requires(app: Path, specifier: str) -> None:
    (app / "modpkg.toml").write_text(
        f'[app]\nname = "app"\n[dependencies]\nwords = "{specifier}"\n'
    )


@pytest.fixture(params=["another key", "one that has named its successor"])
def locked(
    request: pytest.FixtureRequest,
    app: Path,
    tmp_path: Path,
    keys: dict[str, str],
    capfd: Capture,
) -> Path:
    """An app that has locked words 1.3, signed by bob; ada signs 1.4 and 1.5."""
    if request.param != "another key":
        release(capfd, tmp_path, "1.0", "ada")
        succeed(capfd, "ada", keys["bob"])
        (app / ".succeeded").touch()
    release(capfd, tmp_path, "1.3", "bob")
    requires(app, ">=1.0")
    assert run(capfd, "lock")[0] == 0
    for version in ("1.4", "1.5"):
        release(capfd, tmp_path, version, "ada")
    return app


def answered(capfd: Capture, version: str) -> tuple[Any, str]:
    """Return the document, and what is printed without ``--json``."""
    document = json.loads(run(capfd, "why-not", f"words=={version}", "--json")[1])
    return document, run(capfd, "why-not", f"words=={version}")[1]


def takes(app: Path, capfd: Capture, command: str, version: str) -> None:
    """Run a command that was offered."""
    status, _, err = run(capfd, *shlex.split(command)[1:])
    assert (status, versions(app)) == (0, [version]), err


@pytest.mark.parametrize("specifier", [">=1.0", ">=1.0,<1.4"])
def test_each_cause_is_named_and_no_other(
    specifier: str, locked: Path, keys: dict[str, str], capfd: Capture
) -> None:
    requires(locked, specifier)
    answer, shown = answered(capfd, "1.4")
    assert answer["verdict"] == "forbidden"
    assert keys["ada"] in answer["explanation"]
    is_left = (locked / ".succeeded").exists()
    assert ("as its successor" in answer["explanation"]) == is_left
    is_allowed = specifier == ">=1.0"
    assert ("modpkg.toml" in answer["explanation"]) != is_allowed
    assert ("requirement" in shown) != is_allowed
    assert "Only" not in shown
    assert answer["command"] == 'modpkg install "words==1.4" --accept-changed words'
    takes(locked, capfd, answer["command"], "1.4")


def test_the_signer_alone_is_no_matter_of_the_requirement(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """Another requirement rules the version out: no command installs it; both are named."""
    release(capfd, tmp_path, "1.3", "bob")
    release(capfd, tmp_path, "1.4", "ada")
    requires(app, "<1.4")
    assert run(capfd, "lock")[0] == 0
    requires(app, ">=1.0")
    (app / "modpkg.toml").write_text(
        (app / "modpkg.toml").read_text() + '[constraints]\nwords = "<1.4"\n'
    )
    answer, _ = answered(capfd, "1.4")
    assert (answer["verdict"], answer["command"]) == ("forbidden", None)
    assert "constraint" in answer["explanation"]
    assert keys["ada"] in answer["explanation"]


def test_who_has_named_a_successor_is_the_cause_before_anything_is_locked(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    succeed(capfd, "ada", keys["bob"])
    release(capfd, tmp_path, "1.4", "ada")
    release(capfd, tmp_path, "1.5", "bob")
    answer, _ = answered(capfd, "1.4")
    assert (answer["verdict"], "as its successor" in answer["explanation"]) == ("forbidden", True)
    takes(app, capfd, answer["command"], "1.4")


def test_the_command_takes_what_is_selected_with_the_version(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """Its signer is the same; that of what it needs is another one."""
    release(capfd, tmp_path, "1.3", "bob")
    publish_collection(home / "registry", "all", "1.0", {"words": "<=1.3"})
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nall = "*"\n')
    assert run(capfd, "lock")[0] == 0
    release(capfd, tmp_path, "1.4", "ada")
    publish_collection(home / "registry", "all", "2.0", {"words": ">=1.4"})
    answer = json.loads(run(capfd, "why-not", "all==2.0", "--json")[1])
    assert answer["command"] == 'modpkg install "all==2.0" --accept-changed words'
    assert keys["ada"] in answer["explanation"]
    status, _, err = run(capfd, *shlex.split(answer["command"])[1:])
    assert (status, sorted(versions(app))) == (0, ["1.4", "2.0"]), err
