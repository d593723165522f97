"""Secrets that somebody types, or pipes in where there is no terminal."""

from __future__ import annotations

import sys

import click

from modpkg.core.errors import UsageError

_MOST = 10_000


def typed_password(what: str = "Password", *, new: bool = False) -> str:
    """Return a password: asked for without an echo, twice if it is ``new``, or the next line.

    Raises:
        UsageError: There is nothing on standard input.
    """
    if not sys.stdin.isatty():
        return next_line()
    answer: str = click.prompt(what, hide_input=True, confirmation_prompt=new, err=True)
    return answer


def next_line() -> str:
    """Return the next line of standard input.

    Raises:
        UsageError: There is nothing on it.
    """
    text = sys.stdin.readline(_MOST).strip("\r\n")
    if not text:
        raise UsageError("M901", message="There is nothing on standard input.")
    return text
