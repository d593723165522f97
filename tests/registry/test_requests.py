"""Pools whose work waits for requests, in threads that stay."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest

from modpkg.registry import requests
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.registry.requests import Abandoned, RequestPool, wait_for


def test_so_much_is_done_at_a_time() -> None:
    together = threading.Barrier(3)
    pool = RequestPool(3)
    running = [pool.submit(together.wait, 300) for _ in range(6)]
    assert sorted(future.result(300) for future in running) == [0, 0, 1, 1, 2, 2]
    pool.shutdown()


def test_work_makes_pools_of_its_own() -> None:
    def below(depth: int) -> int:
        if depth == 0:
            return wait_for(lambda: 1)
        with fetch_pool() as pool:
            return sum(pool.map(below, [depth - 1] * 3))

    with fetch_pool() as pool:
        assert [*pool.map(below, [3] * 4)] == [27] * 4


def test_threads_stay_for_the_next_pool() -> None:
    def all_at_once() -> None:
        together = threading.Barrier(5)
        with fetch_pool() as pool:
            for _ in range(5):
                pool.submit(together.wait, 300)

    all_at_once()
    with fetch_pool() as pool:  # by now all of them wait for work, or soon do
        pool.submit(int)
    started = requests._threads.started
    for _ in range(10):
        with fetch_pool() as pool:
            pool.submit(int).result(300)
    assert requests._threads.started <= started + 1


def test_an_error_is_that_of_the_work_alone() -> None:
    with fetch_pool() as pool:
        failed = pool.submit(int, "x")
        assert pool.submit(int, "7").result(300) == 7
        with pytest.raises(ValueError, match="x"):
            failed.result(300)


def test_after_an_error_nothing_more_is_begun() -> None:
    begun, go_on = threading.Event(), threading.Event()
    pool = RequestPool(1)

    def work() -> None:
        begun.set()
        go_on.wait(300)

    running, waiting = pool.submit(work), pool.submit(int)
    assert begun.wait(300)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(300)
    with pytest.raises(RuntimeError):
        pool.submit(int)
    go_on.set()
    pool.shutdown()
    assert running.done()


def test_an_interruption_waits_for_no_request() -> None:
    never = threading.Event()
    asking = threading.Event()

    def ask() -> None:
        asking.set()
        never.wait(300)

    found: list[Future[None]] = []

    def interrupted() -> None:
        with fetch_pool() as pool:
            found.append(pool.submit(wait_for, ask))
            assert asking.wait(300)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(Abandoned):
        found[0].result(300)
    never.set()
