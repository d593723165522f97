"""Loading and running a model asks for no address and opens no connection."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from modpkg.runtime.pipeline import open_pipeline
from tests.runtime.helpers import WORDS, bert, gpt2, install, llama

_seen: list[str] | None = None


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if _seen is not None and event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        _seen.append(f"{event} {args[1:]}")


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked for in a process that may ask hubs; a hook can't be taken away again."""
    global _seen
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    if _seen is None:
        sys.addaudithook(_heard)
    _seen = []
    yield _seen
    _seen = []


@pytest.mark.parametrize("make", [lambda: llama(vocab_size=len(WORDS)), gpt2, bert])
def test_no_socket_is_opened(sockets: list[str], tmp_path: Path, make: Callable[[], Any]) -> None:
    kind = "feature-extraction" if make is bert else "text-generation"
    task: dict[str, object] = {"kind": kind} | ({"max_new_tokens": 1} if make is not bert else {})
    home, packs = install(tmp_path / "m", make(), task=task)
    (home / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert open_pipeline(home, packs)("the cat sat") is not None
    assert sockets == []
