"""The keys of each table: what the readers accept, and the JSON Schemas describe."""

from __future__ import annotations

MANIFEST_TABLES = (
    "module",
    "app",
    "dependencies",
    "extras",
    "compose",
    "task",
    "tests",
    "suites",
    "files",
    "provenance",
    "card",
    "registries",
    "constraints",
    "overrides",
    "resolution",
    "licenses",
    "trust",
    "models",
)
ENGINE = "requires-modpkg"
MODULE_KEYS = ("name", "version", "kind", "license", "summary", "against", ENGINE)
APP_KEYS = ("name", ENGINE)
HUB_KEYS = ("hub", "rev", "against")
"""Of a dependency that is a model of a hub."""
DEPENDENCY_KEYS = ("version", "extras", "registry", "compose-at", *HUB_KEYS)
SOURCE_KEYS = ("url", "root")
"""Of a registry that is a table."""
COMPOSITION_KEYS = (
    "base",
    "method",
    "parameters",
    "layers",
    "steps",
    "dtype",
    "tokenizer",
    "vocabulary",
    "chat_template",
    "tie_word_embeddings",
)
MODEL_KEYS = (*COMPOSITION_KEYS, "task", "compose-at")
STEP_KEYS = ("op", "module", "scale", "replace", "parameters")
LAYERS_KEYS = ("module", "range", "scale", "tensors", "steps", "method", "parameters")
LAYERS_STEP_KEYS = ("op", "module", "range", "scale", "parameters")
VOCABULARY_KEYS = ("source", "missing", "tokens", "pad_to_multiple_of")
TOKEN_KEYS = ("token", "module", "of", "number", "force")
FILTERED_KEYS = ("filter", "value")
SAMPLING_KEYS = ("temperature", "top_p", "stop")
TASK_KEYS = ("kind", "prompt", "system", "chat", "max_new_tokens", *SAMPLING_KEYS)
TEST_KEYS = ("name", "cases", "metric", "at_least", "at_most", "tolerance", "seed", "time_limit")
FILES_KEYS = ("include", "exclude", "made-up-secrets")
PROVENANCE_KEYS = ("built-from", "imported-from", "merge")
MERGE_KEYS = ("base", "parents", "method", "parameters", "resolution", "conflicts", "result")
MERGE_PARENT_KEYS = ("release", "folder", "weights", "weight", "importance")
CHOICE_KEYS = ("tensors", "files", "choice")
CONFLICT_KEYS = ("tensors", "values", "opposite", "files")
CARD_KEYS = ("base-models", "datasets", "languages", "tags")
ORIGIN_KEYS = ("name", "version", "relation")
RESOLUTION_KEYS = (
    "strategy",
    "prereleases",
    "fit",
    "strict",
    "require-signed",
    "exclude-newer",
    "exclude-newer-package",
)
LICENSES_KEYS = ("allow", "deny", "exceptions")

CONFIG_TABLES = ("registry", "registries", "store", "limits", "places", "sigstore")
REGISTRY_KEYS = (
    "mirrors",
    "api",
    "token",
    "token-env",
    "username",
    "username-env",
    "password",
    "password-env",
    "endpoint",
    "region",
)
STORE_KEYS = ("max-size",)
PLACES_KEYS = ("hosts",)
SIGSTORE_KEYS = ("trust-config",)
