"""Model cards: the README.md of a model on a hub, whose head in YAML says what the model is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.errors import MissingExtra
from modpkg.core.filenames import MANIFEST
from modpkg.core.printable import one_line
from modpkg.core.regular_file import read_text
from modpkg.interop.bounded_yaml import MalformedYaml, read_yaml
from modpkg.interop.hub_licenses import UNKNOWN_LICENSE, spdx_of
from modpkg.manifest.schema import Card
from modpkg.manifest.values import parse_license

CARD = "README.md"
_HEAD = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
"""A model of a hub, and no path on the machine of whoever wrote the card."""
_DERIVED = ("base_model:", "license:", "region:", "/")
"""Beginnings of tags that a hub derives from the rest of a card."""


class ModelCard(Struct, frozen=True):
    """What a model card says, as far as a manifest takes it."""

    license: str | None = None
    """An SPDX expression; None where the card has none, or none that is known."""
    license_text: str | None = None
    """The licence as the card names it."""
    summary: str | None = None
    card: Card = Card()
    warnings: tuple[str, ...] = ()
    """Why its head was not read."""


def read_card(folder: Path) -> ModelCard:
    """Return what the model card in a folder says; nothing where there is none.

    A head that is malformed or too large is passed over with a warning. Without PyYAML, only plain
    values at its top level are read.
    """
    try:
        text = read_text(folder / CARD, bounds.CARD_BYTES, errors="replace")
    except (OSError, ValueError):
        return ModelCard()
    if (found := _HEAD.match(text)) is None:
        return ModelCard()
    head = found[1]
    warnings: tuple[str, ...] = ()
    data: Mapping[str, Any]
    try:
        if len(head) > bounds.CARD_HEAD_CHARACTERS:
            most = f"{bounds.CARD_HEAD_CHARACTERS:,}"
            raise MalformedYaml(f"it has over {most} characters")
        data = read_yaml(
            head,
            what="Reading model cards",
            extra="hub",
            values=bounds.CARD_VALUES,
            depth=bounds.CARD_DEPTH,
            dates=True,
        )
        if not isinstance(data, dict):
            raise MalformedYaml("it is no mapping")
    except MissingExtra:
        data = _plain_values(head)
    except MalformedYaml as error:
        data = _plain_values(head[: bounds.CARD_HEAD_CHARACTERS])
        warnings = (f"the head of {CARD} was not read as a model card: {error}",)
    named = _text(data.get("license"))
    if isinstance(data.get("license"), list):
        named = " and ".join(_texts(data["license"])) or None
    return ModelCard(
        license=None if named is None else spdx_of(named, _text(data.get("license_name"))),
        license_text=named,
        summary=_text(data.get("summary")),
        card=Card(
            base_models=tuple(filter(_HUB_NAME.fullmatch, _texts(data.get("base_model")))),
            datasets=_texts(data.get("datasets")),
            languages=_texts(data.get("language")),
            tags=tuple(tag for tag in _texts(data.get("tags")) if not tag.startswith(_DERIVED)),
        ),
        warnings=warnings,
    )


def license_of(card: ModelCard, given: str | None) -> tuple[str, list[str]]:
    """Return an SPDX expression and warnings: `given`, else the card's.

    Raises:
        InvalidValue: `given` is not an SPDX expression.
    """
    if given is not None:
        return parse_license(given), []
    if card.license is not None:
        return card.license, []
    named = card.license_text
    reason = f"its README has {named!r}" if named else "its README has none"
    return UNKNOWN_LICENSE, [
        f"the licence is unknown ({reason}); write an SPDX expression into {MANIFEST}"
    ]


def _plain_values(head: str) -> dict[str, str]:
    """Return the plain values at the top level of a head, without a parser of YAML."""
    values: dict[str, str] = {}
    for line in head.splitlines()[:2000]:
        key, colon, value = line.partition(":")
        if colon and value.strip() and key == key.strip():
            values.setdefault(key, value.strip().strip("\"'"))
    return values


def _text(value: object) -> str | None:
    """Return a text to show, on one line; None for anything else."""
    if not isinstance(value, str) or not (text := one_line(value).strip()):
        return None
    return text[: bounds.CARD_ENTRY_CHARACTERS]


def _texts(value: object) -> tuple[str, ...]:
    """Return the texts of a list, or a text alone, each once; what is too long is left out."""
    entries: Iterable[object] = value if isinstance(value, list) else [value]
    texts = [
        text.strip()
        for text in entries
        if isinstance(text, str)
        and text.strip()
        and one_line(text) == text
        and len(text) <= bounds.CARD_ENTRY_CHARACTERS
    ]
    return tuple(dict.fromkeys(texts))[: bounds.CARD_ENTRIES]


def card_text(head: Mapping[str, Any], body: str) -> str:
    """Return a model card: a head of texts and lists of texts, and its text.

    JSON's way of writing a text is one of YAML's.
    """
    lines = ["---"]
    for key, value in head.items():
        if isinstance(value, str):
            lines.append(f"{key}: {_quoted(value)}")
        elif value:
            lines += [f"{key}:", *(f"- {_quoted(item)}" for item in value)]
    return "\n".join([*lines, "---", "", body.rstrip(), ""])


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./+-]*")
_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return msgspec.json.encode(text).decode()
