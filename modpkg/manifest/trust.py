"""``[trust]``: who has to have signed which modules of a project."""

from __future__ import annotations

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.oidc_identity import SCHEME, parse_identity
from modpkg.manifest.schema import TrustRule
from modpkg.toml.node import Node

_PATTERN = lazy_pattern(r"[a-z0-9*]([a-z0-9*-]{0,98}[a-z0-9*])?")
_KEY = lazy_pattern(r"key:[a-z0-9-]{1,20}:[A-Za-z0-9+/=]{1,200}")


def read_trust(node: Node | None) -> tuple[TrustRule, ...]:
    """Return ``[trust]``, in the order of the file: the first rule that fits a name holds."""
    rules = []
    for entry in node.entries().values() if node else ():
        pattern = str(entry.path[-1])
        if not is_pattern(pattern):
            raise entry.fail("is no name of a module in normal form, and no pattern like acme-*")
        nodes = [entry] if isinstance(entry.value, str) else [*entry.items()]
        if not nodes:
            raise entry.fail("names no signer; name one, or remove the entry")
        for one in nodes:
            if not _is_signer(one.text(most=bounds.LOCK_SIGNER)):
                raise one.fail(
                    "is no signer: one is like key:ed25519:…, and 'modpkg key list' shows yours, "
                    "or like 'oidc:https://ISSUER repo=OWNER/NAME', with owner-id=, workflow=, "
                    "ref= and subject= after it, in this order"
                )
        texts = tuple(one.text(most=bounds.LOCK_SIGNER) for one in nodes)
        rules.append(TrustRule(pattern, texts, entry.where))
    return tuple(rules)


def is_pattern(text: str) -> bool:
    """Return whether an entry of ``[trust]`` can be of a text."""
    return _PATTERN.fullmatch(text) is not None


def _is_signer(text: str) -> bool:
    if not text.startswith(SCHEME):
        return _KEY.fullmatch(text) is not None
    try:
        parse_identity(text)
    except TrustError:
        return False
    return True
