"""The names that files of a release may have: a list of kinds of data, and nothing else.

A release is written into folders where people work (`export`, `fork`, an environment), and there a
file becomes code by what it is called: an ending that a desktop or an interpreter runs, or a name
that a developer's tool looks for. So a name is taken only if it is known to be data.
"""

from __future__ import annotations

import re

DATA_ENDINGS: dict[str, str] = {
    "text": "txt md markdown rst bib cff",
    "tables and settings": "json jsonl ndjson csv tsv parquet arrow yaml yml toml",
    "tokenizers and templates": "model spm tiktoken vocab merges bpe codes tokenizer jinja jinja2",
    "weights and arrays": "safetensors gguf npy",
    "images": "png jpg jpeg gif webp bmp tif tiff",
    "sounds and films": "wav flac mp3 ogg opus m4a mp4 webm",
}
"""The endings of data, in lower case, by what they are."""
_DATA = frozenset(ending for endings in DATA_ENDINGS.values() for ending in endings.split())

_PAPERS = (
    "license|licence|copying|copyright|notice|readme|authors|contributors|acknowledg(e)?ments"
    "|changelog|changes|citation|version|third[-_]party[-_](notices|licenses|licences)"
)
_WITHOUT_ENDING = re.compile(
    rf"({_PAPERS})([-_][a-z0-9_-]+)*([-_.](v?[0-9.]+|mit|apache|bsd|l?gpl|agpl|mpl|cc0|rail))?"
    r"|vocab|merges|tokenizer\.model\.v[0-9]+(m[0-9]+)?"
)
"""Names of data, in lower case, that have no such ending."""

_OFTEN_RUN = ("yaml", "yml", "toml")
"""Endings of what many tools obey: only names of settings and data are taken."""
_OF_SETTINGS = re.compile(
    r"([a-z0-9.]+[-_. ])*(config|configs|configuration|settings|recipe|params|parameters|hparams"
    r"|hyperparameters|args|arguments|train|training|model|data|dataset|datasets|tokenizer|metadata"
    r"|card|eval|evaluation|results|prompt|prompts|label|labels|classes|generation|sampling|cases)"
    r"([-_. ]?[0-9]+)?"
)
_OF_TOOLS = re.compile(
    r"(^|[-_. ])(docker|compose|podman|kube\w*|helm|ansible|github|gitlab|travis|circleci|azure"
    r"|jenkins|drone|buildkite|workflow|action|pipeline|pipelines|playbook|serverless|vagrant|cargo"
    r"|rust|pre[-_]commit|pnpm|yarn|npm|bundle|pip|poetry|conda|jekyll|mkdocs|hugo|renovate)"
    r"($|[-_. ])"
)

_CODE_ENDINGS = {
    "code": "py pyc pyw pyd pyx ipynb sh bash zsh fish csh command bat cmd ps1 psm1 psd1 vbs hta"
    " wsf js mjs cjs jsx ts tsx lua rb pl php tcl r jl java class jar scala kt cs go rs c cc cpp"
    " cxx h hpp cu cuh mk cmake gradle nix html htm xhtml svg swf sql tex",
    "native code": "so dll dylib exe com scr msi app ko o a lib node wasm ptx cubin whl egg deb rpm"
    " apk appimage dmg pkg",
    "a file that a desktop runs": "desktop lnk url reg inf",
    "a pickle": "pkl pickle pt pth ckpt joblib dill",
    "weights in a form that can hold code": "h5 keras pb tflite onnx",
}
_CODE = {ending: what for what, endings in _CODE_ENDINGS.items() for ending in endings.split()}
"""What some endings are, for the reason that is given: no other ending is taken either."""

_TOOLS = (
    "makefile gnumakefile justfile rakefile gemfile procfile dockerfile containerfile vagrantfile"
    " jenkinsfile snakefile sconstruct brewfile build workspace pipfile configure"
    # what follows has an ending of data
    " cmakelists.txt meson_options.txt conanfile.txt package.json package-lock.json"
    " npm-shrinkwrap.json deno.json jsr.json composer.json bower.json tsconfig.json"
    " jsconfig.json nx.json turbo.json lerna.json rush.json angular.json project.json"
    " lefthook.json vercel.json now.json firebase.json renovate.json biome.json rome.json"
    " dprint.json nodemon.json babel.config.json jest.config.json vite.config.json"
    " devcontainer.json devbox.json tasks.json launch.json cmakepresets.json"
    " cmakeuserpresets.json vcpkg.json conanfile.json sfdx-project.json serverless.json"
    " mcp.json cdk.json _config.yml _config.yaml _config.toml"
)
_RUN_BY_TOOLS = frozenset(_TOOLS.split())
"""Names, in lower case, under which a tool of developers runs, or obeys, what is in a file."""
_ASSISTANTS = re.compile(
    r"(agents?|claude|gemini|copilot|copilot-instructions|codex|qwen|warp|cursor|cline|skills?"
    r"|conventions|crush|opencode|junie|jules|windsurf)([.].*)?"
)
"""Texts (``.md``), by what is before the ending, that an assistant which writes code obeys."""


def problem_of_name(path: str) -> str | None:
    """Return what a file is, by its name, that a release may not hold; None for data.

    >>> problem_of_name("tests/cases.jsonl"), problem_of_name("LICENSE-MODEL")
    (None, None)
    >>> problem_of_name("run.py"), problem_of_name("docs/package.json")
    ('code', 'a file whose commands a tool runs')
    >>> problem_of_name("notes.foo")
    'of a kind that a release does not hold (.foo)'
    """
    name = path.rsplit("/", 1)[-1].lower()
    stem, dot, ending = name.rpartition(".")
    if name in _RUN_BY_TOOLS:
        return "a file whose commands a tool runs"
    if _WITHOUT_ENDING.fullmatch(name):
        return None
    if not dot or not stem:
        return "of a kind that a release does not hold (its name has no ending)"
    if ending == "bin" and "model" in name:
        return "a pickle (as PyTorch's .bin weights are)"
    if ending not in _DATA:
        return _CODE.get(ending, f"of a kind that a release does not hold (.{ending[:20]})")
    if ending in ("md", "markdown") and _ASSISTANTS.fullmatch(stem):
        return "a file that assistants obey which write code"
    settings = _OF_SETTINGS.fullmatch(stem) and not _OF_TOOLS.search(stem)
    if ending in _OFTEN_RUN and not settings:
        return (
            f"a .{ending} file whose name is not one of settings or data, and tools run many such "
            "(model_config.yaml would be taken)"
        )
    return None
