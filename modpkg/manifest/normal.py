"""A manifest's normal form: the JSON data that release records hold, and its way back to TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modpkg.core.filenames import MANIFEST
from modpkg.core.names import parse_requirement, requirement_text, specifier_text
from modpkg.manifest.dependencies import DEFAULT
from modpkg.manifest.edit import toml_key, toml_value
from modpkg.manifest.keys import CARD_KEYS, TOKEN_KEYS
from modpkg.manifest.merge import merge_data
from modpkg.manifest.read import manifest_of
from modpkg.manifest.schema import (
    Compose,
    Dependency,
    Layers,
    Manifest,
    Origin,
    Setting,
    Step,
    Task,
    Test,
    Vocabulary,
)
from modpkg.manifest.settings import plain_setting
from modpkg.toml.node import ManifestSource, Node

_ORDER = (
    "module",
    "app",
    "provenance",
    "card",
    "dependencies",
    "suites",
    "extras",
    "compose",
    "task",
)


def normal_form(manifest: Manifest) -> dict[str, Any]:
    """Return ``manifest`` as data: keys sorted, names normalised, defaults left out.

    Equal manifests give equal data. Dependencies are a list, because their order matters. Paths
    and positions are left out; so are ``[constraints]``, ``[overrides]``, ``[resolution]``,
    ``[licenses]`` and ``[trust]``, which apply only to the project that has them.
    """
    module = manifest.module
    return _plain(
        {
            "module": module
            and {
                "name": module.name,
                "version": str(module.version),
                "kind": module.kind,
                "license": module.license,
                "summary": module.summary,
                "against": module.against and f"{module.against.name}=={module.against.version}",
                "requires-modpkg": manifest.requires_modpkg,
            },
            "app": manifest.app
            and {"name": manifest.app, "requires-modpkg": manifest.requires_modpkg},
            "dependencies": [_dependency(dependency) for dependency in manifest.dependencies],
            "extras": {
                name: [_requirement(dependency) for dependency in dependencies]
                for name, dependencies in manifest.extras.items()
            },
            "compose": manifest.compose and _compose(manifest.compose),
            "task": manifest.task and _task(manifest.task),
            "tests": [_test(test) for test in manifest.tests],
            "suites": [_dependency(suite) for suite in manifest.suites],
            "files": {
                "include": list(manifest.files.include),
                "exclude": list(manifest.files.exclude),
                "made-up-secrets": list(manifest.files.made_up_secrets),
            },
            "provenance": {
                "built-from": [_origin(origin) for origin in manifest.origins],
                "imported-from": manifest.imported_from,
                "merge": manifest.merge and merge_data(manifest.merge),
            },
            "card": {key: list(getattr(manifest.card, key.replace("-", "_"))) for key in CARD_KEYS},
            "registries": dict(manifest.registries),
            "models": {
                name: {
                    **_compose(compose),
                    "task": _task(manifest.tasks[name]) if name in manifest.tasks else None,
                    "compose-at": manifest.composed_at.get(name),
                }
                for name, compose in manifest.models.items()
            },
        },
        keep=("extras",),
    )


def from_normal_form(data: dict[str, Any], where: str) -> Manifest:
    """Return the manifest with this normal form, validated as strictly as a file.

    Its path is a bare ``modpkg.toml``: a release record is in no folder.

    Raises:
        ManifestError: `data` is not a manifest; `where` names the record in the message.
    """
    return manifest_of(Node(ManifestSource(where), (), data), Path(MANIFEST))


def _plain(table: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return ``table`` sorted, without empty values, which only tables in ``keep`` may have."""
    plain: dict[str, Any] = {}
    for key in sorted(table):
        value = table[key]
        if isinstance(value, dict):
            value = dict(sorted(value.items())) if key in keep else _plain(value)
        if value is not None and value not in ("", [], {}):
            plain[key] = value
    return plain


def _requirement(dependency: Dependency) -> str:
    requirement = dependency.requirement
    return requirement_text(requirement.name, requirement.extras, requirement.specifier)


def _dependency(dependency: Dependency) -> str | dict[str, Any]:
    data: dict[str, Any] = {"requirement": _requirement(dependency)}
    if dependency.compose_at is not None:
        data["compose-at"] = dependency.compose_at
    if dependency.registry is not None:
        data["registry"] = dependency.registry
    elif dependency.from_default:
        data["registry"] = DEFAULT
    elif (hub := dependency.hub) is not None:
        data |= hub.entries()
    return _requirement(dependency) if len(data) == 1 else dict(sorted(data.items()))


