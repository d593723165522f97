"""What a collection reports of projects that cannot be read."""

from __future__ import annotations

from pathlib import Path

from modpkg.store.gc_roots import gc_roots
from modpkg.store.projects import CURRENT
from modpkg.store.store import Store


def test_a_file_in_place_of_the_generations_is_told_with_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    environment = tmp_path / "app" / ".modpkg"
    environment.mkdir(parents=True)
    (environment / CURRENT).symlink_to("generations/1")
    (environment / "generations").touch()
    store.projects.register(tmp_path / "app" / "modpkg.lock", environment)
    warnings: list[str] = []
    gc_roots(store, warnings.append)
    lock = environment / "generations" / "1" / "modpkg.lock"
    assert warnings == [
        f"{lock} cannot be read or written (not a directory); name a folder, or remove the file "
        "that stands in its way. Only what that project has installed is kept."
    ]
