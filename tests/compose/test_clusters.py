"""Composing on a Dask cluster of two processes: the same bytes as on threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.compose import clusters
from modpkg.compose.clusters import open_executor
from modpkg.compose.executor import compose
from tests.compose.hard_tensors import few_compositions
from tests.compose.helpers import adapter, base, planned
from tests.compose.test_executor import Q, digests
from tests.raising import raises


@pytest.mark.filterwarnings("ignore")  # distributed's own, about ports and sockets
def test_a_dask_cluster_composes_the_same_bytes(tmp_path: Path) -> None:
    import torch
    from distributed import LocalCluster

    compositions = few_compositions(tmp_path / "inputs")
    threads = digests(compositions, tmp_path / "threads", threads=2)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        with open_executor(address) as executor:
            assert digests(compositions, tmp_path / "dask", executor=executor) == threads
            model = base(tmp_path, {f"{Q}.weight": torch.ones(4, 6)})
            pair = (torch.full((2, 6), torch.nan), torch.ones(4, 2))
            broken = planned(model, adapter(tmp_path, "one", {Q: pair}))
            with raises("M605"):
                compose(broken, tmp_path / "dask", executor=executor)


@pytest.mark.parametrize("address", ["ray://x:1", "127.0.0.1:8786"])
def test_other_addresses_are_refused(address: str) -> None:
    with raises("M621", match="Dask scheduler"), open_executor(address):
        pass


@pytest.mark.filterwarnings("ignore")
def test_an_unreachable_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT_TIMEOUT", 0.5)
    with (
        raises("M621", match="cannot be reached"),
        open_executor("dask://x.invalid:1"),
    ):
        pass
