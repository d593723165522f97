"""Reading a GGUF file once gives what gguf's own reader gives each time."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from modpkg.interop.gguf import import_gguf
from modpkg.interop.gguf_reader import read_once
from tests.interop.gguf_files import model_of, write_model

pytestmark = pytest.mark.filterwarnings("ignore")


def test_an_import_parses_the_metadata_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "model.gguf", model_of("llama"), "llama")
    parsed = []
    build = gguf.GGUFReader._build_fields

    def counted(self: gguf.GGUFReader, *arguments: int) -> int:
        parsed.append(self)
        return build(self, *arguments)

    monkeypatch.setattr(gguf.GGUFReader, "_build_fields", counted)
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    import_gguf(path, tmp_path / "out", "g", "1.0.0", license="MIT")
    assert len(parsed) == 1
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_what_is_read_is_the_same(tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "model.gguf", model_of("llama"), "llama"))
    theirs = gguf.GGUFReader(path)
    with read_once():
        ours = gguf.GGUFReader(path)
        assert gguf.GGUFReader(path) is ours
    assert list(ours.fields) == list(theirs.fields)
    for name, field in ours.fields.items():
        assert field.contents() == theirs.fields[name].contents()
    for our, their in zip(ours.tensors, theirs.tensors, strict=True):
        assert (our.name, our.tensor_type) == (their.name, their.tensor_type)
        np.testing.assert_array_equal(our.data, their.data)
