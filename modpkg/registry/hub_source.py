"""A registry in a repository of a hub: its files are read by their addresses there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from modpkg.core.errors import MissingExtra, RegistryUnreachable
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.hub_address import UNKNOWN_LOGIN, HubAddress, hub_token
from modpkg.manifest.config import StoreAccess
from modpkg.manifest.logins import SentToken
from modpkg.registry.allowance import Allowance
from modpkg.registry.attempts import STATUS, Attempts, asked_wait
from modpkg.registry.hub_client import open_hub
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.object_store import is_private, open_store


def names_in(folder: str, paths: Iterable[str]) -> list[str]:
    """Return the names of the files in a folder, of all paths.

    >>> names_in("index", ["index/b.jsonl", "index/a.jsonl", "index/x/y", "registry.json"])
    ['a.jsonl', 'b.jsonl']
    """
    inside = [path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/")]
    return sorted(name for name in inside if "/" not in name)


class HubSource(ObjectSource):
    """A registry in a repository of a hub, at a branch, a tag or a commit.

    The token that ``hf auth login`` left goes to the hub alone: what a hub redirects to gets none.
    """

    def __init__(self, address: HubAddress, *, allowance: Allowance | None = None) -> None:
        """Nothing is read yet.

        Raises:
            RegistryError: ``HF_ENDPOINT`` is no address.
        """
        self.address = address
        self._https = address.https()
        token = hub_token() if is_private(self._https) else None
        login = None if token is None else SentToken(token)
        super().__init__(str(address), login, allowance=allowance)

    def opened(self, silence: timedelta, retries: int) -> Any:
        access = StoreAccess()
        return open_store(self._https, self._login, access, silence=silence, retries=retries)

    def asked_wait(self) -> float | None:
        login = {} if self._login is None else {"Authorization": self._login.authorization()}
        return asked_wait(f"{self._https}/{REGISTRY_INFO}", login)

    def names(self, folder: str) -> list[str] | None:
        """Return the names of the files in a folder; None without `huggingface_hub`."""
        try:
            with open_hub("Listing a registry on a hub") as client:
                files = client.listing(self.address).files
        except MissingExtra:
            return None
        return names_in(folder, (file.path for file in files))

    def request_error(
        self,
        error: Exception,
        path: str,
        attempts: Attempts | None = None,
        *,
        begun: bool = False,
    ) -> RegistryUnreachable:
        status = STATUS.search(str(error))
        if status is None or status[1] not in ("401", "403"):
            return super().request_error(error, path, attempts, begun=begun)
        login = "run 'hf auth login', or set HF_TOKEN"
        if self._login is None:
            reason = "there is no such repository, or it is not for everybody"
            remedy = f"correct the name, or {login}"
        elif status[1] == "401":
            reason, remedy = UNKNOWN_LOGIN, f"{login} to another token"
        else:
            reason = "its owner has not given your account access to it"
            remedy = f"ask for access, or {login} to another token"
        return RegistryUnreachable("M861", address=self.url, reason=reason, remedy=remedy)
