"""Expecting an error by its code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modpkg.core.errors import ModpkgError
from modpkg.core.messages import MESSAGES


@contextmanager
def raises(
    *codes: str, match: str | re.Pattern[str] | None = None
) -> Iterator[pytest.ExceptionInfo[ModpkgError]]:
    """Expect a `ModpkgError` with one of these codes; ``match`` is searched in its sentence."""
    assert set(codes) <= MESSAGES.keys()  # a sentence is none
    with pytest.raises(ModpkgError, match=match) as caught:
        yield caught
    assert caught.value.code in codes
