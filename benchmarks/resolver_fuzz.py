"""Random graphs through both steps of the resolver, two oracles and a checker.

usage: python -m benchmarks.resolver_fuzz [--graphs N] [--seed S]

Stops at the first disagreement and prints its graph. The tests run a part of this.
"""

from __future__ import annotations

import argparse
import collections
import random
import time

from tests.resolve.agree import compare
from tests.resolve.graphs import random_graph

SIZES = ((4, 3, 0.7), (5, 3, 0.8), (8, 2, 0.7), (4, 6, 0.9), (10, 5, 0.7), (25, 6, 0.5))
"""Names, versions and share of bounded requirements: small graphs for brute force, and larger."""


def run(graphs: int, seed: int) -> collections.Counter[str]:
    """Compare that many graphs; return the count of each kind."""
    kinds: collections.Counter[str] = collections.Counter()
    for number in range(graphs):
        names, versions, tightness = SIZES[number % len(SIZES)]
        rng = random.Random(f"{seed}/{number}")
        graph = random_graph(rng, names=names, versions=versions, tightness=tightness)
        try:
            kinds[compare(graph)] += 1
        except Exception:
            print(f"graph {number} of seed {seed}:\n{graph}")
            raise
    return kinds


def main() -> None:
    """Run and print the summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--graphs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    begun = time.perf_counter()
    kinds = run(given.graphs, given.seed)
    taken = time.perf_counter() - begun
    for kind, count in sorted(kinds.items()):
        print(f"{count:8d}  {kind}")
    print(f"{given.graphs:8d}  graphs in {taken:.0f} s: no wrong verdict, no invalid answer,")
    print("          no solution but the preferred one, no crash")


if __name__ == "__main__":
    main()
