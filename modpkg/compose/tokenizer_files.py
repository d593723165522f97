"""The files of a composition that are about texts: its tokenizer, chat template, generation config,
and the modules of sentence-transformers. Imports no torch.

They are the base's, unless an adapter in the recipe has others, which it was trained with, or the
recipe names a module: ``tokenizer = "NAME"``. A tokenizer is one unit: its files are taken all
together. With another tokenizer come its special tokens, as transformers' Trainer aligns them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.compose.named_tokens import (
    ADDED_TOKENS,
    PROCESSORS,
    VOCABULARY,
    json_of,
    left_of,
    plain_token,
    special_tokens,
    token_without_row,
    tokens_of,
)
from modpkg.compose.sentence_files import (
    may_be_sentence_file,
    sentence_files,
    sentence_meaning,
)
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import GENERATION_CONFIG, MODULES, TOKENIZER, TOKENIZER_CONFIG
from modpkg.core.installed import InstalledModule
from modpkg.core.jsonfile import read_json
from modpkg.core.names import listed
from modpkg.core.records import canonical_json
from modpkg.core.regular_file import read_file, read_text
from modpkg.core.text_config import SPECIAL_IDS, edit_text, text_part, vocabulary
from modpkg.manifest.schema import Compose

_TEMPLATE = re.compile(r"chat_template\.(?:jinja|json)|additional_chat_templates/[^/]+\.jinja")
_BESIDE = re.compile(
    r"tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|merges\.txt"
    r"|normalizer\.json"
)
_CHAT_TEMPLATE = "chat_template"
AUTO = "auto"
"""As ``chat_template`` of a recipe: that of most of its modules."""
_GENERATES = re.compile(r"(?:ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
_NO_MEANING = {
    *("added_tokens_decoder", "auto_map", "backend", "is_local", "legacy", "local_files_only"),
    *("max_length", "model_max_length", "name_or_path", "_name_or_path", "pad_to_multiple_of"),
    *("pad_token", "pad_token_type_id", "padding_side", "processor_class", "stride"),
    *("truncation_side", "truncation_strategy", "tokenizer_file", "vocab_file", "merges_file"),
    *("special_tokens_map_file", "use_fast", _CHAT_TEMPLATE),
}
"""Keys of ``tokenizer_config.json`` that do not change the tokens of one text. Trainers set how to
pad and cut; the tokens that they list are in ``tokenizer.json``."""
_RENAMED = {"additional_special_tokens": "extra_special_tokens"}
_IDLE_GENERATION = {"transformers_version", "_from_model_config"}


def is_text_file(path: str) -> bool:
    """Return whether a module's file belongs to its tokenizer or processor, or says how it
    generates."""
    others = path in (GENERATION_CONFIG, *PROCESSORS) or may_be_sentence_file(path)
    return others or _of_tokenizer(path)


class TextSettings(Struct, frozen=True, kw_only=True):
    """What the recipe's modules decide about texts, besides the weights."""

    files: dict[str, Path]
    """The composition's files, by path."""
    config: dict[str, Any] = {}
    """Keys of ``config.json`` to set."""
    documents: dict[str, dict[str, Any]] = {}
    """JSON files to write, by path."""
    notes: tuple[str, ...] = ()
    """What to tell, each a sentence."""


class _Unit(Struct, frozen=True):
    """Files of one module that are taken together."""

    what: str
    files: dict[str, Path]

    def meaning(self) -> bytes:
        """Return bytes that are equal for files that mean the same for a text.

        Raises:
            RecordError: A file is not a JSON object.
        """
        return canonical_json(_MEANINGS[self.what](self.files))


_TOKENIZER_UNIT, _TEMPLATE_UNIT = "tokenizer", "chat template"
_GENERATION_UNIT, _SENTENCE_UNIT = "generation config", "sentence-transformers modules"


