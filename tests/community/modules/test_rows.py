"""A token without a row is reported when the adapter is built, and does not stop it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.community.modules.rows import _has_rows
from modpkg.core.records import Provenance, ReleaseRecord, TensorEntry
from tests import tiny
from tests.cli.test_everywhere import run


def write_tokenizer(folder: Path, **tokens: int) -> None:
    added = [{"id": number, "content": token} for token, number in tokens.items()]
    document = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(document))


@pytest.fixture
def adapter(home: Path, tmp_path: Path) -> Path:
    """A project of an adapter on a base with 32 rows, whose tokenizer has a token number 40."""
    base = tiny.write_base(tmp_path / "base")
    write_tokenizer(base, padding=40)
    tiny.publish(base, home / "registry")
    return tiny.write_adapter(tmp_path / "adapter")


def test_a_token_beyond_the_embedding_is_told(
    adapter: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tokenizer(adapter, known=31, beyond=33, later=34)
    status, _, err = run(capfd, "build", str(adapter))
    assert status == 0
    assert "'beyond'" in err
    assert "32 rows" in err
    assert "M616" in err


def test_tokens_with_rows_are_not(adapter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tokenizer(adapter, known=31)
    assert run(capfd, "build", str(adapter))[2] == ""
    write_tokenizer(adapter, known=31, padding=40)  # the base's tokenizer has it too
    assert run(capfd, "build", str(adapter))[2] == ""
    (adapter / "tokenizer.json").unlink()
    assert run(capfd, "build", str(adapter))[2] == ""


def record(name: str) -> ReleaseRecord:
    digest = "sha256:" + "0" * 64
    return ReleaseRecord(
        name="a",
        version="1",
        kind="adapter",
        license="MIT",
        manifest={},
        tensors={name: TensorEntry("F32", [40, 8], digest, digest, 0, 0)},
        provenance=Provenance(built_with=""),
    )


def test_an_embedding_of_its_own_has_the_rows() -> None:
    assert _has_rows(record("base_model.model.model.embed_tokens.weight"), 39)
    assert not _has_rows(record("base_model.model.model.embed_tokens.weight"), 40)
    assert not _has_rows(record("x.lora_B.weight"), 39)
