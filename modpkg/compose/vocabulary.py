"""The tokens of a composition that has a ``vocabulary``: rows are merged by token, not by number.

As mergekit has it: each model's rows are moved to the numbers of the result's tokens, and then
merged. A model that lacks a token gets the row of the only model that has it, else the base's,
else the mean of those that have it. The result's tokens are those of one model, or all of them,
the base's first.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from modpkg.adapters.vocabulary import has_token_rows
from modpkg.compose.composition import INNER, ComputedTensor, InnerTensor
from modpkg.compose.layers import matches
from modpkg.compose.named_tokens import ADDED_TOKENS, VOCABULARY, added_tokens, tokens_of
from modpkg.compose.nested import made_fields
from modpkg.compose.output_layer import config_of
from modpkg.compose.row_places import MEAN, ZEROS, MovedRows, packed
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import TOKENIZER
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.records import canonical_json
from modpkg.core.same_values import is_output, ties
from modpkg.core.text_config import edit_text, vocabulary
from modpkg.manifest.schema import UNION, Compose, TokenRow, Vocabulary

_JSON = frozenset({TOKENIZER, "vocab.json"})
"""Files that tell the tokens in JSON."""
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
"""What a token that is added by its text alone is like."""


class AlignedModules(Struct, frozen=True):
    """The modules of a recipe, with rows where the result's tokens are."""

    modules: dict[str, InstalledModule]
    config: dict[str, Any]
    documents: dict[str, dict[str, Any]]
    """The tokenizer, where it has more tokens than that of a module."""
    inner: dict[str, InnerTensor]
    """The tensors with moved rows, as in `Composition`."""


def aligned(
    name: str,
    recipe: Compose,
    vocabulary_: Vocabulary,
    config: Mapping[str, Any],
    modules: Mapping[str, InstalledModule],
) -> AlignedModules:
    """Return the modules of a recipe with their rows moved.

    Raises:
        ComposeError: A step is no merge, the tokens of a module are not known, or a token has no
            row where the recipe says.
        RecordError: A tokenizer is no JSON.
    """

    def refuse(reason: str) -> ComposeError:
        return ComposeError("M601", model=name, reason=f"its vocabulary cannot be used: {reason}")

    steps = [*recipe.steps, *(step for run in recipe.layers for step in run.steps)]
    other = next((step for step in steps if step.op != "dense"), None)
    if other is not None:
        raise refuse(f"rows are moved in merges of whole models, and {other.module} is no such one")
    merged = [recipe.base, *(run.module for run in recipe.layers), *(s.module for s in steps)]
    models = [modules[each] for each in dict.fromkeys(merged)]
    source = modules[recipe.base if vocabulary_.source == UNION else vocabulary_.source]
    plain = not vocabulary_.tokens and vocabulary_.pad_to_multiple_of is None
    if plain and all(_has_tokens_of(each, source) for each in models):
        return AlignedModules(dict(modules), dict(config), {}, {})
    base = modules[recipe.base]
    known = {base.name: _tokens(base, refuse)}
    for module in models:
        own = any(VOCABULARY.fullmatch(path) for path in module.files)
        known[module.name] = _tokens(module, refuse) if own else known[base.name]
    tokens = dict(known[source.name] if source in models else _all_tokens(source, refuse))
    new: dict[str, dict[str, Any]] = {}
    if vocabulary_.source == UNION:
        new |= _others(models, known, tokens)
    for row in vocabulary_.tokens:
        if row.token not in tokens and row.token not in new:
            new[row.token] = {**_ADDED, "content": row.token, "normalized": True}
    for token in new:
        tokens[token] = len(tokens)
    if sorted(tokens.values()) != [*range(len(tokens))]:
        raise refuse(f"the tokens of {source.name} are not numbered one after the other")
    rows = {row.token: row for row in vocabulary_.tokens}
    padding = -len(tokens) % (vocabulary_.pad_to_multiple_of or 1)
    tensors = {module.name: dict(module.tensors) for module in models}
    inner: dict[str, InnerTensor] = {}
    places: dict[tuple[str, ...], _Places] = {}
    for tensor in sorted({t for own in tensors.values() for t in own if has_token_rows(t)}):
        groups = [list(dict.fromkeys(_merged_in(recipe, tensor)))]
        if recipe.base not in groups[0]:
            # Its tensor is not taken, but the shapes of the others are compared with it.
            groups.append([recipe.base])
        for names in groups:
            favoured = names[0] if vocabulary_.missing == "base" else ""
            group = [modules[each] for each in names]
            table = _Alignment(refuse, favoured, group, known, rows, places)
            for module in table.having(tensor):
                if module.name == recipe.base and tensor not in module.tensors:
                    if tokens.keys() - known[module.name].keys():
                        raise refuse(
                            f"{module.name} ties its output layer to its embedding, lacks tokens, "
                            f"and is merged with models that have {tensor!r}; untie it first"
                        )
                    continue
                moved = table.rows_of(module, tensor, tokens, padding)
                if not moved.is_plain():
                    tensors[module.name][tensor] = _made(module.name, tensor, moved, inner)
    result = dict(modules)
    for each, made in tensors.items():
        result[each] = structs.replace(modules[each], tensors=made)
    named = vocabulary(config)
    if named is None:
        raise refuse(f"the config of {base.name} has no number of tokens")
    edited = {**config, **edit_text(config, {named[0]: len(tokens) + padding})}
    documents = {}
    if new:
        documents[TOKENIZER] = _with_tokens(source, tokens, new, refuse)
    return AlignedModules(result, edited, documents, inner)


