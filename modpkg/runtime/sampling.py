"""How text is generated: greedily or by sampling, how much, and where it ends."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

MAX_NEW_TOKENS = 256


class Sampling(Struct, frozen=True, kw_only=True):
    """What a caller asks for; None leaves it to the task, then to ``generation_config.json``."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    """0 for the most probable text (greedy decoding)."""
    top_p: float | None = None
    seed: int | None = None
    """Of sampled text; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts at which generation ends, in place of the task's; one text may be given alone."""

    def __post_init__(self) -> None:
        stop: object = self.stop
        force_setattr(self, "stop", (stop,) if isinstance(stop, str) else tuple(self.stop))


GREEDY = Sampling(temperature=0.0)
"""The most probable text, which is reproducible."""


class TextGeneration(Struct, frozen=True, kw_only=True):
    """How text is generated, with nothing left open."""

    max_new_tokens: int | None
    """None: `MAX_NEW_TOKENS`, or half of the model's context if that is less."""
    seed: int | None
    """None for greedy decoding."""
    options: dict[str, Any]
    """For ``generate`` of transformers, besides the above."""
    stop: tuple[str, ...]


def generation_of(sampling: Sampling, task: Mapping[str, Any], config: Any) -> TextGeneration:
    """Return how text is generated: for a caller, a task and a model's generation config."""
    stop = sampling.stop or tuple(task.get("stop") or ())
    new = sampling.max_new_tokens or task.get("max_new_tokens")
    new = new or getattr(config, "max_new_tokens", None)
    temperature, top_p = (
        value if (value := getattr(sampling, key)) is not None else task.get(key)
        for key in ("temperature", "top_p")
    )
    asked = temperature is not None or top_p is not None
    if temperature == 0 or not (asked or getattr(config, "do_sample", None)):
        unused = dict.fromkeys(("temperature", "top_p", "top_k"))
        options = {"do_sample": False, **unused}
        return TextGeneration(max_new_tokens=new, seed=None, options=options, stop=stop)
    options = {"do_sample": True}
    if temperature is not None:
        options["temperature"] = float(temperature)
    if top_p is not None:
        options["top_p"] = float(top_p)
    seed = secrets.randbelow(1 << 32) if sampling.seed is None else sampling.seed
    return TextGeneration(max_new_tokens=new, seed=seed, options=options, stop=stop)


def cut(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first of some texts in it."""
    ends = [place for end in stop if (place := text.find(end)) >= 0]
    return text[: min(ends, default=len(text))]


class StopFilter:
    """Passes pieces of a text on, without those at which it ends, and without what follows."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self._ended = False

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Return what can be shown after another piece: what cannot be the begin of an end."""
        if self._ended:
            return ""
        text = self._held + piece
        shown = cut(text, self._stop)
        if len(shown) < len(text):
            self._ended = True
            return shown
        kept = 0 if last else self._beginning(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _beginning(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that begins a text to stop at."""
        most = max((len(end) - 1 for end in self._stop), default=0)
        for length in range(min(most, len(text)), 0, -1):
            if any(end.startswith(text[-length:]) for end in self._stop):
                return length
        return 0