def _units(files: Mapping[str, Path]) -> dict[str, _Unit]:
    """Return the units among a module's files, by kind.

    Raises:
        RecordError: A ``tokenizer_config.json`` without a vocabulary is not a JSON object.
    """

    def taken(*patterns: re.Pattern[str]) -> dict[str, Path]:
        return {f: blob for f, blob in files.items() if any(p.fullmatch(f) for p in patterns)}

    units = []
    if taken(VOCABULARY):
        units.append(_Unit(_TOKENIZER_UNIT, taken(VOCABULARY, _BESIDE, _TEMPLATE)))
    elif template := taken(_TEMPLATE):
        units.append(_Unit(_TEMPLATE_UNIT, template))
    elif json_of(files, TOKENIZER_CONFIG).get(_CHAT_TEMPLATE) is not None:
        units.append(_Unit(_TEMPLATE_UNIT, {TOKENIZER_CONFIG: files[TOKENIZER_CONFIG]}))
    if MODULES in files:
        units.append(_Unit(_SENTENCE_UNIT, sentence_files(files)))
    if GENERATION_CONFIG in files:
        units.append(_Unit(_GENERATION_UNIT, {GENERATION_CONFIG: files[GENERATION_CONFIG]}))
    return {unit.what: unit for unit in units}


def settle(
    model: str,
    recipe: Compose,
    modules: Mapping[str, InstalledModule],
    files: Mapping[str, Path],
    config: Mapping[str, Any],
) -> TextSettings:
    """Return a composition's tokenizer, chat template and generation settings.

    Args:
        model: The composition's name.
        recipe: Its recipe.
        modules: The recipe's modules, by name.
        files: Its other files, as the base, heads and patches give them.
        config: Its ``config.json``.

    Raises:
        ComposeError: Adapters have different ones and the recipe names none, the module that it
            names has none, or a token has no row in the embedding.
        RecordError: A file is not a JSON object.
    """
    base = modules[recipe.base]
    others = [modules[name].files for name in recipe.modules() if name != recipe.base]
    plain = recipe.tokenizer is None and recipe.chat_template is None
    if plain and not any(is_text_file(file) for own in others for file in own):
        return TextSettings(files=dict(files))
    own, before = _units(files), _units(base.files)
    chosen: dict[str, tuple[str, _Unit]] = {}
    if recipe.tokenizer is not None:
        named = modules[recipe.tokenizer]
        units = _units(named.files)
        if _TOKENIZER_UNIT not in units and _TEMPLATE_UNIT not in units:
            raise ComposeError(
                "M601",
                model=model,
                reason=f"it takes the tokenizer of {named.name}, which has none",
            )
        if named.name != base.name:
            chosen = {what: (named.name, unit) for what, unit in units.items()}
    else:
        for what in _MEANINGS:
            if (found := _chosen(model, what, recipe, modules, own, before)) is not None:
                chosen[what] = found
    if _TOKENIZER_UNIT in chosen and _TEMPLATE_UNIT in chosen:
        first, second = chosen[_TOKENIZER_UNIT][0], chosen[_TEMPLATE_UNIT][0]
        raise ComposeError("M617", model=model, first=first, second=second, what=_TEMPLATE_UNIT)
    merged = dict(files)
    notes = [*_unused(recipe, modules, own), *left_of(recipe, modules)]
    documents: dict[str, dict[str, Any]] = {}
    for what, (name, unit) in chosen.items():
        if what == _TOKENIZER_UNIT:
            merged = {path: blob for path, blob in merged.items() if not _of_tokenizer(path)}
        elif what == _SENTENCE_UNIT:
            theirs = sentence_files(merged) if MODULES in merged else {}
            merged = {path: blob for path, blob in merged.items() if path not in theirs}
        if what == _TEMPLATE_UNIT and TOKENIZER_CONFIG in unit.files:
            # The one key of the file: its others belong to a tokenizer.
            merged = {p: blob for p, blob in merged.items() if _TEMPLATE.fullmatch(p) is None}
            template = json_of(unit.files, TOKENIZER_CONFIG)[_CHAT_TEMPLATE]
            settings = json_of(merged, TOKENIZER_CONFIG)
            documents[TOKENIZER_CONFIG] = {**settings, _CHAT_TEMPLATE: template}
        else:
            merged |= unit.files
        notes.append(f"{model} has the {what} of {name}, which differs from {base.name}'s.")
    edits: dict[str, Any] = {}
    if _TOKENIZER_UNIT in chosen:
        name, unit = chosen[_TOKENIZER_UNIT]
        tokens = tokens_of(unit.files)
        _check_rows(model, name, base, tokens, config)
        ids = _special_ids(unit.files, tokens)
        edits, documents = _aligned(config, merged, ids)
    if (template := _named_template(model, recipe, modules)) is not None:
        if _TOKENIZER_UNIT not in _units(merged):
            reason = "it has a chat_template, and no tokenizer"
            raise ComposeError("M601", model=model, reason=reason)
        merged = {path: blob for path, blob in merged.items() if _TEMPLATE.fullmatch(path) is None}
        settings = documents.get(TOKENIZER_CONFIG, json_of(merged, TOKENIZER_CONFIG))
        documents = {**documents, TOKENIZER_CONFIG: {**settings, _CHAT_TEMPLATE: template}}
    return TextSettings(files=merged, config=edits, documents=documents, notes=tuple(notes))


