"""Reports: the same bytes for the same inputs, and which tests got worse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from modpkg.community.evaluate.report import (
    Report,
    Result,
    Subject,
    parse_report,
    read_report,
    report_bytes,
    within,
    worse,
)
from tests.raising import raises

SUM = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64


def result(value: float = 0.9, test: str = "t", **more: Any) -> Result:
    bounds = more.get("at_least"), more.get("at_most")
    told: dict[str, Any] = {
        "suite": "own",
        "digest": SUM,
        "metric": "accuracy",
        "better": "higher",
        "low": value,
        "high": value,
        "cases": 10,
        "passed": within(value, *bounds),
        "outcomes": SUM,
    }
    return Result(test=test, value=value, **(told | more))


def report(*results: Result) -> Report:
    return Report(
        subject=Subject("m", "1.0", "base"), composition=SUM, engine="1", results=list(results)
    )


numbers = st.floats(-1e6, 1e6)
bounds = st.one_of(st.none(), numbers)
results = st.builds(
    lambda value, name, least, most: result(value, name, at_least=least, at_most=most),
    numbers,
    st.text(max_size=5),
    bounds,
    bounds,
)


@given(st.lists(results, max_size=5, unique_by=lambda one: one.test))
def test_what_is_written_is_read_back(found: list[Result]) -> None:
    one = report(*found)
    assert parse_report(report_bytes(one), "r") == one
    assert report_bytes(parse_report(report_bytes(one), "r")) == report_bytes(one)
    assert worse(one, one) == []


@given(numbers, numbers, st.sampled_from(["higher", "lower"]), st.floats(0, 1e6))
def test_worse_is_a_loss_beyond_the_tolerance(
    old: float, new: float, better: Any, tolerance: float
) -> None:
    before = report(result(old, better=better, tolerance=tolerance))
    after = report(result(new, better=better, tolerance=tolerance))
    lost = old - new if better == "higher" else new - old
    if abs(lost - tolerance) > 1e-6:
        assert bool(worse(before, after)) == (lost > tolerance)


def test_a_test_that_fails_now_is_worse_whatever_it_tolerates() -> None:
    before = report(result(0.9, at_least=0.85, tolerance=1.0))
    [one] = worse(before, report(result(0.84, at_least=0.85, tolerance=1.0)))
    assert (one.before, one.after, one.reason) == (0.9, 0.84, "it passed, and fails now")
    # It failed already: that it fails is no news.
    assert worse(report(result(0.8, at_least=0.9)), report(result(0.8, at_least=0.9))) == []


def test_a_test_that_is_gone_or_is_another_hides_nothing() -> None:
    before = report(result(0.9, at_least=0.8), result(0.1, "failing", at_least=0.8))
    [one] = worse(before, report())
    assert (one.test, one.after) == ("t", None)
    easier = result(0.7, at_least=0.6, digest=OTHER)
    assert worse(report(before.results[0]), report(easier)) == []
    [one] = worse(report(before.results[0]), report(replace(easier, passed=False)))
    assert one.reason == "it passed, and it fails as it is defined now"


def test_between_two_bounds_nothing_is_lost() -> None:
    def of(value: float) -> Report:
        return report(result(value, at_least=0.4, at_most=0.6))

    assert worse(of(0.45), of(0.59)) == []
    assert worse(of(0.7), of(0.65)) == []
    assert worse(of(0.7), of(0.75))[0].reason.startswith("it lost 0.05,")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a sound report"),
        (b"{}", "missing required field"),
        (report_bytes(report(result(), result())), "test 't' is in it twice"),
        (
            report_bytes(report(result(0.1, at_least=0.5, passed=True))),
            "test 't' gave 0.1, and is said to have passed",
        ),
        (report_bytes(replace(report(), spec=9)), "it follows spec 9; update modpkg"),
        (report_bytes(report(result())).replace(b"0.9", b"NaN"), "not a sound report"),
        (report_bytes(replace(report(), composition="x")), "not a sound report"),
        (b"[" * 100_000, "not a sound report"),
    ],
)
def test_what_is_no_sound_report_is_refused(data: bytes, said: str) -> None:
    with raises("M710", match=said):
        parse_report(data, "report.json")


def test_a_file_that_is_not_there_is_no_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert read_report(path) is None
    path.write_bytes(report_bytes(report(result())))
    assert read_report(path) == report(result())
    with open(path, "ab") as file:
        file.truncate((16 << 20) + 1)
    with raises("M710", match="over 16 MiB"):
        read_report(path)
    assert not within(math.nan, 0.0, None)
