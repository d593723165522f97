"""Edits change one key and not a byte beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli
import tomlkit
from hypothesis import assume, given
from hypothesis import strategies as st

from modpkg.manifest.edit import (
    add_trust,
    remove_dependency,
    set_dependency,
    toml_value,
    with_absolute_registries,
)
from modpkg.manifest.read import parse_manifest
from tests.manifest.strategies import steady, steady_manifests, toml, toml_values, words
from tests.raising import raises

APP = """\
[app] # ours
name = "newsroom"

[dependencies]  # what we need
summarizer = ">=2.1"   # the good one
Sentiment_Model = { version = "~=1.4" }
# minilm = "*"

# where from
[registries]
acme = "https://models.acme.example"
"""


def test_a_key_that_is_there_keeps_place_and_comment() -> None:
    assert set_dependency(APP, "Summarizer", "^3") == APP.replace('">=2.1"', '"^3"')


def test_a_key_is_found_under_any_spelling() -> None:
    new = {"version": ">=2", "registry": "acme"}
    assert set_dependency(APP, "sentiment.model", new) == APP.replace(
        '{ version = "~=1.4" }', '{ version = ">=2", registry = "acme" }'
    )
    gone = APP.replace('Sentiment_Model = { version = "~=1.4" }\n', "")
    assert remove_dependency(APP, "sentiment-model") == gone


def test_a_new_key_comes_last_before_the_comments_of_what_follows() -> None:
    assert set_dependency(APP, "minilm_l6", "*") == APP.replace(
        "# minilm", 'minilm-l6 = "*"\n# minilm'
    )


def test_removing_a_key_removes_its_line() -> None:
    gone = APP.replace('summarizer = ">=2.1"   # the good one\n', "")
    assert remove_dependency(APP, "summarizer") == gone


LAYOUTS = [
    # no table yet
    ('[app]\nname = "x"\n', '[app]\nname = "x"\n\n[dependencies]\nb = "*"\n'),
    ('[app]\nname = "x" # end', '[app]\nname = "x" # end\n\n[dependencies]\nb = "*"\n'),
    (
        '[app]\nname = "x"\n\n[registries]\nr = "u"\n',
        '[app]\nname = "x"\n\n[dependencies]\nb = "*"\n\n[registries]\nr = "u"\n',
    ),
    ('app.name = "x"\n', 'app.name = "x"\n\n[dependencies]\nb = "*"\n'),
    ('app = { name = "x" }\n', 'app = { name = "x" }\n\n[dependencies]\nb = "*"\n'),
    ("", '[dependencies]\nb = "*"\n'),
    # an empty one
    ("[dependencies]\n\n[app]\n", '[dependencies]\nb = "*"\n\n[app]\n'),
    ("[dependencies]", '[dependencies]\nb = "*"\n'),
    # inline, dotted, and separate tables
    ("dependencies = {}\n", 'dependencies = { b = "*" }\n'),
    ('dependencies = {a="1"} # x\n', 'dependencies = {a="1", b = "*"} # x\n'),
    ('dependencies = { a="1", } # x\n', 'dependencies = { a="1", b = "*", } # x\n'),
    ('dependencies.a = "1"\n[app]\n', 'dependencies.a = "1"\ndependencies.b = "*"\n[app]\n'),
    (
        '[dependencies.a]\nversion = "1"\n',
        '[dependencies]\nb = "*"\n\n[dependencies.a]\nversion = "1"\n',
    ),
    (
        '[dependencies]\na.version = "1"\na.extras = []\n\n[app]\n',
        '[dependencies]\na.version = "1"\na.extras = []\nb = "*"\n\n[app]\n',
    ),
    # pyproject.toml
    (
        '[tool.modpkg.app]\nname = "x"\n\n[tool.ruff]\n',
        '[tool.modpkg.app]\nname = "x"\n\n[tool.modpkg.dependencies]\nb = "*"\n\n[tool.ruff]\n',
    ),
    (
        '[project]\ndependencies = []\n[tool.modpkg]\ndependencies = { a = "1" }\n',
        '[project]\ndependencies = []\n[tool.modpkg]\ndependencies = { a = "1", b = "*" }\n',
    ),
    (
        '[tool]\nmodpkg.app.name = "x"\nmodpkg.dependencies.a = "1"\nruff.x = 1\n',
        '[tool]\nmodpkg.app.name = "x"\nmodpkg.dependencies.a = "1"\n'
        'modpkg.dependencies.b = "*"\nruff.x = 1\n',
    ),
    (
        '[tool]\nmodpkg = { app = { name = "x" } }\n',
        '[tool]\nmodpkg = { app = { name = "x" }, dependencies.b = "*" }\n',
    ),
]


@pytest.mark.parametrize(("before", "after"), LAYOUTS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_new_key_follows_the_layout_of_the_file(
    before: str, after: str, mark: str, newline: str
) -> None:
    if "\n" not in before:
        newline = "\n"
    before, after = (mark + text.replace("\n", newline) for text in (before, after))
    assert set_dependency(before, "b", "*") == after
    assert "b" not in tomli.loads(remove_dependency(after, "B")[len(mark) :])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('[dependencies.b]\nversion = "1"\n# x\n\n# y\n[app]\n', "# x\n\n# y\n[app]\n"),
        (
            '[dependencies]\nB.version = "1"\na = "*"\nB.extras = []\n',
            '[dependencies]\na = "*"\n',
        ),
        ('dependencies = { b = "1", a = "*" }\n', 'dependencies = { a = "*" }\n'),
        ('dependencies = { a = "*", b = { version = "1" } }\n', 'dependencies = { a = "*" }\n'),
        ('[dependencies]\nb = """\n>=1""" # x\na = "*"\n', '[dependencies]\na = "*"\n'),
        ('[dependencies]\nb = "1"\nB = "2"\n', "[dependencies]\n"),
    ],
)
def test_every_statement_of_a_removed_key_is_removed(before: str, after: str) -> None:
    assert remove_dependency(before, "b") == after


def test_a_separate_table_becomes_a_line() -> None:
    text = '[dependencies]\na = "*"\n\n[dependencies.b]\nversion = "1"\n\n# about\n[app]\n'
    after = '[dependencies]\na = "*"\nb = "2"\n\n\n# about\n[app]\n'
    assert set_dependency(text, "b", "2") == after


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[app\n", "modpkg.toml:1: this is not TOML (column 5): expected ']' at the end of a "
         "table declaration."),
        ("dependencies = 3\n", "modpkg.toml:1: dependencies has to be a table."),
        ("[project]\nname = 'x'\n", "pyproject.toml: it has no [tool.modpkg]; "
         "'modpkg init' makes one."),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_edited_is_refused(text: str, sentence: str) -> None:
    with raises("M110") as caught:
        set_dependency(text, "b", "*")
    assert str(caught.value) == sentence


def test_an_invalid_or_missing_name_is_refused() -> None:
    with raises("M101"):
        set_dependency(APP, "no name", "*")
    with raises("M507") as caught:
        remove_dependency(APP, "sumarizer")
    assert str(caught.value) == (
        "'sumarizer' is not a dependency in modpkg.toml; did you mean 'summarizer'."
    )


@given(toml_values)
@steady
def test_values_survive_a_round_trip_through_toml(value: Any) -> None:
    plain = tomli.loads(f"x = {toml(value)}")["x"]
    assume("nan" not in repr(plain) and "datetime" not in repr(plain))
    assume("inf" not in repr(plain))
    assert tomli.loads(f"x = {toml_value(plain)}")["x"] == plain


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Documents as tomlkit writes them, and the names of their dependencies."""
    document = tomlkit.document()
    is_pyproject = draw(st.booleans())
    outer: Any = document
    if is_pyproject:
        document["project"] = {"dependencies": ["torch"]}
        document["tool"] = tomlkit.table(is_super_table=True)
        outer = document["tool"]
        outer["modpkg"] = tomlkit.table()
        outer = outer["modpkg"]
    names = [f"{name}{n}" for n, name in enumerate(draw(st.lists(words, max_size=3)))]
    tables = ["app", *draw(st.lists(st.sampled_from(["q1", "q2", "q3"]), unique=True))]
    for table in draw(st.permutations([*tables, *(["dependencies"] if names else [])])):
        inner = tomlkit.table()
        if draw(st.booleans()):
            inner.add(tomlkit.comment("[dependencies] " + draw(words)))
        if table == "dependencies":
            for name in names:
                value: Any = tomlkit.string(">=1", literal=draw(st.booleans()))
                if draw(st.booleans()):
                    value = tomlkit.inline_table().append("version", "~=1.0")
                inner.add(name, value.comment(draw(words)) if draw(st.booleans()) else value)
        else:
            inner.add("name", "x")
            inner.add(draw(words) + "-v", tomli.loads(f"x={toml(draw(toml_values))}")["x"])
        if draw(st.booleans()):
            inner.add(tomlkit.nl())
            inner.add(tomlkit.comment("last"))
        outer.add(table, inner)
    text = tomlkit.dumps(document)
    try:
        tomli.loads(text)
    except tomli.TOMLDecodeError:  # tomlkit does not always write what it could read
        assume(False)
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    return text.replace("\n", newline), names


