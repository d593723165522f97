"""``vocabulary`` of a composition: the tokens that rows are moved to."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, get_args

from modpkg.core.bounds import (
    TOKEN_CHARACTERS,
    TOKEN_NUMBER,
    VOCABULARY_MULTIPLE,
    VOCABULARY_TOKENS,
)
from modpkg.core.names import ModuleName
from modpkg.manifest.keys import TOKEN_KEYS, VOCABULARY_KEYS
from modpkg.manifest.schema import UNION, Missing, TokenRow, Vocabulary
from modpkg.toml.node import Node

MISSING: tuple[str, ...] = get_args(Missing)


def read_vocabulary(node: Node, module: Callable[[Node], ModuleName]) -> Vocabulary:
    """Return ``vocabulary`` of a composition; ``module`` reads the name of one of its modules."""
    table = node.table(VOCABULARY_KEYS)
    source, tokens = table.need("source", 'source = "union"'), table.get("tokens")
    multiple, missing = table.get("pad_to_multiple_of"), table.get("missing")
    rows = [_token(item, module) for item in tokens.items()] if tokens else []
    if tokens and len(rows) > VOCABULARY_TOKENS:
        raise tokens.fail(f"has more than {VOCABULARY_TOKENS} tokens")
    if tokens and len({row.token for row in rows}) < len(rows):
        raise tokens.fail("names a token twice")
    return Vocabulary(
        source=UNION if source.value == UNION else module(source),
        missing=cast(Missing, missing.choice(MISSING, "choice")) if missing else "base",
        tokens=tuple(rows),
        pad_to_multiple_of=multiple.integer(1, VOCABULARY_MULTIPLE) if multiple else None,
    )


def _token(node: Node, read: Callable[[Node], ModuleName]) -> TokenRow:
    table = node.table(TOKEN_KEYS)
    module, of, number = table.get("module"), table.get("of"), table.get("number")
    force = table.get("force")
    for each in (of, number):
        if each and (module is None or (of and number)):
            raise each.fail("needs a module, and either 'of' or 'number'")
    return TokenRow(
        token=table.need("token", 'token = "<|im_end|>"').lines(TOKEN_CHARACTERS),
        module=read(module) if module else None,
        of=of.lines(TOKEN_CHARACTERS) if of else None,
        number=number.integer(0, TOKEN_NUMBER) if number else None,
        force=force.boolean() if force else False,
    )
