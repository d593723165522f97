"""JSON Schemas (draft 7) of ``modpkg.toml`` and ``config.toml``, for editors.

The keys and choices are those of the readers. What the readers accept, a schema accepts; a schema
does not repeat every rule: that a name is among the dependencies, for one, only the readers check.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modpkg.core.bounds import (
    CARD_ENTRIES,
    CARD_ENTRY_CHARACTERS,
    DECLARED_TEST_SECONDS,
    MERGE_CHOICES,
    MERGE_PARENTS,
    SETTING_VALUES,
    STEP_LAYERS,
    STOP_CHARACTERS,
    TASK_NEW_TOKENS,
    TASK_STOPS,
    TASK_TEMPERATURE,
    TOKEN_CHARACTERS,
    TOKEN_NUMBER,
    VOCABULARY_MULTIPLE,
    VOCABULARY_TOKENS,
)
from modpkg.core.filenames import MANIFEST
from modpkg.core.records import KINDS, RELATIONS
from modpkg.manifest import keys
from modpkg.manifest.dependencies import COMPOSE_AT
from modpkg.manifest.limits import LIMITS, MOST
from modpkg.manifest.merge import MOST_VALUES
from modpkg.manifest.resolution import FITS, STRATEGIES
from modpkg.manifest.sections import (
    DTYPES,
    MOST_SEED,
    TASK_KINDS,
)
from modpkg.manifest.settings import PARAMETER
from modpkg.manifest.vocabulary import MISSING

DIALECT = "http://json-schema.org/draft-07/schema#"
JsonSchema = dict[str, Any]

_NUMBER: JsonSchema = {"type": "number", "minimum": -1e30, "maximum": 1e30}
_BOOLEAN: JsonSchema = {"type": "boolean"}
_TWO = {"minItems": 2, "maxItems": 2}


def _text(about: str = "", most: int = 500, **more: Any) -> JsonSchema:
    found: JsonSchema = {"type": "string", "minLength": 1, "maxLength": most, **more}
    return {**found, "description": about} if about else found


def _one_of(options: Iterable[str], about: str) -> JsonSchema:
    return {"enum": [*options], "description": about}


def _list(items: JsonSchema, about: str = "", **more: Any) -> JsonSchema:
    return {"type": "array", "items": items, **({"description": about} if about else {}), **more}


def _named(values: JsonSchema, about: str) -> JsonSchema:
    return {"type": "object", "additionalProperties": values, "description": about}


def _table(
    names: tuple[str, ...], values: JsonSchema, about: str, need: tuple[str, ...] = ()
) -> JsonSchema:
    """Return the schema of a table with these keys.

    Raises:
        ValueError: ``values`` describes other keys.
    """
    if set(names) != set(values):
        raise ValueError(f"keys without a description, or unknown: {set(names) ^ set(values)}")
    return {
        "type": "object",
        "properties": {name: values[name] for name in names},
        "required": [*need],
        "additionalProperties": False,
        "description": about,
    }


def _setting(value: JsonSchema, about: str) -> JsonSchema:
    gradient = _list(value, minItems=1, maxItems=SETTING_VALUES)
    filtered = _table(
        keys.FILTERED_KEYS,
        {
            "filter": _text("Part of the names of the tensors."),
            "value": {"anyOf": [value, gradient]},
        },
        "A value for the tensors whose name has the filter in it.",
        ("value",),
    )
    either = _list(filtered, minItems=1, maxItems=SETTING_VALUES)
    return {"anyOf": [value, gradient, either], "description": about}


def _names(what: str) -> JsonSchema:
    return _text(f"The name of {what}.")


def _parameters() -> JsonSchema:
    scalar = {"anyOf": [_BOOLEAN, _NUMBER, _text(most=100_000)]}
    return {
        "type": "object",
        "patternProperties": {f"^{PARAMETER.pattern}$": _setting(scalar, "A parameter.")},
        "additionalProperties": False,
        "description": "Parameters of the operator or method.",
    }


def _vocabulary() -> JsonSchema:
    token = _table(
        keys.TOKEN_KEYS,
        {
            "token": _text("The token.", TOKEN_CHARACTERS),
            "module": _names("the module whose row it gets; zeros if left out"),
            "of": _text("The token of that module whose row it is.", TOKEN_CHARACTERS),
            "number": {"type": "integer", "minimum": 0, "maximum": TOKEN_NUMBER},
            "force": _BOOLEAN,
        },
        "Where the row of a token comes from.",
        ("token",),
    )
    return _table(
        keys.VOCABULARY_KEYS,
        {
            "source": _text("The module whose tokens the result has, or union: those of all."),
            "missing": _one_of(MISSING, "Whose row a module gets of a token that it lacks."),
            "tokens": _list(token, "Tokens with a row of their own.", maxItems=VOCABULARY_TOKENS),
            "pad_to_multiple_of": {
                "type": "integer",
                "minimum": 1,
                "maximum": VOCABULARY_MULTIPLE,
            },
        },
        "Moves rows of embedding and output layer to where their tokens are.",
        ("source",),
    )


def _composition() -> dict[str, JsonSchema]:
    step = _table(
        keys.STEP_KEYS,
        {
            "op": _text("The operator, like lora."),
            "module": _names("the module that acts on the base"),
            "scale": _setting(_NUMBER, "Factor of its change."),
            "replace": _list(_text(), "Tensors of the base that it may replace."),
            "parameters": _parameters(),
        },
        "One step: a module acts on the base.",
        ("op", "module"),
    )
    end = {"type": "integer", "minimum": 0, "maximum": STEP_LAYERS}
    extent = _list(end, "The first layer, and the one after the last.", minItems=2, maxItems=2)
    merged = _table(
        keys.LAYERS_STEP_KEYS,
        {
            "op": _text("The operator: dense."),
            "module": _names("the model that is merged into the layers"),
            "range": extent,
            "scale": _setting(_NUMBER, "Factor of its change."),
            "parameters": _parameters(),
        },
        "One step: a model is merged into the layers.",
        ("op", "module"),
    )
    layers = _table(
        keys.LAYERS_KEYS,
        {
            "module": _names("the module that the layers are of"),
            "range": extent,
            "scale": _setting(_NUMBER, "Factor of their tensors."),
            "tensors": _list(_text(), "Tensors outside of layers to take from it too."),
            "steps": _list(merged, "What is merged into them."),
            "method": _text("How it is merged; as the recipe's method says if left out."),
            "parameters": _parameters(),
        },
        "A range of layers of one module.",
        ("module", "range"),
    )
    return {
        "base": _names("the base, one of the dependencies"),
        "method": _text("How the changes are combined; sum if left out."),
        "parameters": _parameters(),
        "layers": _list(layers, "Layers to use instead of the base's."),
        "steps": _list(step, "What acts on the base."),
        "dtype": _one_of(DTYPES, "dtype of the result; the base's if left out."),
        "tokenizer": _names("the module whose tokenizer is used"),
        "vocabulary": _vocabulary(),
        "chat_template": _text('A chat template, or "auto": that of most modules.', 100_000),
        "tie_word_embeddings": {"const": False, "description": "Untie the tied tensors."},
    }


def _task() -> JsonSchema:
    stop = {"type": "string", "minLength": 1, "maxLength": STOP_CHARACTERS}
    tokens = {"type": "integer", "minimum": 1, "maximum": TASK_NEW_TOKENS}
    return _table(
        keys.TASK_KEYS,
        {
            "kind": _one_of(TASK_KINDS, "What the model does."),
            "prompt": _text("Template with {{ text }} for the input.", 100_000),
            "system": _text("System message, for chat templates.", 100_000),
            "chat": {**_BOOLEAN, "description": "Whether to use the chat template."},
            "max_new_tokens": {**tokens, "description": "Tokens to generate at most."},
            "temperature": {"type": "number", "minimum": 0, "maximum": TASK_TEMPERATURE},
            "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "stop": _list(stop, "Texts at which generation ends.", maxItems=TASK_STOPS),
        },
        "The input and output of the model.",
        ("kind",),
    )


def _tests() -> JsonSchema:
    limit = {"type": "number", "exclusiveMinimum": 0, "maximum": DECLARED_TEST_SECONDS}
    test = _table(
        (*keys.TEST_KEYS, "model"),
        {
            "name": _text("The test's name."),
            "cases": _text("File with a case in each line."),
            "metric": _text("What is measured, like rouge_l."),
            "at_least": {**_NUMBER, "description": "The value has to reach this."},
            "at_most": {**_NUMBER, "description": "The value must not exceed this."},
            "tolerance": {"type": "number", "minimum": 0, "maximum": 1e30},
            "seed": {"type": "integer", "minimum": 0, "maximum": MOST_SEED},
            "time_limit": {**limit, "description": "Seconds that it may take."},
            "model": _names("the model that is tested, in an app"),
        },
        "A value that is guaranteed.",
        ("name", "cases", "metric"),
    )
    return _list(test)


def _merge() -> JsonSchema:
    release = _text("A release, as clamp==1.0.0.")
    digest = _text("sha256: and 64 hex digits.", pattern="^sha256:[0-9a-f]{64}$")
    count = {"type": "integer", "minimum": 0, "maximum": MOST_VALUES}
    parent = _table(
        keys.MERGE_PARENT_KEYS,
        {
            "release": release,
            "folder": _text("The name of a folder, for what is no release."),
            "weights": digest,
            "weight": {**_NUMBER, "description": "Its weight, 1 if left out."},
            "importance": digest,
        },
        "One of the copies.",
        ("weights",),
    )
    choice = _table(
        keys.CHOICE_KEYS,
        {"tensors": _text("A pattern."), "files": _text("A pattern."), "choice": _text()},
        "An entry of the resolution file.",
        ("choice",),
    )
    return _table(
        keys.MERGE_KEYS,
        {
            "base": release,
            "parents": _list(parent, minItems=2, maxItems=MERGE_PARENTS),
            "method": _text("How conflicts were decided."),
            "parameters": _parameters(),
            "resolution": _list(choice, "In the file's order.", maxItems=MERGE_CHOICES),
            "conflicts": _table(
                keys.CONFLICT_KEYS, dict.fromkeys(keys.CONFLICT_KEYS, count), "What they were."
            ),
            "result": digest,
        },
        "How it was merged.",
        ("base", "parents", "result"),
    )


def _dependencies(about: str) -> JsonSchema:
    entry = _table(
        keys.DEPENDENCY_KEYS,
        {
            "version": _text('Versions, like ">=1.0,<2" or "*".'),
            "extras": _list(_text(), "Extras of the module."),
            "registry": _text("Alias under [registries]."),
            "compose-at": _one_of(COMPOSE_AT, "When its model is composed."),
            "hub": _text("A model of a hub, ORG/NAME, in an app and in place of a registry's."),
            "rev": _text("The branch, tag or commit of 'hub'."),
            "against": _text("The dependency that the adapter that 'hub' names was trained on."),
        },
        "A module, with more than its versions.",
    )
    entry["dependencies"] = {key: ["hub"] for key in keys.HUB_KEYS if key != "hub"}
    return _named({"anyOf": [_text('Versions, like ">=1.0,<2" or "*".'), entry]}, about)


def manifest_schema() -> JsonSchema:
    """Return the schema of ``modpkg.toml``."""
    text, engine = _text(), _text("Versions of modpkg that it needs.")
    bounds = "Versions of modules that are needed anyway."
    moment = _text("A date, a time, or a span before now like '7 days'.")
    origin = _table(
        keys.ORIGIN_KEYS,
        {
            "name": _names("a module"),
            "version": text,
            "relation": _one_of(RELATIONS, "How this one was made of it."),
        },
        "A release that the module was made from.",
        ("name", "version"),
    )
    composition = _composition()
    model = {**composition, "task": _task(), "compose-at": _one_of(COMPOSE_AT, "When.")}
    values = {
        "module": _table(
            keys.MODULE_KEYS,
            {
                "name": _names("the module"),
                "version": _text("Its version, like 1.0.0."),
                "kind": _one_of(KINDS, "Kind of module."),
                "license": _text("An SPDX expression, like Apache-2.0."),
                "summary": {"type": "string", "maxLength": 500},
                "against": _text("The release of its base that it was trained on, as llama==1.0."),
                keys.ENGINE: engine,
            },
            "A module to publish.",
            ("name", "version", "kind", "license"),
        ),
        "app": _table(
            keys.APP_KEYS,
            {"name": text, keys.ENGINE: engine},
            "A project that uses models.",
            ("name",),
        ),
        "dependencies": _dependencies("The modules that it needs."),
        "extras": _named(_list(text), "Optional dependencies, by name."),
        "compose": _table(
            keys.COMPOSITION_KEYS, composition, "How the model is composed.", ("base",)
        ),
        "task": _task(),
        "tests": _tests(),
        "suites": _dependencies("Suites whose tests the module has to pass."),
        "files": _table(
            keys.FILES_KEYS,
            {"include": _list(text), "exclude": _list(text)},
            "Which files belong to the release.",
        ),
        "provenance": _table(
            keys.PROVENANCE_KEYS,
            {
                "built-from": _list(origin),
                "imported-from": _text(
                    "What it was imported from, as hf://ORG/NAME@COMMIT or oci://HOST/REPO@DIGEST.",
                    4000,
                ),
                "merge": _merge(),
            },
            "Its origins.",
        )
        | {"minProperties": 1},
        "card": _table(
            keys.CARD_KEYS,
            dict.fromkeys(
                keys.CARD_KEYS,
                _list(_text(most=CARD_ENTRY_CHARACTERS), uniqueItems=True, maxItems=CARD_ENTRIES),
            ),
            "What its model card says.",
        ),
        "registries": _named(_text(most=2000), "Addresses or folders of registries, by alias."),
        "constraints": _named(text, bounds),
        "overrides": _named(text, "Versions in place of every requirement on a name."),
        "resolution": _table(
            keys.RESOLUTION_KEYS,
            {
                "strategy": _one_of(STRATEGIES, "Versions to prefer."),
                "prereleases": _list(text, "Modules whose pre-releases count as final ones."),
                "fit": _one_of(FITS, "Whether a base that modules fit exactly is preferred."),
                "strict": {"type": "boolean", "description": "Only bases that fit exactly."},
                "exclude-newer": moment,
                "exclude-newer-package": _named(
                    {"anyOf": [{"const": False}, text]}, "Cut-offs of single modules."
                ),
            },
            "How versions are chosen.",
        ),
        "licenses": _table(
            keys.LICENSES_KEYS,
            {
                "allow": _list(text, "The only licences that are accepted."),
                "deny": _list(text, "Licences that are refused."),
                "exceptions": _named(_list(text), "Licences accepted for one module."),
            },
            "Which licences the project accepts.",
        ),
        "models": _named(
            _table(keys.MODEL_KEYS, model, "A model of the app.", ("base",)), "The app's models."
        ),
    }
    root = _table(keys.MANIFEST_TABLES, values, "A module or an app.")
    del root["required"]
    of_modules = ("compose", "task", "files", "provenance", "card", "suites")
    return {
        "$schema": DIALECT,
        "title": MANIFEST,
        **root,
        "if": {"required": ["app"]},
        "then": {"properties": dict.fromkeys(("module", *of_modules), False)},
        "else": {
            "properties": {
                "models": False,
                "tests": {"items": {"properties": {"model": False}}},
                "dependencies": {
                    "additionalProperties": {"properties": dict.fromkeys(keys.HUB_KEYS, False)}
                },
            },
            "required": ["module"],
        },
    }


def config_schema() -> JsonSchema:
    """Return the schema of the user's ``config.toml``."""
    secret = _text(most=10_000)
    registry = {
        key: _text("An environment variable.", 10_000) if key.endswith("-env") else secret
        for key in keys.REGISTRY_KEYS
    }
    registry["endpoint"] = _text("The address of an object store's service.", 2000)
    registry["region"] = _text("The region of a bucket.", 64)
    registry["mirrors"] = _list(_text(most=2000), "Addresses that are read first.")
    values = {
        "registry": _named(
            _table(keys.REGISTRY_KEYS, registry, "Settings of one registry."),
            "Settings of registries, by address.",
        ),
        "registries": _named(_text(most=2000), "Addresses, or absolute folders, by alias."),
        "store": _table(
            keys.STORE_KEYS, {"max-size": _text("A size like '100 GB'.")}, "The local store."
        ),
        "places": _table(
            keys.PLACES_KEYS,
            {"hosts": _list(_text(most=253), "Hosts, beside the hub's, to read blobs from.")},
            "Where else than in their registry blobs are read.",
        ),
        "limits": _table(
            (*LIMITS,),
            {
                key: _text(f"{limit.things}: a size like '2 GB'")
                if limit.in_bytes
                else {"type": "integer", "minimum": 1, "maximum": MOST, "description": limit.things}
                for key, limit in LIMITS.items()
            },
            "What one command may take from one registry.",
        ),
    }
    root = _table(keys.CONFIG_TABLES, values, "Settings of modpkg on this machine.")
    return {"$schema": DIALECT, "title": "config.toml", **root}
