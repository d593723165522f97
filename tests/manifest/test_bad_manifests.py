"""What is refused, each with the sentence that people read; and nothing else is ever raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import modpkg
from modpkg.core.errors import ManifestError
from modpkg.manifest.read import parse_manifest, read_manifest
from tests.manifest.strategies import manifests, steady, steady_manifests, toml, toml_values
from tests.raising import raises

MODULE = '[module]\nname = "a"\nversion = "1.0"\nkind = "model"\nlicense = "MIT"\n'
APP = '[app]\nname = "a"\n'
TEST = '[[tests]]\nname = "t"\ncases = "c"\nmetric = "m"\n'
TASK = MODULE + '[task]\nkind = "summarization"\n'

SPECIFIERS = "'>=2.1', '>=1,<2', '~=2.0', '^2.1', '==2.1.0', or '*' for any version."
LICENSES = "'Apache-2.0', 'MIT OR Apache-2.0', or 'LicenseRef-' and your own name for it."
CUTOFFS = (
    "write a date like '2026-01-01', a time like '2026-01-01T12:00:00Z', or a span before now "
    "like '7 days' (minutes, hours, days, weeks)."
)
NAMES = "use letters, digits, '-', '_' and '.', beginning and ending with a letter or digit."
REQUIREMENTS = "'summarizer>=2.1', 'summarizer[news]~=2.0', summarizer@2.1 or summarizer@^2.1."


def module(**changes: str) -> str:
    text = MODULE
    for key, value in changes.items():
        lines = [
            f"{key} = {value}" if line.startswith(key + " =") else line
            for line in text.splitlines()
        ]
        text = "\n".join(lines) + "\n"
    return text


BAD = [
    # neither a module nor an app
    ("", "1: the manifest has neither [module] (to publish) nor [app] (to use models); "
     "add one of them."),
    (MODULE + APP, "6: app and [module] are in one manifest, which has to be one of the "
     "two; split it."),
    ("[modul]\n", "1: modul is not a key of modpkg.toml; did you mean 'module'?"),
    ("module = 3\n", "1: module has to be a table, not an integer."),
    # [module]
    (MODULE.replace("license", "licence"),
     "5: module.licence is not a key of [module]; did you mean 'license'?"),
    (MODULE.replace('license = "MIT"\n', ""),
     '1: module.license is missing; add it, like: license = "Apache-2.0".'),
    (module(license='"MTI"'),
     f"5: module.license: 'MTI' is not an SPDX licence expression (did you mean 'MIT'?); "
     f"write it like {LICENSES}"),
    (module(license='"MIT AND (BSD-3-Clause"'),
     "5: module.license: 'MIT AND (BSD-3-Clause' is not an SPDX licence expression; "
     f"write it like {LICENSES}"),
    (module(kind='"modle"'),
     "4: module.kind is 'modle', which is no kind of module; did you mean 'model'?"),
    (module(kind='"robot"'),
     "4: module.kind is 'robot', which is no kind of module; known are base, adapter, head, "
     "expert, patch, model, suite, collection."),
    (module(version="1.0"), "3: module.version has to be a string, not a number."),
    (module(version='"one"'),
     "3: module.version: 'one' is not a version: write it "
     "like 2.1.0 or 3.0rc1."),
    (module(name='"-a"'), f"2: module.name: '-a' is not a module name: {NAMES}"),
    (module(name='""'), "2: module.name is empty; fill it in or leave it out."),
    (module(name='"a\\u001b[31m"'),
     "2: module.name contains a line break or a control character; remove it."),
    (MODULE + f'summary = "{"x" * 501}"\n',
     "6: module.summary is 501 characters long; at most 500 are allowed."),
    # [dependencies]
    (MODULE + '[dependencies]\n\na = "*"\n',
     "8: dependencies.a makes 'a' depend on itself; remove it."),
    (MODULE + '[dependencies]\nb = "1.0"\n',
     "7: dependencies.b: '1.0' is not a version specifier (a bare version needs an operator "
     f"before it); write it like {SPECIFIERS}"),
    (MODULE + '[dependencies]\nb = "===1"\n',
     "7: dependencies.b: '===1' is not a version specifier ('===' compares text, use '=='); "
     f"write it like {SPECIFIERS}"),
    (MODULE + '[dependencies]\nb = "^x"\n',
     f"7: dependencies.b: '^x' is not a version specifier; write it like {SPECIFIERS}"),
    (MODULE + '[dependencies]\nb = ""\n',
     '7: dependencies.b is empty; write "*" for any version.'),
    (MODULE + "[dependencies]\nb = 3\n",
     '7: dependencies.b has to be a version specifier like ">=1.0", or a table, '
     "not an integer."),
    (MODULE + '[dependencies]\n"b c" = "*"\n',
     f"7: dependencies.'b c': 'b c' is not a module name: {NAMES}"),
    (MODULE + '[dependencies]\nb_c = "*"\nB-c = "*"\n',
     "8: dependencies.B-c is the same module as dependencies.b_c (b-c); keep one of them."),
    (MODULE + '[dependencies.b]\n# about\nverison = "*"\n',
     "8: dependencies.b.verison is not a key of [dependencies.b]; did you mean 'version'?"),
    (MODULE + '[dependencies]\nb = { registry = "acmee" }\n[registries]\nacme = "x"\n',
     "7: dependencies.b.registry is 'acmee', which is not defined under [registries]; "
     "did you mean 'acme'?"),
    (MODULE + '[dependencies]\nb = { registry = "https://x" }\n',
     "7: dependencies.b.registry: 'https://x' is not an alias of a registry: use letters, "
     "digits, '-', '_' and '.', and put the address under [registries], "
     'like: acme = "https://models.acme.example".'),
    # [extras], [registries]
    (MODULE + '[extras]\nnews = [\n  "b",\n  "a>=1",\n]\n',
     "9: extras.news[1] makes 'a' depend on itself; remove it."),
    (MODULE + '[extras]\nnews = ["b"]\nNEWS = ["c"]\n',
     "8: extras.NEWS is the same name as an extra before it (news); keep one of them."),
    (MODULE + '[extras]\nnews = ["b @ https://x"]\n',
     "7: extras.news[0]: 'b @ https://x' is not a requirement (it has an address): "
     f"write it like {REQUIREMENTS}"),
    (MODULE + '[registries]\nx = "https://me:secret@x"\n',
     "7: registries.x has a password in it, and manifests are published; remove it."),
    # [compose]
    (MODULE + '[compose]\nbase = "b"\n',
     "7: compose.base is 'b', which is not among [dependencies]; add it there, like: b = \"*\"."),
    (MODULE + '[compose]\nbase = "baes"\n[dependencies]\nbase = "*"\n',
     "7: compose.base is 'baes', which is not among [dependencies]; did you mean 'base'?"),
    (MODULE + '[dependencies]\nb = "*"\n[compose]\nbase = "b"\nsteps = [\n'
     '  { op = "lora", module = "b" },\n  { op = "lora", modul = "c" },\n]\n',
     "12: compose.steps[1].modul is not a key of [compose.steps[1]]; did you mean 'module'?"),
    (MODULE + '[dependencies]\nb = "*"\n[compose]\nbase = "b"\n'
     '[[compose.steps]]\nop = "lora"\nmodule = "b"\nscale = inf\n',
     "13: compose.steps[0].scale has to be a finite number, of at most 1e30."),
    (MODULE + '[dependencies]\nb = "*"\n[compose]\nbase = "b"\n'
     '[[compose.steps]]\nop = "lora"\nmodule = "b"\nscale = [1, { value = 2 }]\n',
     "13: compose.steps[0].scale[0] has to be a table, not an integer."),
    (MODULE + '[dependencies]\nb = "*"\n[compose]\nbase = "b"\nparameters = { t = [] }\n',
     "10: compose.parameters.t is empty; give it a value or leave it out."),
    (MODULE + '[dependencies]\nb = "*"\n[compose]\nbase = "b"\nparameters = { importance = "c" }\n',
     '10: compose.parameters.importance is \'c\', which is not among [dependencies]; '
     'add it there, like: c = "*".'),
    (MODULE + '[dependencies]\nb = "*"\n[compose]\nbase = "b"\n'
     'layers = [{ module = "b", tensors = ["x"], scale = 2.0 }]\n',
     "10: compose.layers[0].range is missing; add it, like: range = [0, 16]."),
    (MODULE + '[dependencies]\nb = "*"\n[compose]\nbase = "b"\n'
     'layers = [{ module = "b", range = [4, 4] }]\n',
     "10: compose.layers[0].range has to be the first layer and the one after the last, "
     "like [0, 16]."),
    (MODULE + "[compose]\nsteps = []\n",
     '6: compose.base is missing; add it, like: base = "smollm2-135m".'),
    (module(kind='"adapter"') + '[compose]\nbase = "b"\n',
     "6: compose does not go with kind 'adapter', only with kind 'model'; change one of them."),
    # [task]
    (TASK.replace("summarization", "summarize"),
     "7: task.kind is 'summarize', which is no task; did you mean 'summarization'?"),
    (TASK + 'prompt = "Sum up {{text}}"\n',
     "8: task.prompt has no '{{ text }}', so the input would be ignored; add it."),
    (TASK + "max_new_tokens = -1\n", "8: task.max_new_tokens has to be from 1 to 1000000."),
    (TASK + 'chat = "yes"\n', "8: task.chat has to be true or false, not a string."),
    (module(kind='"suite"') + '[task]\nkind = "summarization"\n',
     "6: task does not go with kind 'suite', which has no model; remove it."),
    # [[tests]], [files]
    (MODULE + TEST + TEST, "11: tests[1].name is 't', and so is an earlier test's; rename one."),
    (MODULE + TEST.replace('metric = "m"\n', ""),
     '6: tests[0].metric is missing; add it, like: metric = "rouge_l".'),
    (MODULE + TEST.replace('"c"', '"../c"'),
     "8: tests[0].cases: '../c' is not allowed as a path in a release (it has '..'): "
     "use relative paths with '/' that stay inside the module."),
    (MODULE + TEST + "at_least = 2\nat_most = 1\n",
     "10: tests[0].at_least is more than at_most, so no value could pass; swap them."),
    (MODULE + TEST + 'model = "b"\n',
     "10: tests[0].model is not a key of [tests[0]]; known are name, cases, metric, at_least, "
     "at_most, tolerance, seed, time_limit."),
    (MODULE + TEST + "tolerance = -0.1\n",
     "10: tests[0].tolerance is less than 0; write how much worse the value may be."),
    (MODULE + TEST + "time_limit = 0\n",
     "10: tests[0].time_limit has to be more than 0 and at most 604800 seconds."),
    (MODULE + TEST + "seed = -1\n", "10: tests[0].seed has to be from 0 to 2147483647."),
    (MODULE + '[suites]\ns = { extras = ["x"] }\n',
     "6: suites requests extras of s, but suites have no extras; remove them."),
    (APP + '[suites]\ns = "*"\n',
     "3: suites belongs to a module; an app has its own [[tests]] instead."),
    (MODULE.replace('"model"', '"suite"') + '[suites]\ns = "*"\n',
     "6: suites does not go with kind 'suite', which has no model; remove it."),
    (MODULE + '[files]\ninclude = "*.md"\n', "7: files.include has to be an array, not a string."),
    (MODULE + '[dependencies]\nsmollm2 = { hub = "org/name", rev = "main" }\n',
     "7: dependencies.smollm2 names a model of a hub, and what a module needs has to be published; "
     "make it a module by 'modpkg import hf hf://ORG/NAME', 'modpkg build' and 'modpkg publish', "
     "and name its version here."),
    (APP + '[dependencies]\na = { rev = "main" }\n',
     "4: dependencies.a has 'rev', which belongs to a 'hub'; add it, or remove 'rev'."),
    (APP + '[dependencies]\na = { hub = "org/name", version = "*" }\n',
     "4: dependencies.a.version does not go with 'hub', whose model has the version of its commit; "
     "remove it."),
    (APP + '[dependencies]\na = { hub = "hf://org/name@main" }\n',
     "4: dependencies.a.hub is 'hf://org/name@main'; write it like hub = \"ORG/NAME\", and a "
     "revision as 'rev'."),
    (APP + '[dependencies]\na = { hub = "name" }\n',
     "4: dependencies.a.hub: hf://name is not an address on a hub: it has no owner and name of a "
     "repository; write it like hf://ORG/NAME or hf://ORG/NAME@REVISION (a branch, tag or "
     "commit)."),
    (APP + '[dependencies]\na = { hub = "org/name", rev = "../x" }\n',
     "4: dependencies.a.rev is '../x'; write a branch, a tag or a commit."),
    (APP + '[dependencies]\na = { hub = "org/name", against = "b" }\n',
     "4: dependencies.a.against names b, and no other dependency is called so; add or correct it."),
    (APP + '[dependencies]\nb = "*"\na = { hub = "org/name", against = "b" }\n',
     "5: dependencies.a.against names no version; write the release that it was trained on, like "
     "b==1.0.0."),
    (APP + '[dependencies]\nb = { hub = "org/b" }\na = { hub = "org/a", against = "b==1.0" }\n',
     "5: dependencies.a.against names a version, but b is of a hub; write 'b' alone."),
    # [provenance]
    (MODULE + '[provenance]\nbuilt_from = []\n',
     "7: provenance.built_from is not a key of [provenance]; did you mean 'built-from'?"),
    (MODULE + '[provenance]\n',
     '6: provenance.built-from is missing; add it, like: '
     'built-from = [{ name = "clamp", version = "1.0.0", relation = "merged" }].'),
    (MODULE + '[provenance]\nimported-from = "hf://org/name@main"\n',
     '7: provenance.imported-from names no commit; write it like hf://ORG/NAME@COMMIT, '
     'with 40 digits.'),
    (MODULE + '[provenance]\nimported-from = "https://hub.example/org/name"\n',
     '7: provenance.imported-from: https://hub.example/org/name is not an address on a hub: '
     'it does not begin with hf://; write it like hf://ORG/NAME or hf://ORG/NAME@REVISION '
     '(a branch, tag or commit).'),
    (MODULE + '[provenance]\nmerge = { base = "b==1.0", result = "x" }\n',
     '7: provenance.merge.parents is missing; add it, like: '
     'parents = [{ release = "patch-a==1.0", weights = "sha256:…" }].'),
    (MODULE + '[provenance]\nmerge = { base = "b==1", parents = [{ release = "a==1" }] }\n',
     '7: provenance.merge.parents has to have 2 to 100 entries.'),
    (MODULE + '[provenance]\nmerge = { base = "b==1", parents = [{ folder = "x", release = "y==1" '
     '}, {}] }\n',
     "7: provenance.merge.parents[0] has to have one of 'release' and 'folder'."),
    (MODULE + '[provenance]\nmerge = { base = "b", parents = [{}, {}] }\n',
     "7: provenance.merge.base: 'b' does not name one release; write the name and the version of a "
     "base, like 'smollm2-135m==1.0.0'."),
    (MODULE + '[card]\ntags = ["a", "b", "a"]\n', '7: card.tags[2] is there twice; keep one.'),
    (MODULE + f'[card]\ndatasets = {["x" * n for n in range(1, 102)]}\n',
     '7: card.datasets has 101 entries; at most 100 are allowed.'),
    (APP + '[card]\ntags = ["a"]\n',
     '3: card belongs to a module, and an app is never published; remove it.'),
    (MODULE + '[provenance]\nbuilt-from = [\n  { name = "b", version = ">=1" },\n]\n',
     "8: provenance.built-from[0].version: '>=1' is not a version: write it "
     "like 2.1.0 or 3.0rc1."),
    (MODULE + '[provenance]\nbuilt-from = [{ name = "b", version = "1", relation = "fork" }]\n',
     "7: provenance.built-from[0].relation is 'fork', which is no relation; "
     "did you mean 'forked'?"),
    (MODULE + '[provenance]\nbuilt-from = [{ name = "A", version = "1.0.0" }]\n',
     "7: provenance.built-from[0] makes the release its own ancestor; name an earlier version."),
    (MODULE + '[[provenance.built-from]]\nname = "b"\nversion = "1"\n'
     '[[provenance.built-from]]\nname = "B"\nversion = "1.0"\n',
     "9: provenance.built-from[1] is b 1.0 again; keep one of them."),
    (APP + '[provenance]\nbuilt-from = []\n',
     "3: provenance belongs to a module, and an app is never published; remove it."),
    # [constraints], [overrides], [resolution]
    (APP + '[constraints]\nb = { version = "<2" }\n',
     '4: constraints.b has to be a version specifier like "<2", not a table.'),
    (APP + '[overrides]\nb = "2"\n',
     "4: overrides.b: '2' is not a version specifier (a bare version needs an operator before "
     f"it); write it like {SPECIFIERS}"),
    (APP + '[overrides]\nb-c = "*"\nB_C = "*"\n',
     "5: overrides.B_C is the same module as one before it (b-c); keep one of them."),
    (APP + '[resolution]\nstratgy = "lowest"\n',
     "4: resolution.stratgy is not a key of [resolution]; did you mean 'strategy'?"),
    (APP + '[resolution]\nstrategy = "lowst"\n',
     "4: resolution.strategy is 'lowst', which is no strategy; did you mean 'lowest'?"),
    (APP + '[resolution]\nprereleases = "b"\n',
     "4: resolution.prereleases has to be an array, not a string."),
    (APP + '[resolution]\nexclude-newer = "last week"\n',
     f"4: resolution.exclude-newer: 'last week' is not a cut-off: {CUTOFFS}"),
    (APP + '[resolution]\nexclude-newer = 2026-02-30\n',
     "4: this is not TOML (column 17): invalid date or datetime."),
    (APP + '[resolution]\nexclude-newer = 7\n',
     "4: resolution.exclude-newer has to be a string, not an integer."),
    (APP + '[resolution]\nexclude-newer-package = { b = true }\n',
     '4: resolution.exclude-newer-package.b has to be a date like "2026-01-01", or false, '
     "not a boolean."),
    (APP + '[resolution]\nexclude-newer-package = { b = "7 days" }\n',
     "4: resolution.exclude-newer-package.b is a span; give one name a date, or false for no "
     "cut-off."),
    # [licenses]
    (APP + '[licenses]\nalow = []\n',
     "4: licenses.alow is not a key of [licenses]; did you mean 'allow'?"),
    (APP + '[licenses]\nallow = ["MTI"]\n',
     "4: licenses.allow[0]: 'MTI' is not an SPDX licence expression (did you mean 'MIT'?); "
     f"write it like {LICENSES}"),
    (APP + '[licenses]\nallow = ["MIT OR ISC"]\n',
     "4: licenses.allow[0] is 'MIT OR ISC'; list single licences."),
    (APP + '[licenses]\nallow = ["MIT"]\ndeny = ["mit"]\n',
     "5: licenses.deny has MIT, and so has allow; remove it from one of them."),
    (APP + '[licenses.exceptions]\na_b = ["MIT"]\nA-b = ["MIT"]\n',
     "5: licenses.exceptions.A-b is the same module as one before it (a-b); keep one of them."),
    # requires-modpkg
    (MODULE + 'requires-modpkg = "0.1"\n',
     "6: module.requires-modpkg: '0.1' is not a version specifier (a bare version needs an "
     f"operator before it); write it like {SPECIFIERS}"),
    (MODULE + 'requires-modpkg = "*"\n',
     "6: module.requires-modpkg: '*' is not a version specifier (for any version, leave the "
     f"key out); write it like {SPECIFIERS}"),
    (APP + 'requires-modpkg = ">=99"\n[new-table]\n',
     f"3: app.requires-modpkg is '>=99', and this is modpkg {modpkg.__version__}; install a "
     "version of modpkg in that range."),
    # apps
    (MODULE + '[models.x]\nbase = "b"\n',
     "6: models belongs to an app; a module has [compose] instead."),
    (APP + '[compose]\nbase = "b"\n',
     "3: compose belongs to a module; an app has [models.NAME] instead."),
    (APP + '[dependencies]\nx = "*"\n[models.X]\nbase = "x"\n',
     "5: models.X has the name of a dependency (x); rename the model."),
    (APP + TEST + 'model = "q"\n',
     "7: tests[0].model is 'q', neither among [dependencies] nor in [models]."),
    # not TOML
    ("a = hello\n", "1: this is not TOML (column 5): this is not a value "
     "(strings need quotes)."),
    ('a = "x\nb = 1\n', "1: this is not TOML (column 7): a string is not closed on its line."),
    ("[a]\n\n[a]\n", "3: this is not TOML (column 3): table [a] is given twice."),
    ("a = 1\na = 2\n", "2: this is not TOML (column 6): a key is given twice."),
    ("a = [1,\n\n", "1: this is not TOML (at the end): this is not a value "
     "(strings need quotes)."),
    ("a = 1" + "0" * 5000, "1: the file has a number of more than 100 characters."),
    ("\na = " + "[" * 40, "2: the file nests tables or arrays more than 32 deep."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), BAD)
def test_a_bad_manifest_is_refused_with_a_message(text: str, sentence: str) -> None:
    with raises("M110") as caught:
        parse_manifest(text, Path("modpkg.toml"))
    assert str(caught.value) == f"modpkg.toml:{sentence}"


def test_in_pyproject_paths_begin_with_tool_modpkg() -> None:
    text = "[project]\n[tool.modpkg]\n[tool.modpkg.modul]\n"
    with raises("M110") as caught:
        parse_manifest(text, Path("pyproject.toml"))
    assert str(caught.value) == (
        "pyproject.toml:3: tool.modpkg.modul is not a key of [tool.modpkg]; did you mean 'module'?"
    )
    with raises("M110", match=r"^pyproject\.toml: it has no \[tool\.modpkg\]"):
        parse_manifest("[tool.other]\n", Path("pyproject.toml"))
    with raises("M110", match=r"^pyproject\.toml:2: tool\.modpkg has to be a table"):
        parse_manifest("[tool]\nmodpkg = 1\n", Path("pyproject.toml"))


def is_read_or_refused(text: str) -> None:
    try:
        parse_manifest(text, Path("modpkg.toml"))
    except ManifestError as error:
        sentence = str(error)
    else:
        return
    assert sentence.startswith("modpkg.toml")
    assert sentence.isprintable(), "what a terminal shows cannot be forged"


@given(st.binary(max_size=200))
@steady
def test_any_bytes_are_read_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-bytes" / "modpkg.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with raises("M110"):
        read_manifest(path)


@given(manifests(), st.data())
@steady_manifests
def test_any_value_for_any_key_is_read_or_refused(data: dict[str, Any], draw: Any) -> None:
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                visit(value[key])

    visit(data)
    table, key = draw.draw(st.sampled_from(places))
    table[key] = draw.draw(toml_values)
    is_read_or_refused("\n".join(f"{key} = {toml(data[key])}" for key in data))


@given(manifests(), st.data())
@steady_manifests
def test_any_typing_error_is_read_or_refused(data: dict[str, Any], draw: Any) -> None:
    text = "\n".join(f"{key} = {toml(data[key])}" for key in data)
    start = draw.draw(st.integers(0, len(text)))
    end = draw.draw(st.integers(start, min(len(text), start + 5)))
    new = draw.draw(st.text(st.sampled_from("ab=.,[]{}#\"'\\\n\r 1-_:\x00\u202eé"), max_size=4))
    is_read_or_refused(text[:start] + new + text[end:])


@pytest.mark.parametrize(
    "value",
    ["(" * 400, "MIT" + " or (MIT" * 60, "MIT WITH", "LicenseRef-\u0130", "or", ")(", "MIT (MIT)"],
)
def test_no_licence_breaks_the_reader(value: str) -> None:
    with raises("M110", match="is not an SPDX licence expression"):
        parse_manifest(module(license=f'"{value}"'), Path("modpkg.toml"))
