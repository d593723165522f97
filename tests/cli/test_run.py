"""``modpkg run``: where the text comes from, and how it is generated."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from modpkg.cli import run
from tests import forkserver, tiny
from tests.command import modpkg, modpkg_json, refused
from tests.raising import raises
from tests.runtime.helpers import WORDS, tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}then {% endif %}"
)


@pytest.fixture
def talker(home: Path, tmp_path: Path) -> Path:
    """An installed model that chats; returns the folder of its project."""
    folder = tiny.write_base(tmp_path / "tiny", seed=3)
    tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with open(folder / "modpkg.toml", "a") as file:
        file.write('[task]\nkind = "text-generation"\nmax_new_tokens = 5\n')
    tiny.publish(folder, home / "registry")
    modpkg("install", "tiny")
    return folder


def said(*arguments: str, stdin: str | None = None) -> str:
    """Return what a run printed, with a standard input."""
    given = f"sys.stdin = io.TextIOWrapper(io.BytesIO({(stdin or '').encode()!r}))"
    call = f"main({['run', 'tiny', *arguments]!r})"
    code = f"import io, sys; {given}; from modpkg.cli import main; {call}"
    done = forkserver.run("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_line_breaks_at_the_end_are_not_part_of_the_text(talker: Path) -> None:
    plain = said("the cat")
    assert plain.strip()
    assert said(stdin="the cat") == said(stdin="the cat\n") == said(stdin="the cat\r\n\n") == plain
    Path("text").write_text("the cat\n")
    assert said("text") == said("--file", "text") == said("-f", "-", stdin="the cat") == plain
    assert said("-", stdin="the cat\n") == plain


def test_what_looks_like_a_missing_file_is_told(talker: Path) -> None:
    done = modpkg("run", "tiny", "article.txt")
    assert "no file article.txt" in done.stderr
    assert "no file" not in modpkg("run", "tiny", "the cat.").stderr
    assert "M7" not in modpkg("run", "tiny", "the cat " * 500).stderr  # too long to be a name
    assert "article.txt" in refused("run", "tiny", "--file", "article.txt", status=2)
    refused("run", "tiny", "a", "--file", "b", status=2)
    refused("run", "tiny", "a", "-i", status=2)
    assert "error[M706]" in refused("run", "tiny", "")
    assert "'nowhere'" in refused("run", "tiny", "the cat", "--device", "nowhere")
    assert "'int8'" in refused("run", "tiny", "the cat", "--device", "cpu", "--dtype", "int8")


def test_sampling_can_be_repeated_by_its_seed(talker: Path) -> None:
    first = modpkg_json("run", "tiny", "the cat", "--temperature", "2", "--top-p", "0.9")
    again = modpkg_json(
        "run", "tiny", "the cat", "--temperature=2", "--top-p=0.9", "--seed", str(first["seed"])
    )
    assert again == first
    greedy = modpkg_json("run", "tiny", "the cat", "--max-new-tokens", "2")
    assert "seed" not in greedy
    assert len(greedy["text"].split()) <= 2
    word = modpkg_json("run", "tiny", "the cat")["text"].split()[0]
    assert modpkg_json("run", "tiny", "the cat", "--stop", word)["text"] == ""


def test_values_out_of_bounds_are_usage(home: Path) -> None:
    for option, value in (
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--top-p", "nan"),
        ("--max-new-tokens", "10000000"),
        ("--stop", ""),
    ):
        assert option in refused("run", "tiny", "the cat", f"{option}={value}", status=2)


@pytest.mark.parametrize(("data", "named"), [(b"\x89PNG", "0x89"), (b"the\0cat", "NUL")])
def test_what_is_no_text_is_not_run(
    data: bytes, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(data)

    def warn(message: str) -> None:
        raise AssertionError(message)

    for text, source in ((str(file), None), (None, str(file)), ("-", None), (None, None)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with raises("M709", match=named):
            run._text(text, source, warn)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with raises("M709", match=named):
        run._piped_line()


def test_a_conversation_has_a_history(talker: Path) -> None:
    lines = said("-i", "--system", "on", stdin="the cat\n\nsat\n").splitlines()
    first = said("--system", "on", "the cat").strip()
    assert lines[0] == first
    messages = [
        {"role": "system", "content": "on"},
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "sat"},
    ]
    code = f"import modpkg; print(modpkg.run('tiny', {messages!r}).text)"
    assert forkserver.run("-c", code).stdout.strip() == lines[1]


def test_a_base_without_a_chat_template_has_no_system_message(home: Path, tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path / "tiny")
    tokenizer().save_pretrained(folder)
    tiny.publish(folder, home / "registry")
    modpkg("install", "tiny")
    assert "error[M709]" in refused("run", "tiny", "the cat", "--system", "x")
    assert json.loads(modpkg("run", "tiny", "the cat", "--json").stdout)["task"]
    assert len(WORDS) < tiny.VOCAB
