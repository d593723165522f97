"""JSON Schemas (draft 7) of ``modpkg.toml`` and ``config.toml``, for editors.

The keys and choices are those of the readers. What the readers accept, a schema accepts; a schema
does not repeat every rule: that a name is among the dependencies, for one, only the readers check.
"""

from __future__ import annotations

from modpkg.core.bounds import (
    CARD_ENTRIES,
    CARD_ENTRY_CHARACTERS,
    DECLARED_TEST_SECONDS,
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
from modpkg.manifest.json_schema_parts import (
    BOOLEAN,
    DIALECT,
    NUMBER,
    JsonSchema,
    array,
    name_of,
    named,
    one_of,
    parameters_of,
    setting,
    string,
    table,
)
from modpkg.manifest.limits import LIMITS, MOST
from modpkg.manifest.merge_schema import merge_schema
from modpkg.manifest.resolution import FITS, STRATEGIES
from modpkg.manifest.sections import (
    DTYPES,
    MOST_SEED,
    TASK_KINDS,
)
from modpkg.manifest.vocabulary import MISSING


def _vocabulary() -> JsonSchema:
    token = table(
        keys.TOKEN_KEYS,
        {
            "token": string("The token.", TOKEN_CHARACTERS),
            "module": name_of("the module whose row it gets; zeros if left out"),
            "of": string("The token of that module whose row it is.", TOKEN_CHARACTERS),
            "number": {"type": "integer", "minimum": 0, "maximum": TOKEN_NUMBER},
            "force": BOOLEAN,
        },
        "Where the row of a token comes from.",
        ("token",),
    )
    return table(
        keys.VOCABULARY_KEYS,
        {
            "source": string("The module whose tokens the result has, or union: those of all."),
            "missing": one_of(MISSING, "Whose row a module gets of a token that it lacks."),
            "tokens": array(token, "Tokens with a row of their own.", maxItems=VOCABULARY_TOKENS),
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
    step = table(
        keys.STEP_KEYS,
        {
            "op": string("The operator, like lora."),
            "module": name_of("the module that acts on the base"),
            "scale": setting(NUMBER, "Factor of its change."),
            "replace": array(string(), "Tensors of the base that it may replace."),
            "parameters": parameters_of(),
        },
        "One step: a module acts on the base.",
        ("op", "module"),
    )
    end = {"type": "integer", "minimum": 0, "maximum": STEP_LAYERS}
    extent = array(end, "The first layer, and the one after the last.", minItems=2, maxItems=2)
    merged = table(
        keys.LAYERS_STEP_KEYS,
        {
            "op": string("The operator: dense."),
            "module": name_of("the model that is merged into the layers"),
            "range": extent,
            "scale": setting(NUMBER, "Factor of its change."),
            "parameters": parameters_of(),
        },
        "One step: a model is merged into the layers.",
        ("op", "module"),
    )
    layers = table(
        keys.LAYERS_KEYS,
        {
            "module": name_of("the module that the layers are of"),
            "range": extent,
            "scale": setting(NUMBER, "Factor of their tensors."),
            "tensors": array(string(), "Tensors outside of layers to take from it too."),
            "steps": array(merged, "What is merged into them."),
            "method": string("How it is merged; as the recipe's method says if left out."),
            "parameters": parameters_of(),
        },
        "A range of layers of one module, or tensors of it.",
        ("module",),
    )
    only_tensors = {"required": ["tensors"], "not": {"required": ["scale"]}}
    layers["anyOf"] = [{"required": ["range"]}, only_tensors]
    return {
        "base": name_of("the base, one of the dependencies"),
        "method": string("How the changes are combined; sum if left out."),
        "parameters": parameters_of(),
        "layers": array(layers, "Layers to use instead of the base's."),
        "steps": array(step, "What acts on the base."),
        "dtype": one_of(DTYPES, "dtype of the result; the base's if left out."),
        "tokenizer": name_of("the module whose tokenizer is used"),
        "vocabulary": _vocabulary(),
        "chat_template": string('A chat template, or "auto": that of most modules.', 100_000),
        "tie_word_embeddings": {"const": False, "description": "Untie the tied tensors."},
    }


def _task() -> JsonSchema:
    stop = {"type": "string", "minLength": 1, "maxLength": STOP_CHARACTERS}
    tokens = {"type": "integer", "minimum": 1, "maximum": TASK_NEW_TOKENS}
    return table(
        keys.TASK_KEYS,
        {
            "kind": one_of(TASK_KINDS, "What the model does."),
            "prompt": string("Template with {{ text }} for the input.", 100_000),
            "system": string("System message, for chat templates.", 100_000),
            "chat": {**BOOLEAN, "description": "Whether to use the chat template."},
            "max_new_tokens": {**tokens, "description": "Tokens to generate at most."},
            "temperature": {"type": "number", "minimum": 0, "maximum": TASK_TEMPERATURE},
            "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "stop": array(stop, "Texts at which generation ends.", maxItems=TASK_STOPS),
        },
        "The input and output of the model.",
        ("kind",),
    )


def _tests() -> JsonSchema:
    limit = {"type": "number", "exclusiveMinimum": 0, "maximum": DECLARED_TEST_SECONDS}
    test = table(
        (*keys.TEST_KEYS, "model"),
        {
            "name": string("The test's name."),
            "cases": string("File with a case in each line."),
            "metric": string("What is measured, like rouge_l."),
            "at_least": {**NUMBER, "description": "The value has to reach this."},
            "at_most": {**NUMBER, "description": "The value must not exceed this."},
            "tolerance": {"type": "number", "minimum": 0, "maximum": 1e30},
            "seed": {"type": "integer", "minimum": 0, "maximum": MOST_SEED},
            "time_limit": {**limit, "description": "Seconds that it may take."},
            "model": name_of("the model that is tested, in an app"),
        },
        "A value that is guaranteed.",
        ("name", "cases", "metric"),
    )
    return array(test)


def _dependencies(about: str) -> JsonSchema:
    entry = table(
        keys.DEPENDENCY_KEYS,
        {
            "version": string('Versions, like ">=1.0,<2" or "*".'),
            "extras": array(string(), "Extras of the module."),
            "registry": string("Alias under [registries]."),
            "compose-at": one_of(COMPOSE_AT, "When its model is composed."),
            "hub": string("A model of a hub, ORG/NAME, in an app and in place of a registry's."),
            "rev": string("The branch, tag or commit of 'hub'."),
            "against": string("The dependency that the adapter that 'hub' names was trained on."),
        },
        "A module, with more than its versions.",
    )
    entry["dependencies"] = {key: ["hub"] for key in keys.HUB_KEYS if key != "hub"}
    return named({"anyOf": [string('Versions, like ">=1.0,<2" or "*".'), entry]}, about)


def manifest_schema() -> JsonSchema:
    """Return the schema of ``modpkg.toml``."""
    text, engine = string(), string("Versions of modpkg that it needs.")
    bounds = "Versions of modules that are needed anyway."
    moment = string("A date, a time, or a span before now like '7 days'.")
    origin = table(
        keys.ORIGIN_KEYS,
        {
            "name": name_of("a module"),
            "version": text,
            "relation": one_of(RELATIONS, "How this one was made of it."),
        },
        "A release that the module was made from.",
        ("name", "version"),
    )
    composition = _composition()
    model = {**composition, "task": _task(), "compose-at": one_of(COMPOSE_AT, "When.")}
    values = {
        "module": table(
            keys.MODULE_KEYS,
            {
                "name": name_of("the module"),
                "version": string("Its version, like 1.0.0."),
                "kind": one_of(KINDS, "Kind of module."),
                "license": string("An SPDX expression, like Apache-2.0."),
                "summary": {"type": "string", "maxLength": 500},
                "against": string("The release of its base that it was trained on, as llama==1.0."),
                keys.ENGINE: engine,
            },
            "A module to publish.",
            ("name", "version", "kind", "license"),
        ),
        "app": table(
            keys.APP_KEYS,
            {"name": text, keys.ENGINE: engine},
            "A project that uses models.",
            ("name",),
        ),
        "dependencies": _dependencies("The modules that it needs."),
        "extras": named(array(text), "Optional dependencies, by name."),
        "compose": table(
            keys.COMPOSITION_KEYS, composition, "How the model is composed.", ("base",)
        ),
        "task": _task(),
        "tests": _tests(),
        "suites": _dependencies("Suites whose tests the module has to pass."),
        "files": table(
            keys.FILES_KEYS,
            {
                "include": array(text),
                "exclude": array(text),
                "made-up-secrets": array(text, "Files whose tokens and keys are made up."),
            },
            "Which files belong to the release.",
        ),
        "provenance": table(
            keys.PROVENANCE_KEYS,
            {
                "built-from": array(origin),
                "imported-from": string(
                    "What it was imported from, as hf://ORG/NAME@COMMIT or oci://HOST/REPO@DIGEST.",
                    4000,
                ),
                "merge": merge_schema(),
            },
            "Its origins.",
        )
        | {"minProperties": 1},
        "card": table(
            keys.CARD_KEYS,
            dict.fromkeys(
                keys.CARD_KEYS,
                array(string(most=CARD_ENTRY_CHARACTERS), uniqueItems=True, maxItems=CARD_ENTRIES),
            ),
            "What its model card says.",
        ),
        "registries": named(
            {
                "anyOf": [
                    string(most=2000),
                    table(
                        keys.SOURCE_KEYS,
                        {
                            "url": string("Its address or folder.", 2000),
                            "root": string("Digest of its first root: its index is signed."),
                        },
                        "A registry.",
                    )
                    | {"required": ["url"]},
                ]
            },
            "Addresses or folders of registries, by alias.",
        ),
        "constraints": named(text, bounds),
        "overrides": named(text, "Versions in place of every requirement on a name."),
        "resolution": table(
            keys.RESOLUTION_KEYS,
            {
                "strategy": one_of(STRATEGIES, "Versions to prefer."),
                "prereleases": array(text, "Modules whose pre-releases count as final ones."),
                "fit": one_of(FITS, "Whether a base that modules fit exactly is preferred."),
                "strict": {"type": "boolean", "description": "Only bases that fit exactly."},
                "require-signed": {"type": "boolean", "description": "Only signed releases."},
                "exclude-newer": moment,
                "exclude-newer-package": named(
                    {"anyOf": [{"const": False}, text]}, "Cut-offs of single modules."
                ),
            },
            "How versions are chosen.",
        ),
        "licenses": table(
            keys.LICENSES_KEYS,
            {
                "allow": array(text, "The only licences that are accepted."),
                "deny": array(text, "Licences that are refused."),
                "exceptions": named(array(text), "Licences accepted for one module."),
            },
            "Which licences the project accepts.",
        ),
        "trust": named(
            {"anyOf": [text, array(text, "Any of these.")]},
            "Who has to have signed which modules.",
        ),
        "models": named(
            table(keys.MODEL_KEYS, model, "A model of the app.", ("base",)), "The app's models."
        ),
    }
    root = table(keys.MANIFEST_TABLES, values, "A module or an app.")
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
    secret = string(most=10_000)
    registry = {
        key: string("An environment variable.", 10_000) if key.endswith("-env") else secret
        for key in keys.REGISTRY_KEYS
    }
    registry["endpoint"] = string("The address of an object store's service.", 2000)
    registry["region"] = string("The region of a bucket.", 64)
    registry["api"] = string("The address of its API, where that is another server.", 2000)
    registry["mirrors"] = array(string(most=2000), "Addresses that are read first.")
    values = {
        "registry": named(
            table(keys.REGISTRY_KEYS, registry, "Settings of one registry."),
            "Settings of registries, by address.",
        ),
        "registries": named(string(most=2000), "Addresses, or absolute folders, by alias."),
        "store": table(
            keys.STORE_KEYS, {"max-size": string("A size like '100 GB'.")}, "The local store."
        ),
        "places": table(
            keys.PLACES_KEYS,
            {"hosts": array(string(most=253), "Hosts, beside the hub's, to read blobs from.")},
            "Where else than in their registry blobs are read.",
        ),
        "sigstore": table(
            keys.SIGSTORE_KEYS,
            {
                "trust-config": string(
                    "The absolute path of a trusted root, or of a trust config.", 2000
                )
            },
            "Who vouches for the identities of signers, if not the public Sigstore.",
        ),
        "limits": table(
            (*LIMITS,),
            {
                key: string(f"{limit.things}: a size like '2 GB'")
                if limit.in_bytes
                else {"type": "integer", "minimum": 1, "maximum": MOST, "description": limit.things}
                for key, limit in LIMITS.items()
            },
            "What one command may take from one registry.",
        ),
    }
    root = table(keys.CONFIG_TABLES, values, "Settings of modpkg on this machine.")
    return {"$schema": DIALECT, "title": "config.toml", **root}
