"""Numbers from a seed are those that torch draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modpkg.adapters.torch_random import beginning_of_permutation, normal, permutes


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", [0, 1, 777, 2**31, 2**32 - 1, 2**32 + 5, 2**62 + 3])
@pytest.mark.parametrize(("count", "first"), [(1, 1), (2, 2), (60, 60), (5000, 20), (70_000, 999)])
def test_permutations(seed: int, count: int, first: int) -> None:
    wanted = torch.randperm(count, generator=generator(seed))[:first]
    assert beginning_of_permutation(seed, count, first).tolist() == wanted.tolist()


def test_a_permutation_that_torch_makes_in_another_way_is_not_known() -> None:
    large = (2**32 - 1) // 20
    assert [permutes(count) for count in (0, 1, large - 1, large)] == [False, True, True, False]


@pytest.mark.parametrize("seed", [0, 42, 2**32 + 7])
@pytest.mark.parametrize("count", [1, 2, 7, 15, 16, 17, 31, 32, 48, 1000])
def test_normal_numbers(seed: int, count: int) -> None:
    wanted = torch.normal(mean=0.0, std=0.5, size=(count,), generator=generator(seed))
    np.testing.assert_allclose(normal(seed, count, 0.5), wanted.numpy(), rtol=1e-4, atol=1e-5)
