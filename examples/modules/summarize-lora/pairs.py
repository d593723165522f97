"""Collect (text, one-sentence summary) pairs to train and test on.

Most pairs are docstrings: the body is the text and the first line its summary. They are read
with ast, never imported, from the standard library and the permissively licensed packages in
PACKAGES, and whole packages or modules are held out. The others are the short news stories of
stories.jsonl, written for this example.
"""

import ast
import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Every one of them under an MIT, BSD, ISC, Apache-2.0 or PSF licence (see README.md).
PACKAGES = (
    "absl accelerate annotated_types anyio click fsspec huggingface_hub iniconfig jinja2 joblib"
    " markdown_it mypy mypyc networkx nltk numpy packaging peft pip platformdirs pluggy pydantic"
    " pygments _pytest requests resolvelib rich safetensors setuptools sortedcontainers sympy"
    " torch transformers typer urllib3 xdist zstandard"
).split()
HELD_OUT_PACKAGES = set("anyio huggingface_hub joblib mypy mypyc pydantic setuptools".split())
SKIPPED_FOLDERS = set("_vendor dist-packages idlelib lib2to3 site-packages test tests".split())

STOP_WORDS = frozenset(
    "a an and are as at be but by can for from has have if in into is it its not of on or so than"
    " that the then this to use used was were when which will with".split()
)
# The prose ends where a section, a list, a field, a directive or an example starts.
END_OF_PROSE = re.compile(
    r"^\s*(?:(?:args?|arguments|attributes|examples?|input|keyword arguments|notes?|output"
    r"|param(?:eter)?s|raises|references|returns?|see also|shape|usage|warning|yields)\s*:*\s*$"
    r"|(?:args|examples?|note|returns|see also|usage)::?\s"
    r"|>>>|:\w+|@\w+|\.\. |[-=~*+|#]{3,}|[-*] |\d+[.)] )",
    re.IGNORECASE | re.MULTILINE,
)
ROLE = re.compile(r":[\w:]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`")
CODE = re.compile(r"[_={}\[\]<>\\|^$#@/%~()]")


@dataclass(frozen=True)
class Pair:
    """A text, its one-sentence summary, and the module, package or file it is from."""

    source: str
    text: str
    summary: str


def read_pairs() -> tuple[list[Pair], list[Pair]]:
    """Return the training pairs and the held-out pairs."""
    train: list[Pair] = []
    held_out: list[Pair] = []
    seen: set[str] = set()
    for source, path in _sources():
        target = held_out if _is_held_out(source) else train
        for docstring in _docstrings(path):
            pair = parse_docstring(source, docstring)
            if pair and seen.isdisjoint({pair.text, pair.summary.lower()}):
                seen |= {pair.text, pair.summary.lower()}
                target.append(pair)
    return train, held_out


def read_stories() -> tuple[list[Pair], list[Pair]]:
    """Return the news stories to train on and, every fifth of them, those held out."""
    lines = (Path(__file__).parent / "stories.jsonl").read_text("utf-8").splitlines()
    pairs = [Pair("stories", **json.loads(line)) for line in lines]
    return [p for i, p in enumerate(pairs) if i % 5], pairs[::5]


def parse_docstring(source: str, docstring: str) -> Pair | None:
    """Return the docstring's body and first line, or None where they are no clean English pair."""
    first, _, rest = docstring.strip().partition("\n\n")
    if end := END_OF_PROSE.search(rest):
        rest = rest[: end.start()]
    summary = _plain(first)
    paragraphs = [_plain(part) for part in re.split(r"\n\s*\n", rest) if part.strip()]
    while paragraphs and not re.search(r"[.!?)\"']$", paragraphs[-1]):
        paragraphs.pop()
    text = "\n\n".join(paragraphs)
    if not (30 <= len(text.split()) <= 250 and 5 <= len(summary.split()) <= 25):
        return None
    if not (text.isascii() and summary.isascii() and text[0].isupper() and summary[0].isupper()):
        return None
    if not summary.endswith(".") or re.search(r"[.!?] [A-Z]|\w\.\w|[_={}\[\]<>\\|^$#@`]", summary):
        return None
    if len(CODE.findall(text)) > 0.015 * len(text):
        return None
    return Pair(source, text, summary) if _is_summary(text, summary) else None


def _is_summary(text: str, summary: str) -> bool:
    """Return whether a text is English and has the summary's words, not all in one sentence."""
    words = re.findall(r"[a-z]+", text.lower())
    if sum(word in STOP_WORDS for word in words) < 0.25 * len(words):
        return False
    stems = {word.rstrip("s") for word in words}
    summarized = re.findall(r"[a-z]+", summary.lower())
    content = [word.rstrip("s") for word in summarized if word not in STOP_WORDS][
        1:
    ]  # less the verb
    if not content or sum(word in stems for word in content) < 0.5 * len(content):
        return False
    opening = set(re.findall(r"[a-z]+", re.split(r"(?<=[.!?]) ", text)[0].lower()))
    return len(set(summarized) & opening) <= 0.8 * len(set(summarized))


def _plain(markup: str) -> str:
    """Return the text without reStructuredText or Markdown marks, on one line."""
    text = ROLE.sub(lambda match: match[1].split(".")[-1], markup)
    text = re.sub(r"\[`([^`]*)`\](\([^)]*\))?", r"\1", text)
    text = re.sub(r"`+([^`]*)`+_*", r"\1", text)
    text = re.sub(r"(?<!\w)\*+(\S[^*]*)\*+", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def _sources() -> Iterator[tuple[str, Path]]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in sorted(stdlib.iterdir()):
        if path.name not in SKIPPED_FOLDERS and (path.is_dir() or path.suffix == ".py"):
            yield f"stdlib {path.stem}", path
    site = Path(sysconfig.get_path("purelib"))
    for name in PACKAGES:
        if (site / name).is_dir():
            yield name, site / name


def _is_held_out(source: str) -> bool:
    if source.startswith("stdlib "):
        return hashlib.sha256(source.encode()).digest()[0] < 50  # about a fifth of the modules
    return source in HELD_OUT_PACKAGES


def _docstrings(path: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        if not SKIPPED_FOLDERS.isdisjoint(file.relative_to(path).parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
                yield docstring
