"""The executor: exact results, and no partial result that is trusted."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import modpkg.compose.executor as executor_module
import modpkg.compose.result_packs as result_packs_module
import modpkg.compose.rows as rows_module
from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.core.filenames import COMPOSED_RECORD, COMPOSED_WEIGHTS, composed_weights
from modpkg.core.verified import VerifiedFiles
from tests.compose.hard_tensors import few_compositions, plain_product
from tests.compose.helpers import adapter, base, planned, raw, values
from tests.raising import raises

Q, K = "model.layers.0.q", "model.layers.0.k"


def example(folder: Path, rows: int = 300, columns: int = 700) -> Composition:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    model = base(
        folder,
        {
            f"{Q}.weight": draw(rows, columns).bfloat16(),
            f"{K}.weight": draw(rows, columns).bfloat16(),
            "model.norm.weight": draw(rows).bfloat16(),
        },
    )
    pairs = {name: (draw(2, columns), draw(rows, 2)) for name in (Q, K)}
    return planned(model, adapter(folder, "one", pairs), scales=[0.3])


def test_the_sum_is_rounded_once(tmp_path: Path) -> None:
    composition = example(tmp_path)
    made = composition.computed[f"{Q}.weight"]
    got = values(compose(composition, tmp_path).tensors)[f"{Q}.weight"]
    part = values(made.terms[0].inputs)
    source = values({"s": made.source})["s"].double()
    exact = source + made.terms[0].weight * (part["b"].double() @ part["a"].double())
    # The nearest bfloat16, found by trying the neighbours.
    bits = got.view(torch.int16)
    for step in (-1, 1):
        other = (bits + step).view(torch.bfloat16).double()
        assert ((got.double() - exact).abs() <= (other - exact).abs()).all()


def test_the_result_is_a_safetensors_file_with_matching_digests(tmp_path: Path) -> None:
    composition = example(tmp_path)
    composed = compose(composition, tmp_path)
    loaded = load_file(composition.folder(tmp_path) / COMPOSED_WEIGHTS)
    assert loaded.keys() == composition.computed.keys()
    table = {}
    for name, ref in composed.tensors.items():
        assert ref.digest == "sha256:" + hashlib.sha256(raw(ref)).hexdigest()
        assert Path(ref.file).is_absolute()
        table[name] = [ref.dtype, list(ref.shape), ref.digest]
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    assert composed.result == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


Few = tuple[list[Composition], list[str]]


def digests(compositions: list[Composition], folder: Path, **options: Any) -> list[str]:
    return [compose(each, folder, **options).result for each in compositions]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Few:
    """Return hard tensors of every method, and the digests of their results on one thread."""
    folder = tmp_path_factory.mktemp("few")
    compositions = few_compositions(folder / "inputs")
    return compositions, digests(compositions, folder / "one", threads=1)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_byte(few: Few, tmp_path: Path, threads: int) -> None:
    compositions, one = few
    assert digests(compositions, tmp_path, threads=threads) == one
    first = compose(example(tmp_path), tmp_path / "first", threads=1)
    assert compose(example(tmp_path), tmp_path / "other", threads=threads).result == first.result


def test_torch_gives_the_bytes_of_numpy(few: Few, tmp_path: Path) -> None:
    compositions, one = few
    assert digests(compositions, tmp_path, device="cpu-torch") == one


@pytest.mark.parametrize("elements", [1, 700, 9999, 1 << 22])
def test_the_block_size_does_not_change_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    first = compose(example(tmp_path), tmp_path / "first")
    monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
    assert compose(example(tmp_path), tmp_path / "other").result == first.result


def test_a_process_pool_composes_the_same_bytes(few: Few, tmp_path: Path) -> None:
    import multiprocessing

    compositions, one = few
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert digests(compositions, tmp_path, executor=pool) == one


def test_a_result_in_the_store_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composition = example(tmp_path)
    done: list[tuple[int, int]] = []
    first = compose(composition, tmp_path, progress=lambda n, total: done.append((n, total)))
    assert done == [(1, 2), (2, 2)]
    monkeypatch.setattr(executor_module, "_compute", None)
    assert composition.bytes_to_write(tmp_path) == 0
    assert compose(composition, tmp_path) == first


@pytest.mark.parametrize("damage", ["record", "short", "other"])
def test_a_damaged_result_is_computed_again(tmp_path: Path, damage: str) -> None:
    composition = example(tmp_path)
    first = compose(composition, tmp_path)
    folder = composition.folder(tmp_path)
    if damage == "record":
        (folder / COMPOSED_RECORD).write_text("{")
    elif damage == "other":
        (folder / COMPOSED_RECORD).write_text(
            (folder / COMPOSED_RECORD).read_text().replace(composition.key, "x")
        )
    else:
        (folder / COMPOSED_WEIGHTS).chmod(0o644)
        with open(folder / COMPOSED_WEIGHTS, "r+b") as file:
            file.truncate(100)
    assert compose(composition, tmp_path) == first
    assert len(load_file(folder / COMPOSED_WEIGHTS)) == 2


def test_a_large_result_has_several_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composition = example(tmp_path)
    alone = compose(composition, tmp_path / "one")
    monkeypatch.setattr(result_packs_module, "PACK_BYTES", 1 << 17)
    packed = compose(composition, tmp_path / "two")
    assert packed.result == alone.result
    folder = composition.folder(tmp_path / "two")
    packs = [load_file(folder / composed_weights(number, 2)) for number in range(2)]
    assert [len(pack) for pack in packs] == [1, 1]
    assert {path.name for path in folder.iterdir()} == {
        *(COMPOSED_RECORD, composed_weights(0, 2), composed_weights(1, 2))
    }
    found, want = values(packed.tensors), values(alone.tensors)
    assert all(torch.equal(found[name], want[name]) for name in want)
    # A pack that is gone, and a result that was made while large ones had one pack.
    (folder / composed_weights(1, 2)).unlink()
    assert compose(composition, tmp_path / "two") == packed
    assert (folder / composed_weights(1, 2)).exists()
    assert compose(composition, tmp_path / "one") == alone


def test_packs_depend_on_the_tensors_alone() -> None:
    types = {f"t{number:02}": ("BF16", (1 << 10, 1 << number % 4)) for number in range(40)}
    packs = result_packs_module.result_packs(types, 3)
    turned = result_packs_module.result_packs(dict(reversed(types.items())), 3)
    assert packs == turned
    assert sorted(name for pack in packs for name in pack.places) == sorted(types)
    sizes = [pack.length for pack in packs]
    assert max(sizes) - min(sizes) <= 1 << 15
    assert len(result_packs_module.result_packs({"t": ("BF16", (1 << 20, 1 << 20))})) == 1
    assert len(result_packs_module.result_packs({})) == 1


def test_inputs_are_never_written_to(tmp_path: Path) -> None:
    composition = example(tmp_path)
    before = [raw(made.source) for made in composition.computed.values()]
    compose(composition, tmp_path)
    assert [raw(made.source) for made in composition.computed.values()] == before


def test_two_at_once_both_succeed(tmp_path: Path) -> None:
    composition = example(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(compose, composition, tmp_path) for _ in range(4)]
        assert len({job.result().result for job in jobs}) == 1
    assert sorted(path.name for path in composition.folder(tmp_path).iterdir()) == [
        COMPOSED_RECORD,
        COMPOSED_WEIGHTS,
    ]


_VICTIM = """
import os, signal, sys
from pathlib import Path
from modpkg.compose.executor import compose
from tests.compose.test_executor import example
def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)
compose(example(Path(sys.argv[1])), Path(sys.argv[2]), progress=die)
"""


def test_a_killed_composition_leaves_nothing_trusted(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _VICTIM, str(tmp_path / "victim"), str(tmp_path / "store")]
    killed = subprocess.run(
        command, cwd=root, check=False, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL
    composition = example(tmp_path)
    names = [path.name for path in composition.folder(tmp_path / "store").iterdir()]
    assert COMPOSED_RECORD not in names
    assert COMPOSED_WEIGHTS not in names
    whole = compose(composition, tmp_path / "other")
    assert compose(composition, tmp_path / "store").result == whole.result


def test_nan_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = base(tmp_path, {f"{Q}.weight": torch.ones(4, 6)})
    broken = adapter(tmp_path, "one", {Q: (torch.full((2, 6), torch.nan), torch.ones(4, 2))})
    composition = planned(model, broken)
    with raises("M605", match=Q):
        compose(composition, tmp_path)
    assert list(composition.folder(tmp_path).iterdir()) == []


def test_overflow_is_refused_but_infinities_of_the_base_are_kept(tmp_path: Path) -> None:
    with raises("M605"):
        compose(planned(base(tmp_path, {"w": torch.tensor([1e6])}), dtype="float16"), tmp_path)
    mask = base(tmp_path, {"w": torch.tensor([1.0, -torch.inf])})
    composed = compose(planned(mask, dtype="float16"), tmp_path)
    assert values(composed.tensors)["w"].tolist() == [1.0, -torch.inf]


def test_odd_shapes(tmp_path: Path) -> None:
    tensors = {
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.14159),
        "deep": torch.randn(2, 3, 4, 5),
        "double": torch.randn(7, dtype=torch.float64),
        "count": torch.tensor([1, 2]),
    }
    got = values(compose(planned(base(tmp_path, tensors), dtype="bfloat16"), tmp_path).tensors)
    for name, tensor in tensors.items():
        wanted = tensor if name == "count" else tensor.bfloat16()
        assert torch.equal(got[name], wanted), name
        assert got[name].shape == wanted.shape


def test_a_tensor_without_elements_has_no_blocks(tmp_path: Path) -> None:
    for shape in ((0, 3), (3, 0), (0,)):
        model = base(tmp_path, {"w": torch.zeros(shape)})
        rows = rows_module.RowReader(model.tensors["w"])
        assert list(rows.ranges()) == []
        rows.check("w")
        rows.close()


def test_torch_keeps_its_threads(tmp_path: Path) -> None:
    before, running = torch.get_num_threads(), {*threading.enumerate()}
    compose(example(tmp_path), tmp_path)
    assert torch.get_num_threads() == before
    assert {*threading.enumerate()} <= running


_ELSEWHERE = """
import pickle, sys
from pathlib import Path
from modpkg.compose.executor import compose
from tests.compose.hard_tensors import plain_product
print(plain_product())
for composition in pickle.loads(Path(sys.argv[1]).read_bytes()):
    print(compose(composition, Path(sys.argv[2])).result)
