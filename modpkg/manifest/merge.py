"""``merge`` of ``[provenance]``: how `modpkg merge` made a module, so that it can be made again."""

from __future__ import annotations

from typing import Any

from modpkg.core.bounds import MERGE_CHOICES, MERGE_PARENTS
from modpkg.core.digests import parse_digest
from modpkg.core.names import ModuleName
from modpkg.manifest.against import parse_release
from modpkg.manifest.keys import (
    CHOICE_KEYS,
    CONFLICT_KEYS,
    MERGE_KEYS,
    MERGE_PARENT_KEYS,
    PROVENANCE_KEYS,
)
from modpkg.manifest.schema import (
    MergeChoice,
    MergeConflicts,
    MergedParent,
    RememberedMerge,
    Setting,
)
from modpkg.manifest.settings import PARAMETER, plain_setting, read_setting, scalar
from modpkg.manifest.values import word
from modpkg.toml.node import Node

MOST_VALUES = 1 << 53


def read_merge(provenance: Node | None) -> RememberedMerge | None:
    """Return ``merge`` of ``[provenance]``; None if there is none."""
    node = None if provenance is None else provenance.table(PROVENANCE_KEYS).get("merge")
    if node is None:
        return None
    table = node.table(MERGE_KEYS)
    parents = table.need(
        "parents", 'parents = [{ release = "patch-a==1.0", weights = "sha256:…" }]'
    )
    items = parents.items()
    if not 2 <= len(items) <= MERGE_PARENTS:
        raise parents.fail(f"has to have 2 to {MERGE_PARENTS} entries")
    method, parameters = table.get("method"), table.get("parameters")
    resolution, conflicts = table.get("resolution"), table.get("conflicts")
    choices = resolution.items() if resolution else []
    if resolution and len(choices) > MERGE_CHOICES:
        raise resolution.fail(f"has more than {MERGE_CHOICES} entries")
    return RememberedMerge(
        base=_release(table.need("base", 'base = "clamp==1.0.0"')),
        parents=tuple(map(_parent, items)),
        method=word(method, "a method") if method else None,
        parameters=_parameters(parameters) if parameters else {},
        resolution=tuple(map(_choice, choices)),
        conflicts=_conflicts(conflicts) if conflicts else MergeConflicts(),
        result=_digest(table.need("result", 'result = "sha256:…"')),
    )


def _parent(node: Node) -> MergedParent:
    table = node.table(MERGE_PARENT_KEYS)
    release, folder = table.get("release"), table.get("folder")
    if (release is None) == (folder is None):
        raise node.fail("has to have one of 'release' and 'folder'")
    weight, importance = table.get("weight"), table.get("importance")
    return MergedParent(
        release=_release(release) if release else "",
        folder=folder.text() if folder else "",
        weights=_digest(table.need("weights", 'weights = "sha256:…"')),
        weight=weight.number() if weight else 1.0,
        importance=_digest(importance) if importance else "",
    )


def _choice(node: Node) -> MergeChoice:
    table = node.table(CHOICE_KEYS)
    tensors, files = table.get("tensors"), table.get("files")
    named = tensors or files
    if named is None or (tensors and files):
        raise node.fail("has to have one of 'tensors' and 'files'")
    choice = table.need("choice", 'choice = "ours"')
    return MergeChoice("tensors" if tensors else "files", named.text(), choice.text())


def _conflicts(node: Node) -> MergeConflicts:
    entries = node.table(CONFLICT_KEYS).entries
    return MergeConflicts(**{key: each.integer(0, MOST_VALUES) for key, each in entries.items()})


def _parameters(node: Node) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for key, value in sorted(node.entries().items()):
        if not PARAMETER.fullmatch(key):
            raise value.fail("cannot be a parameter's name (lower-case words like 'density')")
        found[key] = read_setting(value, scalar)
    return found


def _release(node: Node) -> str:
    def parsed(text: str) -> tuple[ModuleName, Any]:
        return parse_release(text)

    name, version = node.parsed(parsed)
    return f"{name}=={version}"


def _digest(node: Node) -> str:
    return str(node.parsed(parse_digest))


def merge_data(merge: RememberedMerge) -> dict[str, Any]:
    """Return a merge as the data that a manifest has, without what is left out."""
    data = {
        "base": merge.base,
        "parents": [_parent_data(parent) for parent in merge.parents],
        "method": merge.method,
        "parameters": {key: plain_setting(one) for key, one in sorted(merge.parameters.items())},
        "resolution": [{one.table: one.pattern, "choice": one.choice} for one in merge.resolution],
        "conflicts": {
            key: count for key in CONFLICT_KEYS if (count := getattr(merge.conflicts, key))
        },
        "result": merge.result,
    }
    return {key: value for key, value in data.items() if value not in (None, {}, [])}


def _parent_data(parent: MergedParent) -> dict[str, Any]:
    data: dict[str, Any] = {"release": parent.release} if parent.release else {}
    if parent.folder:
        data["folder"] = parent.folder
    data["weights"] = parent.weights
    if parent.weight != 1.0:
        data["weight"] = parent.weight
    if parent.importance:
        data["importance"] = parent.importance
    return data