def _named_template(
    model: str, recipe: Compose, modules: Mapping[str, InstalledModule]
) -> str | None:
    """Return the chat template that a recipe names, which may be the one that most modules have."""
    if recipe.chat_template != AUTO:
        return recipe.chat_template
    found = Counter(
        text.strip()
        for name in recipe.modules()
        if (text := _default_template(modules[name].files)) is not None
    )
    return max(found, key=lambda text: found[text], default=None)


def _default_template(files: Mapping[str, Path]) -> str | None:
    """Return the text of a module's chat template; of several with names the default one."""
    given = _main_template(files)
    if isinstance(given, list):
        named = {each.get("name"): each.get("template") for each in given if isinstance(each, dict)}
        given = named.get("default")
    return given if isinstance(given, str) and given.strip() else None


def _of_tokenizer(path: str) -> bool:
    return any(p.fullmatch(path) is not None for p in (VOCABULARY, _TEMPLATE, _BESIDE))


def _chosen(
    model: str,
    what: str,
    recipe: Compose,
    modules: Mapping[str, InstalledModule],
    own: Mapping[str, _Unit],
    before: Mapping[str, _Unit],
) -> tuple[str, _Unit] | None:
    """Return the unit of the one adapter whose differs from the base's, and the adapter's name.

    Raises:
        ComposeError: Two modules have different ones.
    """
    adapters = [modules[step.module] for step in recipe.steps]
    theirs = {
        adapter.name: unit
        for adapter in adapters
        if adapter.kind == "adapter" and (unit := _units(adapter.files).get(what)) is not None
    }
    if not theirs:
        return None
    plain = before.get(what)
    if what == _TEMPLATE_UNIT and _TOKENIZER_UNIT in before:
        plain = _Unit(_TEMPLATE_UNIT, before[_TOKENIZER_UNIT].files)
    known = plain.meaning() if plain is not None else b""
    found: tuple[str, _Unit] | None = None
    current = own.get(what)
    if current is not None and plain is not None and current.files != plain.files:
        found = "a patch or head", current
    for name, unit in theirs.items():
        if (plain is not None and unit.files == plain.files) or unit.meaning() == known:
            continue
        if found is not None and found[1].files != unit.files:
            if found[1].meaning() != unit.meaning():
                first = found[0]
                raise ComposeError("M617", model=model, first=first, second=name, what=what)
            continue
        found = name, unit
    return None if found is None or found[1] is current else found


def _unused(
    recipe: Compose, modules: Mapping[str, InstalledModule], own: Mapping[str, _Unit]
) -> Iterator[str]:
    """Yield a sentence on the fine-tunes whose tokenizer differs and is not used, if there are."""
    merged = recipe.tokenizer is not None or recipe.vocabulary is not None
    if merged or _TOKENIZER_UNIT not in own:
        return
    found: list[str] = []
    for module in {step.module: modules[step.module] for step in recipe.steps}.values():
        unit = _units(module.files).get(_TOKENIZER_UNIT)
        if module.kind not in ("base", "model") or unit is None or module.name == recipe.base:
            continue
        if unit.files != own[_TOKENIZER_UNIT].files and (
            unit.meaning() != own[_TOKENIZER_UNIT].meaning()
        ):
            found.append(module.name)
    if found:
        have, other = ("has", "the other") if len(found) == 1 else ("have", "another")
        yield (
            f"{listed(found, len(found))} {have} another tokenizer or chat template than "
            f"{recipe.base}, whose "
            f'is used; to use {other}, write tokenizer = "{found[0]}" in the recipe.'
        )


# What files mean --------------------------------------------------------------------------


