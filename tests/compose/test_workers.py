"""Processes that compose beside this one: the same bytes and errors, and none is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs

import modpkg.compose.executor as executor_module
from modpkg.compose import crew, memory, work
from modpkg.compose.executor import compose
from modpkg.compose.memory import process_count
from modpkg.compose.tensor import Job
from modpkg.compose.work import MakeTensors, can_be_sent
from modpkg.compose.workers import Workers
from modpkg.core.packs import PackTensor
from modpkg.core.system_processes import can_fork
from tests.compose.hard_tensors import few_compositions
from tests.compose.helpers import adapter, base, planned
from tests.compose.test_executor import Few, Q, digests, example
from tests.raising import raises

pytestmark = pytest.mark.skipif(not can_fork(), reason="only Linux has these processes")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Few:
    folder = tmp_path_factory.mktemp("few")
    compositions = few_compositions(folder / "inputs")
    return compositions, digests(compositions, folder / "one", threads=1)


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "process_count", lambda _, count: count)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide every tensor that can be divided, however small."""
    divided = work.parts_of
    monkeypatch.setattr(work, "parts_of", lambda job, _: divided(job, 0))
    monkeypatch.setattr(work, "SPLIT_BYTES", 0)
    monkeypatch.setattr(work, "BLOCK_ELEMENTS", 120)
    monkeypatch.setattr(work, "_PART_BYTES", 240)


def children(started: Workers) -> list[int]:
    """Return the processes' numbers; they exist once a task was done."""
    assert started._first is not None
    number = started._first.pid
    text = Path(f"/proc/{number}/task/{number}/children").read_text()
    return [int(each) for each in text.split()]


def example_by(started: Workers, folder: Path) -> list[Path]:
    """Compose the example, and return what is in the result's folder."""
    composition = example(folder, 30, 70)
    compose(composition, folder, workers=started, threads=2)
    return [*composition.folder(folder).iterdir()]


@pytest.mark.usefixtures("by_processes")
def test_processes_compose_the_same_bytes(few: Few, tmp_path: Path, workers: Workers) -> None:
    compositions, one = few
    assert digests(compositions, tmp_path, workers=workers, threads=2) == one
    assert len(children(workers)) == 2


