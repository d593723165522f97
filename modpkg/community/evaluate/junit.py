"""Reports as JUnit XML, which every CI system shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from modpkg.community.evaluate.report import Result
from modpkg.community.evaluate.test_runner import Tried

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(tried: Sequence[Tried]) -> str:
    """Return one ``testsuite`` for each report, and one ``testcase`` for each test of it."""
    suites = [_suite(one) for one in tried]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<testsuites>\n'
        + "".join(suites)
        + "</testsuites>\n"
    )


def _suite(one: Tried) -> str:
    report = one.report
    failures = sum(not result.passed for result in report.results)
    name = f"{report.subject.name} {report.subject.version}"
    lines = [
        f"  <testsuite name={_quoted(name)} tests={_quoted(str(len(report.results)))} "
        f'failures="{failures}" time="{sum(one.seconds):.3f}">'
    ]
    for result, seconds in zip(report.results, one.seconds, strict=True):
        case = (
            f"    <testcase classname={_quoted(result.suite)} name={_quoted(result.test)} "
            f'time="{seconds:.3f}"'
        )
        if result.passed:
            lines.append(f"{case}><system-out>{_text(told(result))}</system-out></testcase>")
        else:
            lines.append(f"{case}><failure message={_quoted(told(result))}/></testcase>")
    return "\n".join([*lines, "  </testsuite>"]) + "\n"


def told(result: Result) -> str:
    """Return a result for people: value, interval, what was asked for, and of how many cases."""
    asked = []
    if result.at_least is not None:
        asked.append(f"at least {result.at_least:g}")
    if result.at_most is not None:
        asked.append(f"at most {result.at_most:g}")
    wanted = f", {' and '.join(asked)}" if asked else ""
    return (
        f"{result.metric} {result.value:.4g} ({result.low:.4g} to {result.high:.4g}){wanted}, "
        f"{result.cases} case{'s' * (result.cases != 1)}"
    )


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _quoted(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))
