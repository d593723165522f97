"""The cache that other tools have of a hub: its snapshots are folders that can be imported."""

from __future__ import annotations

import os
from pathlib import Path

from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from modpkg.core.hub_address import HubAddress, is_revision
from modpkg.core.jsonfile import read_json
from modpkg.core.regular_file import read_text
from modpkg.release.checkpoint import checkpoint_of

_COMMIT_BYTES = 200
_MAIN = "main"


def cached_snapshot(address: HubAddress, *, adapter: bool) -> tuple[Path, HubAddress] | None:
    """Return the folder that the cache has of a repository, and the address of its commit.

    None if it has none, or not all weights. A branch or a tag is the commit that it was when it was
    downloaded. The importer compares each blob with the digest that it is named by.

    Args:
        address: The repository.
        adapter: Whether an adapter is wanted, and not a whole model.
    """
    folder = _cache() / f"models--{address.repository.replace('/', '--')}"
    commit = _commit(folder, address)
    if commit is None or not commit.pinned:
        return None
    snapshot = folder / "snapshots" / str(commit.revision)
    return (snapshot, commit) if _is_whole(snapshot, adapter=adapter) else None


def _cache() -> Path:
    """Return the folder of the cache, as `huggingface_hub` chooses it."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(named)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def _commit(folder: Path, address: HubAddress) -> HubAddress | None:
    """Return the address of the commit that a revision is in the cache."""
    if address.pinned:
        return address
    revision = address.revision or _MAIN
    if not is_revision(revision):
        return None
    try:
        return address.at(read_text(folder / "refs" / revision, _COMMIT_BYTES).strip())
    except (OSError, ValueError):
        return None


def _is_whole(snapshot: Path, *, adapter: bool) -> bool:
    if adapter:
        return all((snapshot / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    try:
        return bool(checkpoint_of(snapshot, read_json(snapshot / CONFIG)).files)
    except (OSError, ModpkgError):
        return False
