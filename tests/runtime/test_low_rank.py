"""Low-rank changes of all rows and of each row, against the same in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from modpkg.runtime.low_rank import FEW, Factors, RowStacks, as_peft, fused

WIDE, HIGH = 24, 20


def factors(seed: int, rank: int, scale: float, dtype: torch.dtype) -> Factors:
    random = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, WIDE, generator=random), torch.randn(HIGH, rank, generator=random)
    return Factors((a / WIDE**0.5).to(dtype), (b / rank**0.5).to(dtype), scale)


def exact(weight: torch.Tensor, x: torch.Tensor, changes: list[Factors]) -> torch.Tensor:
    total = x.double() @ weight.double().T
    for each in changes:
        total = total + x.double() @ each.a.double().T @ each.b.double().T * each.scale
    return total


F32, BF16 = torch.float32, torch.bfloat16
CHANGES = {
    "one": [(3, 1.0)],
    "one, scaled": [(4, 0.3)],
    "two": [(3, 0.5), (5, 0.5)],
    "two, scaled apart": [(3, 0.5), (5, -1.7)],
}


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize(("base", "own"), [(F32, F32), (BF16, F32), (BF16, BF16), (F32, BF16)])
def test_all_rows_and_each_row(changes: str, base: torch.dtype, own: torch.dtype) -> None:
    made = [factors(seed, *change, own) for seed, change in enumerate(CHANGES[changes])]
    weight = torch.randn(HIGH, WIDE, generator=torch.Generator().manual_seed(9)).to(base)
    other = [factors(7, 2, 2.0, own)]
    rows = [made, [], other, made]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, weight)

    x = torch.randn(8, 3, WIDE, generator=torch.Generator().manual_seed(5)).to(base)
    close = {"rtol": 1e-5, "atol": 1e-5} if base is F32 else {"rtol": 3e-2, "atol": 6e-2}
    for run in (as_peft(forward, made), fused(forward, made, base)):
        for given in (x, x[:, 0], x.transpose(0, 1), x.repeat(FEW // 8, 1, 1), x[:0]):
            out = run(given)
            assert out.dtype == base
            torch.testing.assert_close(out.double(), exact(weight, given, made), **close)
    seen: list[int] = []
    run = RowStacks().run(forward, rows, base, seen.append)
    assert run is not None
    for given in (x[:4], x, x.flatten(0, 1)):  # rows, beams, tokens
        out = run(given)
        own_rows = zip(given.chunk(4), out.chunk(4), rows, strict=True)
        for part, result, row in own_rows:
            torch.testing.assert_close(result.double(), exact(weight, part, row), **close)
    assert seen == [4, 8, 24]
    beside = rows[1:2] * 4
    beside[0] = made
    run = RowStacks().run(forward, beside, base, seen.append)
    assert run is not None
    assert torch.equal(run(x)[2:], forward(x)[2:])


def test_an_adapter_that_is_not_finite_is_its_rows_alone() -> None:
    weight, bad = torch.ones(HIGH, WIDE), factors(0, 2, 1.0, F32)
    bad.b[0, 0] = torch.inf
    run = RowStacks().run(lambda x: functional.linear(x, weight), [[bad], []], F32, lambda _: None)
    assert run is not None
    out = run(torch.ones(2, 1, WIDE))
    assert not out[0].isfinite().all()
    assert torch.equal(out[1], torch.full((1, HIGH), float(WIDE)))


def test_stacks_are_bounded() -> None:
    made = [[factors(0, 2, 1.0, F32)], []]
    size = 2 * 2 * (WIDE + HIGH) * 4
    stacks = RowStacks(most=2 * size + size // 2)
    found = [stacks.run(torch.nn.Identity(), made, F32, lambda _: None) for _ in range(3)]
    assert [run is None for run in found] == [False, False, True]
