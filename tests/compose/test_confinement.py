"""While a model is read, transformers runs no code of its author and asks no hub."""

from __future__ import annotations

import builtins
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers
from transformers import dynamic_module_utils
from transformers.integrations import hub_kernels

from modpkg.compose.confinement import confined


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that may ask hubs."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return  # type: ignore[return-value]


def with_code(folder: Path) -> Path:
    """Write a tokenizer and a model that ask for code beside them, which would leave a mark."""
    code = f"open({str(folder / 'ran')!r}, 'w').close()\n"
    (folder / "evil.py").write_text(code + "class T: pass\nclass C: pass\n")
    auto = {"AutoTokenizer": ["evil.T", None], "AutoConfig": "evil.C", "AutoModel": "evil.T"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto}))
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto}))
    return folder


def test_code_is_neither_run_nor_asked_about(
    tmp_path: Path, online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_code(tmp_path)

    def asked(question: str = "") -> str:
        raise AssertionError(f"the terminal was asked: {question}")

    monkeypatch.setattr(builtins, "input", asked)
    for read in (transformers.AutoConfig, transformers.AutoTokenizer, transformers.AutoModel):
        for trust in (None, True):
            with confined(), pytest.raises(ValueError, match="code"):
                read.from_pretrained(folder, trust_remote_code=trust)  # type: ignore[attr-defined]
    assert not (folder / "ran").exists()


def test_no_kernel_is_fetched(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with confined():
        with pytest.raises(ValueError, match="code"):
            hub_kernels.get_kernel("someone/kernel")
        assert hub_kernels.lazy_load_kernel("causal-conv1d") is None


def test_no_hub_is_asked(online: None) -> None:
    assert not huggingface_hub.constants.is_offline_mode()
    with confined():
        assert huggingface_hub.constants.is_offline_mode()
        with pytest.raises(huggingface_hub.errors.OfflineModeIsEnabled):
            huggingface_hub.HfApi(endpoint="http://127.0.0.1:9").model_info("a/b")
    assert not huggingface_hub.constants.is_offline_mode()


def test_no_address_is_asked(online: None) -> None:
    with confined():
        with pytest.raises(OSError, match="without a network"):
            socket.create_connection(("127.0.0.1", 9))
        with pytest.raises(OSError, match="without a network"):
            socket.getaddrinfo("localhost", 80)
    assert socket.getaddrinfo("127.0.0.1", 80)


def test_what_others_do_in_this_process_is_left_alone(online: None) -> None:
    seen: list[Any] = []
    resolve = dynamic_module_utils.resolve_trust_remote_code

    def other() -> None:
        seen.append(resolve(True, "a/b", has_local_code=False, has_remote_code=True))
        seen.append(huggingface_hub.constants.is_offline_mode())

    with confined():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert seen == [True, False] * 2
