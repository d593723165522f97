"""Random adapter configurations, composed by modpkg and judged by PEFT.

usage: python -m benchmarks.adapter_fuzz [--cases N] [--seed S]

Stops at the first wrong result and prints its case. The tests run a part of this.
"""

from __future__ import annotations

import argparse
import collections
import re
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.compose.adapter_fuzz import Case, cases, judge

PAGE = Path(__file__).parent / "results" / "adapter_fuzz.md"


def run(count: int, number: int) -> collections.Counter[tuple[str, str]]:
    """Judge that many cases; return the count of each outcome by class.

    Raises:
        AssertionError: A result is wrong.
    """
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def each(case: Case) -> None:
        try:
            outcome = judge(case)
        except Exception:
            print(f"wrong: {case}")
            raise
        outcomes[case.kind, outcome] += 1

    each()
    return outcomes


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=13)
    given_ = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    begun = time.perf_counter()
    outcomes = run(given_.cases, given_.seed)
    taken = time.perf_counter() - begun
    text = page(outcomes, given_.seed, taken)
    print(text)
    PAGE.write_text(text)


def page(outcomes: collections.Counter[tuple[str, str]], number: int, taken: float) -> str:
    """Return the result as Markdown."""
    kinds = sorted({kind for kind, _ in outcomes})
    total = sum(outcomes.values())
    lines = [
        "# Random adapter configurations",
        "",
        f"`python -m benchmarks.adapter_fuzz --cases {total} --seed {number}`, with PEFT "
        f"{version('peft')} and transformers {version('transformers')}: {total} cases in "
        f"{taken:.0f} s.",
        "",
        "PEFT saves an adapter of the configuration and loads it again; modpkg composes the same "
        "file. Equal: the outputs agree to within 5e-5 of their magnitude.",
        "",
        "| configuration | equal | modpkg refuses | PEFT refuses | wrong |",
        "|---|---:|---:|---:|---:|",
    ]
    sums = [0, 0, 0]
    for kind in kinds:
        row = [0, 0, 0]
        for (other, outcome), count in outcomes.items():
            if other == kind:
                row[0 if outcome == "equal" else 2 if outcome.startswith("PEFT") else 1] += count
        sums = [a + b for a, b in zip(sums, row, strict=True)]
        lines.append(f"| {kind} | {' | '.join(map(str, row))} | 0 |")
    lines.append(f"| all | {' | '.join(map(str, sums))} | 0 |")
    reasons: collections.Counter[str] = collections.Counter()
    for (_, outcome), count in outcomes.items():
        if outcome != "equal" and not outcome.startswith("PEFT"):
            reasons[_reason(outcome)] += count
    lines += ["", "Why modpkg refuses:", "", "| reason | cases |", "|---|---:|"]
    lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    return "\n".join(lines) + "\n"


def _reason(outcome: str) -> str:
    """Return an error's sentence without what differs from case to case."""
    text = re.sub(r"^M\d+: (?:.*? composed exactly: )?", "", outcome)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\d+(?:\.\d+)?", "…", text.partition(". ")[0])
    return text[:160].replace("|", "or")


if __name__ == "__main__":
    main()
