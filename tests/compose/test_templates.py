"""Chat templates: the text that transformers renders, or the bound that one reaches."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from modpkg.compose import templates
from modpkg.compose.confinement import chat_template_file, confined
from modpkg.compose.template_process import compiler
from modpkg.compose.templates import TemplateFailed
from modpkg.core import bounds
from tests.raising import raises

MESSAGES = [
    {"role": "system", "content": "Be  brief."},
    {"role": "user", "content": "Wie geht's? 😀 \ud800"},
    {"role": "assistant", "content": "{{ 1 }}"},
]
CHATML = """{%- for message in messages %}
  {%- if loop.first and message['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + eos_token }}
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"""
HONEST = [
    CHATML,
    "{{ bos_token }}{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}"
    "[{{ m.role }}]{{ m | tojson(indent=2) }}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}"
    "{% endfor %}{{ ns.n }}{% macro f(x, y=2) %}{{ x * y }}{% endmacro %}{{ f(3) }}",
    "{% for m in messages if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% endfor %}{{ tools is none }}{{ documents }}",
    "{{ dict(a=1, **{'b': [1, (2, 3)]}) }}{{ strftime_now('%Y') }}",
    "{{ messages | selectattr('role', 'eq', 'user') | map(attribute='content') | join('|') }}",
    "{{ '%-10s|' | format('a') }}{{ 'a'.ljust(9) }}{{ 2 ** 40 }}{{ [1] * 3 }}{{ range(3) | list }}"
    "{{ messages[1].content.split() }}",
]


def restarted() -> None:
    """Let the process start again, with other bounds."""
    for renderer in templates._renderers.values():
        renderer.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the time of the clock is not to end before that of the processor."""
    monkeypatch.setattr(bounds, "TEMPLATE_WAIT_SECONDS", 300.0)


@pytest.fixture
def other_bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    restarted()


def render(template: str, messages: Any = MESSAGES) -> str:
    texts, _ = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    return texts[0]


def confined_render(template: str, messages: Any = MESSAGES) -> str:
    with confined():
        return render(template, messages)


@pytest.mark.parametrize("template", HONEST)
def test_the_text_is_the_one_that_transformers_renders(template: str) -> None:
    assert confined_render(template) == render(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].a.b }}",
        "{% if %}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% import 'os' as os %}",
    ],
)
def test_an_error_is_the_one_that_transformers_raises(template: str) -> None:
    with pytest.raises(Exception, match=r".") as theirs:
        render(template)
    with pytest.raises(TemplateFailed) as ours:
        confined_render(template)
    assert str(ours.value) == f"{type(theirs.value).__name__}: {theirs.value}"


DOUBLED = "{% set x = 'x' * 10 ** 7 %}" + "{% set x = x ~ x %}" * 10
MEMORY = [
    "{{ 'x' * 10 ** 10 }}",
    "{{ 'x'.ljust(10 ** 10) }}",
    "{{ '%10000000000d' | format(1) }}",
    DOUBLED,
    "{{ (1).to_bytes(10 ** 10) }}",
    "{{ ('x' * 10 ** 5).replace('', 'y' * 10 ** 5) }}",
    "{{ {'a': [1]} | tojson(indent=10 ** 10) }}",
]


@pytest.mark.parametrize("template", MEMORY)
def test_memory_is_bounded(template: str) -> None:
    assert confined_render("{{ 1 }}") == "1"  # what this process imports for it is not meant
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with raises("M745", match="takes more than 256 MB of memory"):
        confined_render(template)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000


ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "{{ 10 ** (10 ** 8) % 7 }}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_time_is_bounded(template: str, other_bounds: pytest.MonkeyPatch) -> None:
    other_bounds.setattr(bounds, "TEMPLATE_SECONDS", 0.2)
    restarted()
    with raises("M745", match="takes more than 0.2 seconds of processor time"):
        confined_render(template)
    # The next one is rendered by another process.
    assert confined_render("{{ messages[0].role }}") == "system"


def test_a_busy_machine_has_longer(other_bounds: pytest.MonkeyPatch) -> None:
    other_bounds.setattr(bounds, "TEMPLATE_SECONDS", 60.0)
    other_bounds.setattr(bounds, "TEMPLATE_WAIT_SECONDS", 0.5)
    restarted()
    began = time.monotonic()
    with raises("M745", match="takes more than 0.5 seconds"):
        confined_render(ENDLESS[0])
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(99999) %}xxxxxxxx{% endfor %}", "writes more than"),
        ("{# " + "x" * (1 << 20) + " #}", "is longer than 1048576 characters"),
    ],
)
def test_lengths_are_bounded(template: str, reason: str) -> None:
    with raises("M745", match=reason):
        confined_render(template)


def test_a_long_conversation_is_no_long_output() -> None:
    length = bounds.TEMPLATE_OUTPUT_CHARACTERS * 2
    messages = [{"role": "user", "content": "x" * length}]
    assert len(confined_render(CHATML.replace("!=", "=="), messages)) > length


def test_others_in_this_process_render_as_before() -> None:
    confined_render("")
    compiled = chat_template_utils._compile_jinja_template("{{ 1 }}")
    assert type(compiled).__module__ == "jinja2.environment"


def test_a_forked_process_has_its_own() -> None:
    confined_render("")
    child = os.fork()
    if not child:
        os._exit(0 if confined_render("{{ 1 }}") == "1" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert confined_render("{{ 2 }}") == "2"


def test_another_file_of_transformers_is_imported_whole(tmp_path: Any) -> None:
    """What the process does where it does not know the file."""
    other = tmp_path / "chat_template_utils.py"
    other.write_text("def _compile_jinja_template(template): return _elsewhere(template)\n")
    assert compiler(str(other)) is chat_template_utils._compile_jinja_template


def test_a_transformers_without_the_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    confined_render("")
    monkeypatch.delattr(chat_template_utils, "_compile_jinja_template")
    with confined(), raises("M746"):
        chat_template_file()
