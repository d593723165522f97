"""The normal form: what a release record holds of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from modpkg.core.errors import ManifestError
from modpkg.core.records import canonical_json
from modpkg.manifest.normal import from_normal_form, normal_form
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.schema import Dependency, LicensePolicy, Manifest, ResolutionTable
from tests.manifest.strategies import manifests, steady_manifests, toml
from tests.raising import raises

from .test_read import HERE, NEWSROOM, SUMMARIZER


def placeless(manifest: Manifest) -> Manifest:
    """The manifest without its places, and without what acts only where it is written."""

    def bare(dependencies: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
        return tuple(replace(dependency, where="") for dependency in dependencies)

    return replace(
        manifest,
        path=Path(),
        dependencies=bare(manifest.dependencies),
        extras={name: bare(found) for name, found in manifest.extras.items()},
        origins=tuple(replace(origin, where="") for origin in manifest.origins),
        suites=bare(manifest.suites),
        constraints=(),
        overrides=(),
        resolution=ResolutionTable(),
        licenses=LicensePolicy(),
    )


def test_names_are_normal_and_defaults_left_out() -> None:
    assert normal_form(parse_manifest(SUMMARIZER, HERE)) == {
        "compose": {
            "base": "smollm2-135m",
            "dtype": "bfloat16",
            "steps": [
                {
                    "module": "summarize-lora",
                    "op": "lora",
                    "replace": ["lm_head.weight"],
                    "scale": 2.0,
                }
            ],
            "tokenizer": "summarize-lora",
        },
        "dependencies": ["smollm2-135m>=1.0,<2", "summarize-lora~=1.2"],
        "extras": {"news": ["news-lora>=1"]},
        "files": {"exclude": ["drafts/**"]},
        "module": {
            "kind": "model",
            "license": "Apache-2.0",
            "name": "summarizer",
            "summary": "Short factual summaries of news text",
            "version": "2.1.0",
        },
        "task": {
            "kind": "summarization",
            "max_new_tokens": 80,
            "prompt": "Summarize in one sentence: {{ text }}",
        },
        "tests": [
            {
                "at_least": 0.3,
                "cases": "tests/names.jsonl",
                "metric": "rouge_l",
                "name": "keeps names",
            }
        ],
    }


def test_a_registry_stays_with_its_dependency() -> None:
    form = normal_form(parse_manifest(NEWSROOM, HERE))
    assert form["dependencies"][1] == {
        "registry": "acme",
        "requirement": "sentiment[fast]>=1.4,<2",
    }


@given(manifests())
@steady_manifests
def test_reading_it_back_is_the_identity(data: dict[str, Any]) -> None:
    manifest = parse_manifest("\n".join(f"{key} = {toml(data[key])}" for key in data), HERE)
    form = normal_form(manifest)
    assert list(form) == sorted(form)
    carried = msgspec.json.decode(canonical_json(form))
    assert carried == form
    again = from_normal_form(carried, "summarizer 2.1.0")
    assert placeless(again) == placeless(manifest)
    assert canonical_json(normal_form(again)) == canonical_json(form)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"modul": {}}, "modul is not a key of evil 1.0; did you mean 'module'?"),
        ({"dependencies": {}}, "dependencies has to be an array, not a table."),
        (
            {"dependencies": ["evil>=1"]},
            "dependencies[0] makes 'evil' depend on itself; remove it.",
        ),
        (
            {"dependencies": ["a", "A>1"]},
            "dependencies[1] is the same module as dependencies[0] (a); keep one of them.",
        ),
        (
            {"dependencies": [{"requirement": "a", "registry": "b"}]},
            "dependencies[0].registry is 'b', which is not defined under [registries]; "
            'add it there, like: b = "https://…".',
        ),
        ({"task": None}, "task has to be a table, not null."),
        (
            {"files": {"include": ["../../.ssh/*"]}},
            "files.include[0]: '../../.ssh/*' is not allowed as a path in a release (it has '..'): "
            "use relative paths with '/' that stay inside the module.",
        ),
    ],
)
def test_a_hostile_record_is_refused_like_a_file(change: dict[str, Any], sentence: str) -> None:
    module = {"name": "evil", "version": "1.0", "kind": "base", "license": "MIT"}
    with raises("M110") as caught:
        from_normal_form({"module": module, **change}, "evil 1.0")
    assert str(caught.value) == f"evil 1.0: {sentence}"


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(manifests(), st.data())
@steady_manifests
def test_no_record_raises_anything_else(data: dict[str, Any], draw: st.DataObject) -> None:
    text = "\n".join(f"{key} = {toml(data[key])}" for key in data)
    form = normal_form(parse_manifest(text, HERE))
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                visit(value[key])

    visit(form)
    table, key = draw.draw(st.sampled_from(places))
    table[key] = draw.draw(json_values)
    try:
        manifest = from_normal_form(form, "evil 1.0")
    except ManifestError as error:
        assert str(error).startswith("evil 1.0: ")  # noqa: PT017 - both outcomes are right
    else:
        canonical_json(normal_form(manifest))
