"""What the property tests of manifests are made of."""

from __future__ import annotations

import datetime
import os
import string
from typing import Any

import tomlkit
from hypothesis import settings
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from modpkg.manifest.keys import CARD_KEYS

EXAMPLES = int(os.environ.get("MODPKG_EXAMPLES", "100"))
steady = settings(derandomize=True, deadline=None, max_examples=EXAMPLES, database=None)
"""Examples that are the same on every run and every machine."""
steady_manifests = settings(steady, max_examples=EXAMPLES // 2)
"""For tests of whole documents, of which one has as many choices as hundreds of other examples."""

_LOWER = string.ascii_lowercase
_ALNUM = string.ascii_letters + string.digits
# Built of texts: drawing from a regular expression takes several times as long.
names = st.builds(
    "{}{}".format,
    st.sampled_from(_ALNUM),
    st.just("")
    | st.builds("{}{}".format, st.text(_ALNUM + "._-", max_size=6), st.sampled_from(_ALNUM)),
)


def _identifiers(marks: str, most: int) -> st.SearchStrategy[str]:
    """Return a small letter, and up to ``most`` small letters, digits and marks."""
    rest = st.text(_LOWER + string.digits + marks, max_size=most)
    return st.builds(str.__add__, st.sampled_from(_LOWER), rest)


versions = st.builds(
    "{}.{}{}".format,
    st.integers(0, 9),
    st.integers(0, 99),
    st.sampled_from(["", ".0", ".1", "rc1", "a2", ".post1", ".dev3"]),
)
clauses = st.builds(
    "{}{}{}".format,
    st.sampled_from([">=", "<", "~=", "==", "!=", "<=", ">", ">= "]),
    versions,
    st.just(""),
)
specifiers = st.one_of(
    st.just("*"),
    st.builds("^{}".format, versions),
    st.lists(clauses, min_size=1, max_size=3).map(",".join),
)
words = _identifiers("_-", 8)
texts = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
licenses = st.sampled_from(
    [
        "MIT",
        "apache-2.0",
        "mit or (BSD-3-Clause and Apache-2.0)",
        "GPL-2.0-only with classpath-exception-2.0",
        "LicenseRef-Llama-3",
        "GPL-2.0+",
    ]
)
numbers = st.one_of(
    st.integers(-1000, 1000), st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)
)
paths = st.lists(words, min_size=1, max_size=3).map("/".join)


def distinct_names(count: int) -> st.SearchStrategy[list[str]]:
    """Lists of names that stay different when they are normalised."""
    return st.lists(words, max_size=count, unique=True).map(
        lambda found: [name.rstrip("-_") + str(position) for position, name in enumerate(found)]
    )


_moments = st.one_of(
    st.sampled_from(["2026-01-01", "2026-01-01T10:00:00Z", "2026-01-01 10:00+02:00"]),
    st.dates(),
    st.datetimes(min_value=datetime.datetime(1970, 1, 1)),
)
_resolutions = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(["highest", "lowest", "lowest-direct"]),
        "prereleases": st.lists(names, max_size=2),
        "exclude-newer": st.one_of(_moments, st.sampled_from(["7 days", "1 week", "90 minutes"])),
        "exclude-newer-package": st.dictionaries(
            names, st.one_of(st.just(False), _moments), max_size=1
        ),
    },
)

_single = st.lists(st.sampled_from(["mit", "Apache-2.0", "LicenseRef-x"]), max_size=2)
_policies = st.fixed_dictionaries(
    {},
    optional={
        "allow": _single,
        "deny": st.builds(lambda: ["GPL-2.0-only"]),  # a new list each time: tests change it
        "exceptions": st.dictionaries(names, _single, max_size=1),
    },
)

_hub_models = st.fixed_dictionaries(
    {"hub": st.sampled_from(["org/name", "Org-1/SmolLM2.5_x"])},
    optional={
        "rev": st.sampled_from(["main", "v1.0", "refs/pr/1", "feature/x", "a" * 40]),
        "compose-at": st.sampled_from(["install", "load"]),
    },
)


