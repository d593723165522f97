"""What audit tells beside advisories: what a registry took back, over the network too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.progress import Progress
from modpkg.registry.removing import remove_release
from modpkg.registry.writer import RegistryWriter
from tests.cli.test_everywhere import run
from tests.modules import publish_collection, write_module
from tests.registry.servers import serve


def test_what_was_taken_back_is_told_where_an_install_with_nothing_to_do_asks_nobody(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    registry, app = home / "registry", Path.cwd()

    def do(*arguments: str | Path) -> tuple[str, str]:
        os.chdir(app)
        status, out, err = run(capfd, *map(str, arguments))
        assert status == 0, err
        return out, err

    for name in ("words", "lib"):
        publish_collection(registry, name)
        publish_collection(registry, name, "1.1")
    candidate = write_module(home / "candidate", "lib", "2.0")
    with serve(registry) as server:
        needs = f'[dependencies]\nwords = "*"\nlib = "*"\n[registries]\ndefault = "{server.url}"\n'
        (app / "modpkg.toml").write_text(f'[app]\nname = "app"\n{needs}')
        do("-C", candidate, "build")
        do("-C", candidate, "submit", "--message", "x", "--registry", registry)
        do("install", "--candidate", "lib#1")
        assert "warning" not in do("audit")[1]
        do("reject", "lib#1", "--reason", "no good", "--registry", registry)
        remove_release(RegistryWriter(registry), "words", "1.1", "leaked", Progress())
        before = len(server.seen)
        assert do("install")[1] == ""
        assert len(server.seen) == before
        err = do("audit")[1]
        assert "words 1.1 was removed from its registry: leaked" in err
        assert "lib#1, which was rejected" in err
        notes: list[Any] = json.loads(do("audit", "--json")[0])["notes"]
        assert len(notes) == 2