def _tokenizer_meaning(files: Mapping[str, Path]) -> Any:
    meaning: dict[str, Any] = {_CHAT_TEMPLATE: _template_meaning(files)}
    if TOKENIZER in files:
        document = read_json(files[TOKENIZER])
        # Callers set how to cut and to pad.
        meaning[TOKENIZER] = {
            k: v for k, v in document.items() if k not in ("truncation", "padding")
        }
    else:
        for path, blob in files.items():
            if VOCABULARY.fullmatch(path) or path in ("merges.txt", ADDED_TOKENS):
                meaning[path] = read_file(blob).hex()
    settings = special_tokens(files) | json_of(files, TOKENIZER_CONFIG)
    for key, value in sorted(settings.items()):
        plain = plain_token(value)
        if key in _NO_MEANING or plain in (None, False, [], {}):
            continue
        if key == "tokenizer_class" and isinstance(plain, str):
            plain = plain.removesuffix("Fast")
        meaning[_RENAMED.get(key, key)] = plain
    return meaning


def _template_meaning(files: Mapping[str, Path]) -> Any:
    others = {
        path: read_text(blob, errors="replace")
        for path, blob in files.items()
        if path.startswith("additional_chat_templates/")
    }
    main = _main_template(files)
    return [main, others] if others else main


def _main_template(files: Mapping[str, Path]) -> Any:
    """Return the template, or a list of several that have names."""
    if (path := f"{_CHAT_TEMPLATE}.jinja") in files:
        return read_text(files[path], errors="replace")
    if (path := f"{_CHAT_TEMPLATE}.json") in files:
        return read_json(files[path]).get(_CHAT_TEMPLATE)
    return json_of(files, TOKENIZER_CONFIG).get(_CHAT_TEMPLATE)


def _generation_meaning(files: Mapping[str, Path]) -> Any:
    document = read_json(files[GENERATION_CONFIG])
    return {k: v for k, v in document.items() if k not in _IDLE_GENERATION and v is not None}


_MEANINGS = {
    _TOKENIZER_UNIT: _tokenizer_meaning,
    _TEMPLATE_UNIT: _template_meaning,
    _GENERATION_UNIT: _generation_meaning,
    _SENTENCE_UNIT: sentence_meaning,
}


# Tokens and their numbers -----------------------------------------------------------------


def _check_rows(
    model: str,
    name: str,
    base: InstalledModule,
    tokens: Mapping[str, int],
    config: Mapping[str, Any],
) -> None:
    """Check that the embedding has a row for each token that the base's tokenizer lacks.

    Raises:
        ComposeError: It has none.
    """
    named = vocabulary(config)
    if named is None:
        return
    texts = {path: blob for path, blob in base.files.items() if is_text_file(path)}
    token = token_without_row(tokens, named[1], lambda: tokens_of(texts))
    if token is not None:
        raise ComposeError(
            "M616",
            model=model,
            module=name,
            token=token[:100],
            number=tokens[token],
            rows=named[1],
            base=base.name,
        )


def _special_ids(files: Mapping[str, Path], tokens: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of a tokenizer's special tokens, by key of ``config.json``."""
    settings = special_tokens(files) | json_of(files, TOKENIZER_CONFIG)
    texts = {key: plain_token(settings.get(key.removesuffix("_id"))) for key in SPECIAL_IDS}
    return {
        key: tokens[text] for key, text in texts.items() if isinstance(text, str) and text in tokens
    }


def _aligned(
    config: Mapping[str, Any], files: Mapping[str, Path], ids: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the edits that align special tokens, of ``config.json`` and of the generation config.

    As ``align_special_tokens`` of transformers' Trainer does it: the tokens that end a text are
    added to those there are, others replace them.
    """
    _, part = text_part(config)
    names = config.get("architectures")
    generates = isinstance(names, list) and any(_GENERATES.search(str(each)) for each in names)
    generation: dict[str, Any] | None = json_of(files, GENERATION_CONFIG) or None
    if generation is None and generates:
        # What transformers would make of the config.
        generation = {key: part[key] for key in SPECIAL_IDS if part.get(key) is not None}
    edits: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    for key, number in ids.items():
        several = key == "eos_token_id"
        old = part.get(key)
        in_config = _listed(old)
        in_generation = _listed(generation.get(key)) if generation is not None else []
        if number in in_config and (generation is None or number in in_generation):
            continue
        keep = several and isinstance(old, list)
        edits[key] = [number, *(n for n in in_config if n != number)] if keep else number
        if generation is not None:
            rest = [n for n in in_generation if n != number] if several else []
            changed[key] = [number, *rest] if several else number
    documents = {}
    if generation is not None and changed:
        documents[GENERATION_CONFIG] = {**generation, **changed}
    return edit_text(config, edits) if edits else {}, documents


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
