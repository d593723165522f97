"""``[trust]``: who has to have signed which modules of a project."""

from __future__ import annotations

import re

from modpkg.manifest.schema import TrustRule
from modpkg.toml.node import Node

_PATTERN = re.compile(r"[a-z0-9*]([a-z0-9*-]{0,98}[a-z0-9*])?")
_SIGNER = re.compile(r"key:[a-z0-9-]{1,20}:[A-Za-z0-9+/=]{1,200}")


def read_trust(node: Node | None) -> tuple[TrustRule, ...]:
    """Return ``[trust]``, in the order of the file: the first rule that fits a name holds."""
    rules = []
    for entry in node.entries().values() if node else ():
        pattern = str(entry.path[-1])
        if not _PATTERN.fullmatch(pattern):
            raise entry.fail("is no name of a module in normal form, and no pattern like acme-*")
        nodes = [entry] if isinstance(entry.value, str) else [*entry.items()]
        if not nodes:
            raise entry.fail("names no signer; name one, or remove the entry")
        for one in nodes:
            if not _SIGNER.fullmatch(one.text()):
                raise one.fail(
                    "is no signer: one is like key:ed25519:…, and 'modpkg key list' shows yours"
                )
        rules.append(TrustRule(pattern, tuple(one.text() for one in nodes), entry.where))
    return tuple(rules)
