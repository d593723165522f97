"""The chat templates of a model that is built: rendered once, within the bounds that load has."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from modpkg.core.bounds import TEMPLATES_RENDERED
from modpkg.core.errors import RunError
from modpkg.core.extras import has_torch
from modpkg.core.filenames import TOKENIZER_CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.core.regular_file import read_text
from modpkg.store.remembered import remembered

_RENDERED = "chat templates 1"
"""What is remembered; the number is raised when other templates would be refused."""
_FILE = "chat_template.jinja"
_SAMPLE = {"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": True}


def unrenderable(files: Mapping[str, Path]) -> str | None:
    """Return why a template of these files is refused when it is used; None if none is.

    An error that a template raises itself is none: it may want another conversation. Where
    transformers is not installed, nothing is rendered.
    """
    templates = [*itertools.islice(_templates(files), TEMPLATES_RENDERED)]
    if not templates or not has_torch():
        return None

    def render() -> None:
        importlib.import_module("transformers.utils.chat_template_utils")
        for template in templates:
            if (reason := _refusal(template)) is not None:
                raise _Unrenderable(reason)

    try:
        remembered([_RENDERED, templates], None, render)
    except _Unrenderable as error:
        return str(error)
    return None


class _Unrenderable(Exception):
    """A template is refused, maybe on this machine only: that is not remembered."""


def _refusal(template: str) -> str | None:
    from modpkg.compose.confinement import chat_template_file, confined
    from modpkg.compose.templates import BoundedTemplate, TemplateFailed

    try:
        with confined():
            BoundedTemplate(template, chat_template_file()).render(**_SAMPLE)
    except TemplateFailed:
        return None
    except RunError as error:
        return str(error)
    return None


def _templates(files: Mapping[str, Path]) -> Iterator[str]:
    """Yield the texts of all templates: transformers writes them to a file of their own or not."""
    if _FILE in files:
        yield read_text(files[_FILE])
    if TOKENIZER_CONFIG not in files:
        return
    given = read_json(files[TOKENIZER_CONFIG]).get("chat_template")
    for each in given if isinstance(given, list) else [given]:
        text = each.get("template") if isinstance(each, dict) else each
        if isinstance(text, str):
            yield text