_digests = st.sampled_from([f"sha256:{'0a' * 32}", f"sha256:{'1b' * 32}"])
_choices = st.fixed_dictionaries({"choice": words}).flatmap(
    lambda one: st.sampled_from([{**one, "tensors": "*.weight"}, {**one, "files": "a.json"}])
)
_parents = st.fixed_dictionaries(
    {"weights": _digests}, optional={"weight": numbers, "importance": _digests}
).flatmap(lambda one: st.sampled_from([{**one, "release": "a==1.0"}, {**one, "folder": "copy"}]))
merges = st.fixed_dictionaries(
    {
        "base": st.just("b==1.0"),
        "parents": st.lists(_parents, min_size=2, max_size=3),
        "result": _digests,
    },
    optional={
        "method": words,
        "parameters": st.fixed_dictionaries({"density": st.floats(0, 1)}),
        "resolution": st.lists(_choices, max_size=2),
        "conflicts": st.fixed_dictionaries({}, optional={"tensors": st.integers(0, 9)}),
    },
)
"""How a module was merged."""


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """Data of sound manifests, modules and apps, spelled as freely as people may."""
    data: dict[str, Any] = {}
    is_app = draw(st.booleans())
    kind = draw(st.sampled_from(["base", "adapter", "head", "expert", "patch", "model", "suite"]))
    if is_app:
        data["app"] = {"name": "App-" + draw(names)}
    else:
        data["module"] = {
            "name": "own-" + canonicalize_name(draw(names)),
            "version": draw(versions),
            "kind": kind,
            "license": draw(licenses),
        }
        if draw(st.booleans()):
            data["module"]["summary"] = draw(texts)
    aliases = draw(distinct_names(2))
    if aliases:
        data["registries"] = {alias: "https://models.example/" + alias for alias in aliases}
    dependencies = draw(distinct_names(4))
    if dependencies:
        data["dependencies"] = {
            name: draw(
                st.one_of(
                    specifiers,
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "version": specifiers,
                            "extras": st.lists(names, max_size=2),
                            "registry": st.sampled_from([*aliases, "default"]),
                        },
                    ),
                    *([_hub_models] if is_app else []),
                )
            )
            for name in dependencies
        }
    if draw(st.booleans()):
        data["extras"] = {
            name: [f"{other}>=1" for other in draw(distinct_names(2))]
            for name in draw(distinct_names(2))
        }
    task = st.fixed_dictionaries(
        {"kind": st.sampled_from(["summarization", "text-generation"])},
        optional={
            "prompt": texts.map(lambda text: text + "\n{{ text }}"),
            "system": texts,
            "chat": st.booleans(),
            "max_new_tokens": st.integers(1, 1000),
        },
    )
    if dependencies and (is_app or kind == "model"):
        composition = _compositions(dependencies)
        if is_app:
            data["models"] = {
                f"model-{name}": draw(composition) | draw(st.sampled_from([{}, {"task": 0}]))
                for name in draw(distinct_names(2))
            }
            for model in data["models"].values():
                if "task" in model:
                    model["task"] = draw(task)
        else:
            data["compose"] = draw(composition)
    if not is_app and kind != "suite" and draw(st.booleans()):
        data["task"] = draw(task)
    if not is_app and draw(st.booleans()):
        data["files"] = {"include": draw(st.lists(paths, max_size=2)), "exclude": ["*.bin"]}
    if not is_app and draw(st.booleans()):
        origin = st.fixed_dictionaries(
            {"version": versions},
            optional={"relation": st.sampled_from(["built", "merged", "trained", "forked"])},
        )
        data["provenance"] = {
            "built-from": [{"name": name, **draw(origin)} for name in draw(distinct_names(2))]
        }
        if draw(st.booleans()):
            data["provenance"]["imported-from"] = f"hf://org/name@{'0a' * 20}"
        if draw(st.booleans()):
            data["provenance"]["merge"] = draw(merges)
        data["card"] = {key: draw(st.lists(words, max_size=2, unique=True)) for key in CARD_KEYS}
    if draw(st.booleans()):
        data["constraints"] = {name: draw(specifiers) for name in draw(distinct_names(2))}
        data["overrides"] = {name: draw(specifiers) for name in draw(distinct_names(2))}
        data["resolution"] = draw(_resolutions)
        data["licenses"] = draw(_policies)
        data["app" if is_app else "module"]["requires-modpkg"] = draw(
            st.sampled_from([">=0.0.1", ">=0.0.1, <1000", "!=0.0.1"])
        )
    data["tests"] = [
        {
            "name": name,
            "cases": draw(paths),
            "metric": draw(words),
            "at_least": draw(numbers),
            "tolerance": draw(st.floats(0, 10)),
            "seed": draw(st.integers(0, 9)),
            "time_limit": draw(st.floats(0.1, 100)),
        }
        for name in draw(distinct_names(2))
    ]
    if not is_app and kind not in ("suite", "collection"):
        data["suites"] = {f"suite-of-{name}": draw(specifiers) for name in draw(distinct_names(2))}
    return data


def _settings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    gradients = st.lists(values, min_size=1, max_size=3)
    filtered = st.fixed_dictionaries({"value": values | gradients}, optional={"filter": texts})
    return values | gradients | st.lists(filtered, min_size=1, max_size=3)


def _compositions(dependencies: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    one = st.sampled_from(dependencies)
    keys = _identifiers("_", 6)
    parameters = st.dictionaries(keys, _settings(numbers | st.booleans() | texts), max_size=2)
    step = st.fixed_dictionaries(
        {"op": words, "module": one},
        optional={
            "scale": _settings(numbers),
            "replace": st.lists(texts, max_size=2),
            "parameters": parameters,
        },
    )
    extents = st.tuples(st.integers(0, 9), st.integers(10, 20)).map(list)
    merged = st.fixed_dictionaries(
        {"op": words, "module": one},
        optional={"range": extents, "scale": _settings(numbers), "parameters": parameters},
    )
    layers = st.fixed_dictionaries(
        {"module": one, "range": extents},
        optional={
            "scale": _settings(numbers),
            "tensors": st.lists(texts, max_size=2),
            "steps": st.lists(merged, max_size=2),
            "method": words,
            "parameters": parameters,
        },
    )
    only_tensors = st.fixed_dictionaries(
        {"module": one, "tensors": st.lists(texts, min_size=1, max_size=2)},
        optional={"steps": st.lists(merged, max_size=2), "method": words},
    )
    return st.fixed_dictionaries(
        {"base": one},
        optional={
            "method": words,
            "parameters": parameters | st.fixed_dictionaries({"importance": one}),
            "layers": st.lists(layers | only_tensors, max_size=2),
            "steps": st.lists(step, max_size=3),
            "dtype": st.sampled_from(["float32", "bfloat16"]),
            "tokenizer": one,
            "tie_word_embeddings": st.just(False),
        },
    )


toml_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(10**20, 10**30),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from(["", "*", ">=1", "a", "../x", "[x]", "#", '"""', "'''", "\u202e", "a\nb"]),
        st.datetimes(),
        st.dates(),
        st.times().map(lambda time: time.replace(microsecond=0)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Any value that TOML has."""


def toml(value: Any) -> str:
    """Return ``value`` in TOML, on one line and free of any library's taste."""
    if isinstance(value, dict):
        pairs = [f"{toml(key)} = {toml(item)}" for key, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return tomlkit.item(value).as_string()