def _merged_in(recipe: Compose, tensor: str) -> list[str]:
    """Return the modules that are merged in a tensor outside of layers, the base first."""
    if recipe.steps:
        return [recipe.base, *(step.module for step in recipe.steps)]
    for run in reversed(recipe.layers):
        if any(matches(tensor, wanted) for wanted in run.tensors):
            return [run.module, *(step.module for step in run.steps)]
    return [recipe.base]


def _has_tokens_of(module: InstalledModule, source: InstalledModule) -> bool:
    """Return whether a module's tokenizer is that of another, file by file, and is no JSON.

    What its tokens are is then not known, and need not be.
    """

    def files(of: InstalledModule) -> dict[str, Digest]:
        taken = (path for path in of.files if VOCABULARY.fullmatch(path) or path == ADDED_TOKENS)
        return {path: digest_file(of.files[path]) for path in taken}

    known = files(source)
    return not known.keys() & _JSON and files(module) in ({}, known)


def _all_tokens(module: InstalledModule, refuse: Any) -> dict[str, int]:
    if not module.files.keys() & _JSON:
        raise refuse(f"{module.name} has no {TOKENIZER}, so its tokens are not known")
    if TOKENIZER in module.files:  # beside it, other files only repeat its tokens
        return tokens_of({TOKENIZER: module.files[TOKENIZER]})
    return tokens_of(module.files)


def _tokens(module: InstalledModule, refuse: Any) -> dict[str, int]:
    """Return the tokens of a module that have rows, by text."""
    tokens = _all_tokens(module, refuse)
    rows = [ref.shape[0] for tensor, ref in module.tensors.items() if has_token_rows(tensor)]
    if not rows:
        raise refuse(f"{module.name} has no tensor with a row for each token")
    return {token: n for token, n in tokens.items() if 0 <= n < min(rows)}


def _others(
    models: Sequence[InstalledModule],
    known: Mapping[str, Mapping[str, int]],
    tokens: Mapping[str, int],
) -> dict[str, dict[str, Any]]:
    """Return the tokens of models that the first lacks: in their order, those added last."""
    plain: dict[str, dict[str, Any]] = {}
    added: dict[str, dict[str, Any]] = {}
    for module in models:
        own = known[module.name]
        properties = added_tokens(module.files)
        for token in sorted(own.keys() - tokens.keys(), key=own.__getitem__):
            if token in properties:
                added.setdefault(token, {**_ADDED, "normalized": True, **properties[token]})
            else:
                plain.setdefault(token, {**_ADDED, "content": token, "normalized": True})
    return {token: each for token, each in plain.items() if token not in added} | added


def _with_tokens(
    module: InstalledModule,
    tokens: Mapping[str, int],
    new: Mapping[str, dict[str, Any]],
    refuse: Any,
) -> dict[str, Any]:
    """Return a module's tokenizer with more tokens."""
    if TOKENIZER not in module.files:
        raise refuse(f"{module.name} has no {TOKENIZER} that tokens can be added to")
    document = read_json(module.files[TOKENIZER])
    entries = [{**each, "id": tokens[token]} for token, each in new.items()]
    return {**document, "added_tokens": [*(document.get("added_tokens") or ()), *entries]}


_Places = tuple["array[int]", "array[int]", dict[int, tuple[tuple[int, int], ...]]]
"""Of `MovedRows`: ``sources``, ``rows`` and ``means``."""


