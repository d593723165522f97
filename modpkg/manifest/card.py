"""``[card]``: what a model card says of a module, for people and for hubs."""

from __future__ import annotations

from modpkg.core.bounds import CARD_ENTRIES, CARD_ENTRY_CHARACTERS
from modpkg.manifest.keys import CARD_KEYS
from modpkg.manifest.schema import Card
from modpkg.toml.node import Node


def read_card(node: Node | None) -> Card:
    """Return ``[card]``; nothing of it is compared or resolved."""
    if node is None:
        return Card()
    table = node.table(CARD_KEYS)
    return Card(**{key.replace("-", "_"): _texts(table.get(key)) for key in CARD_KEYS})


def _texts(node: Node | None) -> tuple[str, ...]:
    if node is None:
        return ()
    items = node.items()
    if len(items) > CARD_ENTRIES:
        raise node.fail(f"has {len(items)} entries; at most {CARD_ENTRIES} are allowed")
    texts: dict[str, None] = {}
    for item in items:
        if (text := item.text(CARD_ENTRY_CHARACTERS)) in texts:
            raise item.fail("is there twice; keep one")
        texts[text] = None
    return tuple(texts)