assert "torch" not in sys.modules
"""


def test_other_kernels_of_the_blas_give_the_same_bytes_without_torch(
    few: Few, tmp_path: Path
) -> None:
    """The products of the two differ in the last bits of float64; no result does, in any dtype."""
    compositions, one = few
    (tmp_path / "compositions").write_bytes(pickle.dumps(compositions))
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "compositions"), str(tmp_path / "store")],
        cwd=root,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root), "OPENBLAS_CORETYPE": "Prescott"},
        capture_output=True,
        text=True,
    )
    product, *results = ran.stdout.split()
    assert results == one
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    if platform.machine() == "x86_64" and "openblas" in blas:
        assert product != plain_product()


@pytest.mark.parametrize("number", [0, 1])
def test_damage_is_reported_before_its_consequences(tmp_path: Path, number: int) -> None:
    """Inputs are hashed as they are read: no result of damaged ones is kept."""
    composition = example(tmp_path)
    ref = composition.computed[f"{Q}.weight"].inputs()[number]
    with open(ref.file, "r+b") as file:
        file.seek(ref.offset + ref.length - ref.length // 8)
        file.write(b"\xff" * 8)  # NaN, in either dtype
    with raises("M508", match=Q):
        compose(composition, tmp_path)
    assert list(composition.folder(tmp_path).iterdir()) == []


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("touched", [True, False])
def test_only_files_unchanged_since_their_verification_are_trusted(
    tmp_path: Path, number: int, touched: bool
) -> None:
    composition = example(tmp_path)
    refs = composition.computed[f"{Q}.weight"].inputs()
    verified = VerifiedFiles()
    for ref in refs:
        verified.add(ref.file)
    ref, times = refs[number], Path(refs[number].file).stat().st_mtime_ns
    with open(ref.file, "r+b") as file:
        file.seek(ref.offset)
        file.write(bytes(2))
    os.utime(ref.file, ns=(times, times + 1 if touched else times))
    if touched:
        with raises("M508", match=Q):
            compose(composition, tmp_path, verified=verified)
    else:
        compose(composition, tmp_path, verified=verified)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, raises("M508", match=Q):
        compose(composition, tmp_path / "elsewhere", verified=verified, executor=pool)


def test_a_truncated_input_is_reported(tmp_path: Path) -> None:
    composition = example(tmp_path)
    ref = composition.computed[f"{Q}.weight"].source
    os.truncate(ref.file, ref.offset + ref.length // 2)
    with raises("M201", "M508"):
        compose(composition, tmp_path)