class _Alignment:
    """Moves the rows of models that are merged with each other."""

    def __init__(
        self,
        refuse: Any,
        base: str,
        models: Sequence[InstalledModule],
        known: Mapping[str, Mapping[str, int]],
        rows: Mapping[str, TokenRow],
        places: dict[tuple[str, ...], _Places],
    ) -> None:
        self._refuse, self._base, self._models = refuse, base, models
        self._known, self._given, self._known_places = known, rows, places

    def having(self, tensor: str) -> list[InstalledModule]:
        """Return those of the models that have a tensor, if only by what they tie to it."""
        return [module for module in self._models if _tensor_of(module, tensor) is not None]

    def rows_of(
        self, module: InstalledModule, tensor: str, tokens: Mapping[str, int], padding: int
    ) -> MovedRows:
        """Return the rows of a tensor of one of the models, moved."""
        having = [module, *(m for m in self.having(tensor) if m.name != module.name)]
        refs = tuple(ref for each in having if (ref := _tensor_of(each, tensor)) is not None)
        names = [each.name for each in having]
        sources, rows, means = self._places(names, tokens)
        used = {*sources, *(source for parts in means.values() for source, _ in parts)} - {MEAN}
        for source in used - {ZEROS}:
            ref = refs[source]
            if (ref.dtype, list(ref.shape[1:])) != (refs[0].dtype, list(refs[0].shape[1:])):
                raise self._refuse(
                    f"rows of {tensor!r} come from {names[source]}, whose dtype or width is another"
                )
        if refs[0].dtype not in FLOATS:
            raise self._refuse(f"{tensor!r} of {module.name} is {refs[0].dtype}")
        return MovedRows(
            tensors=refs,
            sources=packed(sources),
            rows=packed(rows),
            means=means,
            padding=padding,
        )

    def _places(self, names: Sequence[str], tokens: Mapping[str, int]) -> _Places:
        """Return where the rows of all tokens come from, for the first of the models.

        For most tensors that is the same: output layer and embedding.
        """
        key = (self._base, *names)
        if key not in self._known_places:
            sources, rows = array("i", [ZEROS]) * len(tokens), array("i", [0]) * len(tokens)
            means: dict[int, tuple[tuple[int, int], ...]] = {}
            for token, number in tokens.items():
                found = self._row(token, names)
                if len(found) == 1:
                    sources[number], rows[number] = found[0]
                elif found:
                    sources[number], means[number] = MEAN, tuple(found)
            self._known_places[key] = sources, rows, means
        return self._known_places[key]

    def _row(self, token: str, names: Sequence[str]) -> list[tuple[int, int]]:
        """Return where the row of a token comes from, for the first of the models.

        It is one row, several for their mean, or none for zeros.
        """
        having = [n for n, name in enumerate(names) if token in self._known[name]]
        given = self._given.get(token)
        if having[:1] == [0] and not (given is not None and given.force):
            return [(0, self._known[names[0]][token])]
        if given is not None:
            return self._given_row(given, names)
        if len(having) > 1 and self._base in names and names.index(self._base) in having:
            having = [names.index(self._base)]
        # In an order that does not depend on whose row it is: a mean is rounded once.
        return sorted(
            ((n, self._known[names[n]][token]) for n in having), key=lambda part: names[part[0]]
        )

    def _given_row(self, given: TokenRow, names: Sequence[str]) -> list[tuple[int, int]]:
        if given.module is None:
            return []
        if given.module not in names:
            raise self._refuse(
                f"the row of {given.token!r} is of {given.module}, which is not merged with it"
            )
        known = self._known[given.module]
        number = given.number if given.number is not None else known.get(given.of or given.token)
        module = self._models[[each.name for each in self._models].index(given.module)]
        rows = min(ref.shape[0] for t, ref in module.tensors.items() if has_token_rows(t))
        if number is not None and number >= rows:
            raise self._refuse(
                f"{given.module} has no row {number} (it has rows 0 to {rows - 1}), which the row "
                f"of {given.token!r} is to be"
            )
        if number is None:
            raise self._refuse(f"{given.module} has no row for {given.token!r}")
        return [(names.index(given.module), number)]


def _tensor_of(module: InstalledModule, tensor: str) -> TensorRef | None:
    """Return a module's tensor; of an output layer that it ties, the embedding. None: neither."""
    if tensor in module.tensors:
        return module.tensors[tensor]
    if not is_output(tensor) or not ties(config_of(module)):
        return None
    found = [t for t in module.tensors if has_token_rows(t) and not is_output(t)]
    return module.tensors[found[0]] if len(found) == 1 else None


def _made(model: str, tensor: str, rows: MovedRows, inner: dict[str, InnerTensor]) -> TensorRef:
    """Return a reference to moved rows, and add how they are made."""
    own = rows.tensors[0]
    computed = ComputedTensor(source=own, dtype=own.dtype, moved=rows)
    identity = digest_bytes(canonical_json(made_fields(computed)))
    inner[INNER + identity] = InnerTensor(
        model=model, name=tensor, composition="", computed=computed
    )
    return TensorRef(
        file=INNER + identity,
        offset=0,
        length=computed.length,
        dtype=own.dtype,
        shape=list(computed.shape),
        digest=identity,
    )
