"""Tensors that unpack from next to nothing are refused before any disk is taken."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from modpkg.core.records import TensorEntry
from modpkg.manifest.config import Settings
from modpkg.manifest.limits import DEFAULTS
from modpkg.release.unpacking import unbacked
from modpkg.store.store import Store
from tests.changing import here_and_there, numbers, publish_to, record_of
from tests.raising import raises
from tests.transfer.helpers import fetch, partial, plan_of


def settings(unpacked: int) -> Settings:
    return Settings(limits={**DEFAULTS, "unpacked": unpacked})


def test_a_tensor_that_unpacks_from_nothing_is_refused(tmp_path: Path) -> None:
    registry, store = tmp_path / "registry", Store(tmp_path / "store")
    publish_to(registry, numbers("w", count=1_000_000))
    fetched = {"w": np.zeros(1_000_000, "<u2")}
    line = publish_to(registry, fetched, version="2.0")
    assert record_of(registry, line).tensors["w"].encoding is not None
    with raises("M328", match="1.0 MB of tensors that unpack from next to nothing .*'w' of m 2.0"):
        plan_of(store, str(registry), line, settings=settings(1_000_000))
    assert partial(store) == []
    fetch(store, str(registry), line, settings=settings(2_000_000))


def test_changes_of_what_is_here_are_fetched(tmp_path: Path) -> None:
    registry, store = tmp_path / "registry", Store(tmp_path / "store")
    old = numbers("a", "b", count=100_000)
    fetch(store, str(registry), publish_to(registry, old))
    new = publish_to(registry, here_and_there(here_and_there(old, "a"), "b"), version="2.0")
    fetch(store, str(registry), new, settings=settings(1))


def entry(digest: str, size: int, **fields: object) -> TensorEntry:
    data = {
        "dtype": "U8",
        "shape": [size],
        "digest": f"sha256:{digest:0>64}",
        "pack": f"sha256:{0:064}",
        "offset": 0,
        "length": size,
        **fields,
    }
    return msgspec.convert(data, TensorEntry)


def test_what_is_backed() -> None:
    sparse = {"method": "sparse", "base": f"sha256:{1:064}"}
    first, second = (entry(d, 1000, length=10, encoding=sparse) for d in "ab")
    assert unbacked([first, second]) == {second.digest: 1000 - 160}
    honest = entry("c", 1000, length=400, encoding={"method": "planes"})
    assert unbacked([honest, entry("d", 50), entry("e", 50, offset=50)]) == {}
    overlapping = [entry("f", 50), entry("0", 50, offset=1)]
    assert unbacked(overlapping).total() == 49
