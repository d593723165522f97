"""Low-rank changes of a few inputs: what each way to compute them costs, by operation.

    python -m benchmarks.low_rank [--device cuda] [--rows 16] [--rank 16]

Random layers of Llama 3.2 1B's shapes, in bfloat16, with changes in float32 or bfloat16; needs no
files and no network. "Started" is what the processor needs to start a layer's operations, and
"done" is until the device has done them all; both are of one layer, the base's part excluded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.machine import described
from modpkg.runtime.low_rank import Change

LAYERS = {"q, k, v": (2048, 3072, 3), "o": (2048, 2048, 1), "gate, up": (2048, 16384, 2),
          "down": (8192, 2048, 1)}  # fmt: skip
"""Inputs, outputs and how many layers are computed together."""
_CALLS = 200


def timed(way: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Return the microseconds that one of many calls takes to start, and to be done."""

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(10):
        way()
    settle()
    begun = time.perf_counter()
    for _ in range(_CALLS):
        way()
    started = time.perf_counter()
    settle()
    done = time.perf_counter()
    return (started - begun) / _CALLS * 1e6, (done - begun) / _CALLS * 1e6


def table(device: torch.device, rows: int, rank: int) -> list[str]:
    """Return a row for each layer and way."""
    lines = ["| layers | change | way | started | done |", "|---|---|---|---|---|"]
    base = torch.bfloat16
    for name, (wide, high, count) in LAYERS.items():
        x = torch.randn(rows, wide, device=device).to(base)
        out = torch.randn(rows, high, device=device).to(base)
        a = torch.randn(count * rank, wide, device=device) / wide**0.5
        b = torch.randn(high, count * rank, device=device) / 50
        ways: dict[tuple[str, str], Callable[[], Any]] = {}
        for kind in (base, torch.float32):
            change = Change(a.to(kind).t(), b.to(kind).t(), 0.5, None)
            for way, few in (("matrix products", 0), ("row by row", rows)):
                if kind is not base or not few:
                    add = change.adder(base, few)
                    ways[str(kind).removeprefix("torch."), way] = partial(add, out, x)
        single, rows_of_x = x.float(), x.float().unsqueeze(1)
        ways["float32", "x A alone"] = partial(single.mm, a.t())
        ways["float32", "x A alone, row by row"] = partial(
            rows_of_x.bmm, a.t().expand(rows, -1, -1)
        )
        for (kind_name, way), call in ways.items():
            started, done = timed(call, device)
            lines.append(f"| {name} | {kind_name} | {way} | {started:.1f} µs | {done:.1f} µs |")
    return lines


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(f"{described()}; {gpu}; {options.rows} inputs, rank {options.rank}.\n")
    with torch.inference_mode():
        print("\n".join(table(device, options.rows, options.rank)))


if __name__ == "__main__":
    main()