def _origin(origin: Origin) -> dict[str, Any]:
    data = {"name": str(origin.name), "version": str(origin.version)}
    return data if origin.relation == "built" else {**data, "relation": origin.relation}


def _compose(compose: Compose) -> dict[str, Any]:
    return {
        "base": compose.base,
        "method": compose.method if compose.method != "sum" else None,
        "parameters": _parameters(compose.parameters),
        "layers": [_layers(run) for run in compose.layers],
        "steps": [_step(step) for step in compose.steps],
        "dtype": compose.dtype,
        "tokenizer": compose.tokenizer,
        "vocabulary": None if compose.vocabulary is None else _vocabulary(compose.vocabulary),
        "chat_template": compose.chat_template,
        "tie_word_embeddings": compose.tie_word_embeddings,
    }


def _vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    rows = [
        {
            key: value
            for key in TOKEN_KEYS
            if (value := getattr(row, key)) is not None and value is not False
        }
        for row in vocabulary.tokens
    ]
    data = {
        "source": vocabulary.source,
        "missing": vocabulary.missing if vocabulary.missing != "base" else None,
        "tokens": rows or None,
        "pad_to_multiple_of": vocabulary.pad_to_multiple_of,
    }
    return {key: value for key, value in data.items() if value is not None}


def _step(step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {"module": step.module, "op": step.op}
    if step.parameters:
        data["parameters"] = _parameters(step.parameters)
    if step.replace:
        data["replace"] = list(step.replace)
    if step.scale != 1.0:
        data["scale"] = plain_setting(step.scale)
    if step.range is not None:
        data["range"] = list(step.range)
    return dict(sorted(data.items()))


def _layers(run: Layers) -> dict[str, Any]:
    data: dict[str, Any] = {"module": run.module}
    if run.range is not None:
        data["range"] = list(run.range)
    if run.scale is not None:
        data["scale"] = plain_setting(run.scale)
    if run.tensors:
        data["tensors"] = list(run.tensors)
    if run.steps:
        data["steps"] = [_step(step) for step in run.steps]
    if run.method is not None:
        data["method"] = run.method
    if run.parameters:
        data["parameters"] = _parameters(run.parameters)
    return dict(sorted(data.items()))


def _parameters(parameters: dict[str, Setting]) -> dict[str, Any]:
    return {key: plain_setting(setting) for key, setting in sorted(parameters.items())}


def _task(task: Task) -> dict[str, Any]:
    return {
        "kind": task.kind,
        "prompt": task.prompt,
        "system": task.system,
        "chat": task.chat,
        "max_new_tokens": task.max_new_tokens,
        "temperature": task.temperature,
        "top_p": task.top_p,
        "stop": list(task.stop),
    }


def _test(test: Test) -> dict[str, Any]:
    return _plain(
        {
            "name": test.name,
            "cases": test.cases,
            "metric": test.metric,
            "at_least": test.at_least,
            "at_most": test.at_most,
            "tolerance": test.tolerance or None,
            "seed": test.seed or None,
            "time_limit": test.time_limit,
            "model": test.model,
        }
    )


def manifest_text(form: dict[str, Any]) -> str:
    """Return a ``modpkg.toml`` whose normal form is ``form``."""
    lines: list[str] = []
    for key in sorted(form, key=lambda key: (_ORDER.index(key) if key in _ORDER else 99, key)):
        value = form[key]
        if key in ("dependencies", "suites"):
            value = dict(map(_dependency_pair, value))
        if isinstance(value, list):
            for item in value:
                lines += [f"[[{key}]]", *_pairs(item), ""]
        else:
            lines += [f"[{key}]", *_pairs(value), ""]
    return "\n".join(lines)


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items()]


def _dependency_pair(item: str | dict[str, Any]) -> tuple[str, str | dict[str, Any]]:
    """Return a dependency as a manifest has it: its name, and a specifier or a table."""
    data = {"requirement": item} if isinstance(item, str) else item
    requirement = parse_requirement(data["requirement"])
    if "hub" in data:
        return requirement.name, {key: data[key] for key in data if key != "requirement"}
    specifier = specifier_text(requirement.specifier) or "*"
    table: dict[str, Any] = {"version": specifier}
    if requirement.extras:
        table["extras"] = sorted(requirement.extras)
    for key in ("registry", "compose-at"):
        if key in data:
            table[key] = data[key]
    return requirement.name, table if len(table) > 1 else specifier
