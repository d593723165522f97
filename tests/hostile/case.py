"""One hostile input: how it is made, and the commands that meet it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from tests.hostile.world import World

Make = Callable[[World], AbstractContextManager[str] | None]
"""Changes the world; may return a server, which yields its address."""
Commands = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Input:
    """A hostile input. Each command runs if the one before succeeded."""

    kind: str
    name: str
    make: Make
    commands: Commands
    state: str = "new"
    """Whether talker is ``installed`` before, or the app is ``new``."""
    seconds: float = 60
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Bounds of `modpkg.core.bounds` that are lower here, so that nobody waits for them."""
    heavy: bool = False
    """Whether only the benchmark runs it."""


INSTALL: Commands = (("install", "evil"),)
RUN: Commands = (("install", "evil"), ("run", "evil", "a b"))
