"""The reader of the gguf package, made quick enough for the vocabulary of a real model.

transformers reads the metadata of a file three times (for the config, the weights and the
tokenizer), and asks gguf for the table of tensor names once per module of the model. Each time, the
answer is the same.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from modpkg.core.lazy_numpy import np


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Let gguf parse each file once, and make each table of tensor names once."""
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """A reader whose views of the file are plain arrays: those of a memmap cost more to make"""

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = mapped.view(np.ndarray)

    @functools.cache
    def parsed(path: str) -> Any:
        return Reader(path)

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = lambda path, *options: (
        Reader(path, *options) if options else parsed(os.fspath(path))
    )
    gguf.get_tensor_name_map = functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names
