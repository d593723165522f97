"""Tokenizers of a mergekit recipe: which tokens the result has, and whose rows they get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modpkg.interop.mergekit_settings import WrongValue, converted
from modpkg.manifest.schema import UNION

_BASE = "base"
_KEYS = ("source", "tokens", "pad_to_multiple_of")
_TOKEN = ("source", "force")


def vocabulary_of(
    data: Mapping[str, Any],
    base: str,
    named: bool,
    model: Callable[[Any], str],
    ignored: Callable[[Mapping[str, Any], tuple[str, ...], str], None],
) -> dict[str, Any]:
    """Return ``vocabulary`` of a manifest for a recipe; empty if it has none.

    Args:
        data: The recipe.
        base: The module that is its base.
        named: Whether the recipe names a base; else it is the first model.
        model: Returns the module that a reference to a model means.
        ignored: Notes the keys of a table that are not among those given.

    Raises:
        WrongValue: It is malformed; the reason is a clause.
    """
    section = data.get("tokenizer")
    source = data.get("tokenizer_source")
    missing = {} if named else {"missing": "mean"}
    if section is None:
        return {} if source is None else {**missing, "source": _source(source, base, model)}
    if source is not None:
        raise WrongValue("has tokenizer_source beside it; only one of them can be meant")
    if not isinstance(section, Mapping):
        raise WrongValue(f"is {section!r}, which is no mapping")
    ignored(section, _KEYS, "tokenizer")
    found: dict[str, Any] = {
        **missing,
        "source": _source(section.get("source") or UNION, base, model),
    }
    tokens = section.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        raise WrongValue(f"has tokens {tokens!r}, which is no mapping")
    rows: list[dict[str, Any]] = []
    for token, row in tokens.items():
        if not isinstance(row, Mapping):
            raise WrongValue(f"has {row!r} for the token {token[:100]!r}, which is no mapping")
        ignored(row, _TOKEN, f"token {token[:100]!r}")
        rows.append(_row(token, row, model))
    if rows:
        found["tokens"] = rows
    if (multiple := section.get("pad_to_multiple_of")) not in (None, 0):
        found["pad_to_multiple_of"] = converted(multiple, int)
    return found


def _source(value: Any, base: str, model: Callable[[Any], str]) -> str:
    if value == UNION:
        return UNION
    return base if value == _BASE else model(value)


def _row(token: str, row: Mapping[str, Any], model: Callable[[Any], str]) -> dict[str, Any]:
    """Return the entry of a token."""
    source, forced = row.get("source"), converted(row.get("force", False), bool)
    found: dict[str, Any] = {"token": token, **({"force": True} if forced else {})}
    if source is None:
        raise WrongValue(f"names no source for the row of the token {token[:100]!r}")
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if kind == "zero":
        return found
    if kind is None:
        return {**found, "module": model(source)}
    if kind != "model_token" or (source.get("token") is None) == (source.get("token_id") is None):
        raise WrongValue(f"has {source!r} as the row of {token[:100]!r}, which is none")
    found["module"] = model(source.get("model"))
    if source.get("token") is not None:
        return {**found, "of": source["token"]}
    return {**found, "number": converted(source["token_id"], int)}
