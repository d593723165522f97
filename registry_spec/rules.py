"""The rules that the conformance suite tries, and what came of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from modpkg.core.errors import ModpkgError
from modpkg.registry.source import FileMissing

Outcome = Literal["holds", "broken", "untested"]


class TriedRule(Struct, frozen=True):
    """A rule of the registry spec, and what trying it showed."""

    section: str
    """The page that states it, with the anchor of the section."""
    rule: str
    outcome: Outcome
    reason: str = ""
    """Why it is broken, or could not be tried."""

    def text(self) -> str:
        """Return the line that is printed."""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.outcome:8}  {self.section}: {self.rule}{reason}"


class RuleBroken(Exception):
    """The registry does not do what the rule says."""


class RuleUntested(Exception):
    """The rule cannot be tried here."""


class Rules:
    """The rules that were tried, in order."""

    def __init__(self) -> None:
        self.tried: list[TriedRule] = []

    @contextlib.contextmanager
    def rule(self, section: str, rule: str) -> Iterator[None]:
        """Try a rule: it is broken if the block raises an error, and holds if it ends."""
        outcome: Outcome = "holds"
        reason = ""
        try:
            yield
        except RuleUntested as error:
            outcome, reason = "untested", str(error)
        except RuleBroken as error:
            outcome, reason = "broken", str(error)
        except ModpkgError as error:
            outcome, reason = "broken", f"[{error.code}] {' '.join(str(error).split())}"
        except FileMissing as error:
            outcome, reason = "broken", f"{error} is missing"
        except OSError as error:
            outcome, reason = "broken", f"{type(error).__name__}: {error}"
        self.tried.append(TriedRule(section, rule, outcome, reason))

    @property
    def is_broken(self) -> bool:
        """Whether one of them is."""
        return any(tried.outcome == "broken" for tried in self.tried)


def require(truth: bool, otherwise: str) -> None:
    """Check what a rule says.

    Raises:
        RuleBroken: It is not so.
    """
    if not truth:
        raise RuleBroken(otherwise)