def lines_around(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines in which two texts differ, between what they have in common."""
    one, two = before.splitlines(True), after.splitlines(True)
    while one and two and one[0] == two[0]:
        del one[0], two[0]
    while one and two and one[-1] == two[-1]:
        del one[-1], two[-1]
    return one, two


def table_of(text: str) -> tuple[dict[str, Any], str]:
    """The dependencies, and all the rest in a form that compares NaN as equal."""
    data = tomli.loads(text, parse_float=str)
    owner = data["tool"]["modpkg"] if "tool" in data else data
    return owner.pop("dependencies", {}), repr(data)


@given(documents(), words, st.sampled_from(["*", ">=2,<3", {"version": "^1", "extras": ["a"]}]))
@steady_manifests
def test_setting_changes_only_that_key(
    document: tuple[str, list[str]], name: str, value: Any
) -> None:
    text, names = document
    key = "new-" + name.rstrip("-_")
    after = set_dependency(text, key, value)
    removed, added = lines_around(text, after)
    assert removed == []
    assert len(added) <= 3, "a blank line and a header at most come with the new line"
    dependencies, rest = table_of(text)
    (key,) = set(table_of(after)[0]) - set(dependencies)
    assert table_of(after) == ({**dependencies, key: value}, rest)
    for old in names:
        edited = set_dependency(text, old, value)
        removed, added = lines_around(text, edited)
        assert len(removed) == len(added) == (text != edited)
        assert table_of(edited) == ({**dependencies, old: value}, rest)


@given(documents())
@steady_manifests
def test_removing_changes_only_that_key(document: tuple[str, list[str]]) -> None:
    text, names = document
    dependencies, rest = table_of(text)
    for name in names:
        after = remove_dependency(text, name.upper())
        removed, added = lines_around(text, after)
        assert (len(removed), added) == (1, [])
        left = {key: value for key, value in dependencies.items() if key != name}
        assert table_of(after) == (left, rest)


def test_an_edited_manifest_reads_back() -> None:
    text = set_dependency(APP, "new", {"version": ">=1", "extras": ["fast"], "registry": "acme"})
    manifest = parse_manifest(text, Path("modpkg.toml"))
    assert str(manifest.dependencies[-1].requirement) == "new[fast]>=1"
    assert manifest.dependencies[-1].registry == "acme"


@pytest.mark.parametrize(
    "text",
    [
        '[app]\nname = "a"\n[registries]\nnear = "../r" # c\nfar = "https://x.example"\n',
        '[app]\nname = "a"\n[registries]\n"near" = \'../r\'\nfar = "https://x.example"\n',
        'registries.near = "../r"\nregistries.far = "https://x.example"\n[app]\nname = "a"\n',
        '[app]\nname = "a"\n[registries]\nnear = { url = "../r", root = "sha256:ROOT" }\n'
        'far = "https://x.example"\n',
        '[app]\nname = "a"\n[registries.near]\nurl = "../r"\nroot = "sha256:ROOT"\n'
        '[registries.far]\nurl = "https://x.example"\n',
        'registries = { near = "../r", far = "https://x.example" }\n[app]\nname = "a"\n',
        '[tool.modpkg]\nregistries = { near = "../r", far = "https://x.example" }\n'
        '[tool.modpkg.app]\nname = "a"\n',
    ],
)
def test_registry_paths_become_absolute(text: str) -> None:
    text = text.replace("ROOT", "0" * 64)
    moved = with_absolute_registries(text, Path("/work/app"))
    manifest = parse_manifest(moved, Path("pyproject.toml" if "tool" in text else "modpkg.toml"))
    assert manifest.registries == {"near": "/work/app/../r", "far": "https://x.example"}
    assert moved.replace('"/work/app/../r"', "'../r'") == text.replace('"../r"', "'../r'")
    assert with_absolute_registries(moved, Path("/elsewhere")) == moved


def test_another_signer_is_added_to_those_of_a_pattern() -> None:
    text = '[trust]\n"acme-*" = "key:one"  # ours\n'
    several = text.replace('"key:one"', '["key:one", "key:two"]')
    assert add_trust(text, "acme-*", "key:two") == several
    assert add_trust(several, "acme-*", "key:two") == several
    assert add_trust(several, "acme-*", "key:three") == several.replace('two"', 'two", "key:three"')
    assert add_trust(text, "acme-*", "key:one") == text
    assert add_trust(text, "b-*", "key:two") == text + '"b-*" = "key:two"\n'


@pytest.mark.parametrize(
    ("text", "pattern", "wanted"),
    [
        ('[trust]\n"w*" = "A"\n', "words", '[trust]\nwords = "B"\n"w*" = "A"\n'),
        ('[trust]\nx = "A"\n"*" = "A"', "w*", '[trust]\nx = "A"\n"w*" = "B"\n"*" = "A"'),
        ('[trust]\nwords = "A"\n', "w*", '[trust]\nwords = "A"\n"w*" = "B"\n'),
        (
            '[trust]\n"w*" = "A"  # all\nwords = "A"\n',
            "words",
            '[trust]\nwords = ["A", "B"]\n"w*" = "A"  # all\n',
        ),
        ('trust = { "w*" = "A" }\n', "words", 'trust = { words = "B", "w*" = "A" }\n'),
        ('trust."w*" = "A"\n', "words", 'trust.words = "B"\ntrust."w*" = "A"\n'),
        (
            '[tool.modpkg.trust]\n"w*" = "A"\n',
            "words",
            '[tool.modpkg.trust]\nwords = "B"\n"w*" = "A"\n',
        ),
    ],
)
def test_a_narrower_pattern_is_added_before_the_wider_ones(
    text: str, pattern: str, wanted: str
) -> None:
    assert add_trust(text, pattern, "B") == wanted


def test_what_cannot_be_placed_is_refused() -> None:
    with raises("M110", match="edit them by hand"):
        add_trust('tool = { modpkg = { trust."w*" = "A" } }\n', "words", "B")
