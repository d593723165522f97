"""``{ hub = "ORG/NAME", rev = "…" }`` under an app's ``[dependencies]``: a model of a hub."""

from __future__ import annotations

from collections.abc import Sequence

from modpkg.core.hub_address import SCHEME, HubAddress, is_revision, parse_hub_address
from modpkg.core.names import ModuleName, module_name
from modpkg.manifest.against import parse_release
from modpkg.manifest.keys import HUB_KEYS
from modpkg.manifest.schema import Dependency, HubModel
from modpkg.toml.node import Node

_ELSEWHERE = {
    "version": "does not go with 'hub', whose model has the version of its commit; remove it",
    "registry": "does not go with 'hub', which says where the model comes from; remove one of them",
    "extras": "does not go with 'hub', whose model has no extras; remove it",
}


def read_hub_model(
    entry: Node, owner: ModuleName | None, beside: tuple[str, ...] = ()
) -> HubModel | None:
    """Return what a dependency says of a hub; None if it is of a registry.

    ``owner`` is the module that the dependency belongs to; only apps may have one of a hub.
    ``beside`` are keys that the caller reads.

    Raises:
        ManifestError: It is not a repository, a revision or a base, or stands beside other keys.
    """
    if not isinstance(entry.value, dict) or not set(HUB_KEYS) & entry.value.keys():
        return None
    if "hub" not in entry.value:
        odd = next(key for key in HUB_KEYS if key in entry.value)
        raise entry.fail(f"has {odd!r}, which belongs to a 'hub'; add it, or remove {odd!r}")
    if owner is not None:
        raise entry.fail(
            "names a model of a hub, and what a module needs has to be published; make it a module "
            "by 'modpkg import hf hf://ORG/NAME', 'modpkg build' and 'modpkg publish', and name "
            "its version here"
        )
    for key, reason in _ELSEWHERE.items():
        if key in entry.value:
            raise entry.child(key, entry.value[key]).fail(reason)
    table = entry.table((*HUB_KEYS, "compose-at", *beside))
    rev, against = table.get("rev"), table.get("against")
    address = _repository(table.need("hub", 'hub = "ORG/NAME"'))
    if rev is not None:
        revision = rev.text()
        if not is_revision(revision):
            raise rev.fail(f"is {revision!r}; write a branch, a tag or a commit")
        address = address.at(revision)
    return HubModel(address, None if against is None else _against(against))


def parse_hub_model(text: str) -> HubModel:
    """Return what a lock records of a dependency that is a model of a hub.

    >>> parse_hub_model("hf://org/name@main against base").entries()
    {'hub': 'org/name', 'rev': 'main', 'against': 'base'}

    Raises:
        RegistryError: It is no address on a hub.
    """
    address, _, against = text.partition(" against ")
    return HubModel(parse_hub_address(address), against or None)


def _repository(node: Node) -> HubAddress:
    text = node.text()
    if "@" in text or ":" in text:
        raise node.fail(f"is {text!r}; write it like hub = \"ORG/NAME\", and a revision as 'rev'")
    return node.parse_text(parse_hub_address, f"{SCHEME}{text}")


def _against(node: Node) -> str:
    """Return the base that an adapter was trained on: a name, or a release of a registry."""
    if "=" not in node.text():
        return str(node.parsed(module_name))
    name, version = node.parsed(parse_release)
    return f"{name}=={version}"


def check_bases(entries: Sequence[tuple[Node, Dependency]]) -> None:
    """Check that each base that an adapter of a hub names is another dependency of the app.

    Raises:
        ManifestError: It is not, or which release of it is meant is not said.
    """
    by_name = {dependency.name: dependency for _, dependency in entries}
    for entry, dependency in entries:
        if dependency.hub is None or dependency.hub.against is None:
            continue
        node = entry.child("against", entry.value["against"])
        name, _, version = dependency.hub.against.partition("==")
        base = by_name.get(ModuleName(name))
        if base is None or base is dependency:
            raise node.fail(
                f"names {name}, and no other dependency is called so; add or correct it"
            )
        if base.hub is not None and version:
            raise node.fail(f"names a version, but {name} is of a hub; write {name!r} alone")
        if base.hub is None and not version:
            raise node.fail(
                f"names no version; write the release that it was trained on, like {name}==1.0.0"
            )
