"""What running a task gives; without torch, so that its shape can be seen quickly."""

from __future__ import annotations

from msgspec import Struct


class TaskResult(Struct, frozen=True, omit_defaults=True):
    """The result of a task. One of ``text``, ``labels`` and ``embedding`` is set."""

    task: str
    text: str | None = None
    """The generated text."""
    labels: list[tuple[str, float]] | None = None
    """Labels with their probabilities, most probable first."""
    embedding: list[float] | None = None
    """The text's embedding."""
    seed: int | None = None
    """What repeats a text that was sampled; None if it was not."""