@pytest.mark.usefixtures("by_processes", "in_parts")
def test_parts_of_tensors_make_the_same_bytes(
    few: Few, tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    compositions, one = few
    tasks: list[type] = []
    submit = crew.Crew._submit
    monkeypatch.setattr(
        crew.Crew,
        "_submit",
        lambda self, *task: (tasks.append(type(task[1])), submit(self, *task))[1],
    )
    assert digests(compositions, tmp_path / "processes", workers=workers, threads=2) == one
    assert tasks.count(work.MakePart) > 2 * tasks.count(MakeTensors) > 0
    monkeypatch.setattr(executor_module, "process_count", lambda *_: 0)
    assert digests(compositions, tmp_path / "threads", threads=2) == one


@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize("parts", [False, True])
def test_errors_are_those_of_threads(
    tmp_path: Path, workers: Workers, parts: bool, request: pytest.FixtureRequest
) -> None:
    if parts:
        request.getfixturevalue("in_parts")
    options: dict[str, Any] = {"workers": workers, "threads": 2}
    model = base(tmp_path, {f"{Q}.weight": torch.ones(40, 6).bfloat16()})
    pair = (torch.full((2, 6), torch.nan), torch.ones(40, 2))
    broken = planned(model, adapter(tmp_path, "one", {Q: pair}))
    with raises("M605", match=Q):
        compose(broken, tmp_path, **options)
    assert [*broken.folder(tmp_path).iterdir()] == []
    made = example(tmp_path / "example", 30, 70)
    ref = made.computed[f"{Q}.weight"].source
    with open(ref.file, "r+b") as file:
        file.seek(ref.offset + ref.length - ref.length // 8)
        file.write(b"\xff" * 8)  # NaN
    with raises("M508", match=Q):  # before its consequences
        compose(made, tmp_path, **options)
    os.truncate(ref.file, ref.offset + ref.length // 2)
    with raises("M201", "M508"):
        compose(made, tmp_path, **options)
    assert [*made.folder(tmp_path).iterdir()] == []


def job(folder: Path, file: str = "/dev/full") -> Job:
    """Return a job whose result has only another dtype than its source."""
    made = few_compositions(folder)[0]
    name, computed = next(iter(made.computed.items()))
    place = PackTensor(computed.dtype, computed.shape, 0, computed.length)
    return Job(model="model", name=name, computed=computed, file=file, place=place)


def test_a_full_disk_is_one_here_too(tmp_path: Path, workers: Workers) -> None:
    workers.start(2)
    with pytest.raises(OSError, match="No space left") as caught:
        workers.perform("model", MakeTensors((job(tmp_path),)))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError) as missing:
        workers.perform("model", MakeTensors((job(tmp_path, str(tmp_path / "no")),)))
    assert missing.value.filename == str(tmp_path / "no")


@pytest.mark.usefixtures("by_processes")
def test_a_killed_process_is_an_error_and_the_next_composition_has_new_ones(
    tmp_path: Path, workers: Workers
) -> None:
    example_by(workers, tmp_path / "first")
    before = children(workers)
    for number in before:
        os.kill(number, signal.SIGKILL)
    made = example(tmp_path / "second", 30, 70)
    with raises("M880", match="signal 9 ended it"):
        compose(made, tmp_path, workers=workers, threads=2)
    assert [*made.folder(tmp_path).iterdir()] == []
    assert len(example_by(workers, tmp_path / "third")) == 2
    assert not {*before} & {*children(workers)}


@pytest.mark.usefixtures("by_processes")
def test_an_interruption_ends_them(tmp_path: Path, workers: Workers) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    made = example(tmp_path, 30, 70)
    with pytest.raises(KeyboardInterrupt):
        compose(made, tmp_path, workers=workers, threads=2, progress=interrupt)
    assert [*made.folder(tmp_path).iterdir()] == []
    assert workers._first is None


_PARENT = """
import time
from pathlib import Path
from modpkg.compose.workers import Workers
workers = Workers()
workers.start(2)
number = workers._first.pid
children = Path(f"/proc/{number}/task/{number}/children")
while len(children.read_text().split()) < 2:
    time.sleep(0.01)
print(number, children.read_text(), flush=True)
time.sleep(60)
"""


def test_none_outlives_the_process_that_started_it() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        numbers = [int(each) for each in parent.stdout.readline().split()]
        parent.kill()
    assert len(numbers) == 3
    deadline = time.monotonic() + 120
    while (left := [each for each in numbers if _runs(each)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def _runs(number: int) -> bool:
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_what_cannot_be_told_is_computed_by_threads(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path)
    assert can_be_sent([one, structs.replace(one, measured=[float("inf"), -0.0, None])])
    for measured in ((1, 2), np.zeros(2), {1, 2}, 1 << 70):
        assert not can_be_sent([structs.replace(one, measured=measured)])
    monkeypatch.setattr(executor_module, "process_count", lambda _, count: count)
    monkeypatch.setattr(work, "can_be_sent", lambda _: False)
    monkeypatch.setattr(Workers, "start", lambda *_: True)
    monkeypatch.setattr(Workers, "perform", None)
    assert len(example_by(workers, tmp_path)) == 2


def test_large_work_on_many_cores_is_done_by_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = example(tmp_path)
    assert process_count(made, 16) == 0
    alone = memory.peak_bytes(made, 16)
    monkeypatch.setattr(memory, "PROCESS_OUTPUT", made.bytes_to_write(tmp_path) - 1000)
    assert [process_count(made, cores) for cores in (1, 2, 4, 16)] == [0, 2, 4, 16]
    assert memory.peak_bytes(made, 16) == alone + 16 * memory.PROCESS_BYTES
    monkeypatch.setattr(memory, "machine_memory", lambda: 1 << 30)
    assert process_count(made, 16) == 0
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    monkeypatch.setattr(memory, "needs_torch", lambda _: True)
    assert process_count(made, 16) == 0


def test_methods_that_measure_tensors_use_processes_sooner(
    few: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed, across = few[0]
    measured = ("ties-mergekit", "ties-peft", "breadcrumbs", "breadcrumbs-ties", "ramplus-tl")
    length = sum(each.length for each in mixed.computed.values() if each.reducer in measured)
    monkeypatch.setattr(memory, "MEASURING_OUTPUT", length)
    assert [process_count(mixed, cores) for cores in (1, 2, 3)] == [0, 2, 3]
    monkeypatch.setattr(memory, "MEASURING_OUTPUT", length + 1)
    assert process_count(mixed, 3) == 0
    monkeypatch.setattr(memory, "MEASURING_OUTPUT", 1)
    assert process_count(across, 3) == 0
