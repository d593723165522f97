"""How text is generated: greedily or by sampling, how much, and where it ends."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from modpkg.core.bounds import STOP_CHARACTERS, TASK_NEW_TOKENS, TASK_STOPS, TASK_TEMPERATURE
from modpkg.core.errors import RunError

MAX_NEW_TOKENS = 256
MOST_SEED = (1 << 63) - 1


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
        """Check the values, within the bounds of the command line and of manifests.

        Raises:
            RunError: One is out of them.
        """
        _check_whole("max_new_tokens", self.max_new_tokens, 1, TASK_NEW_TOKENS)
        _check_whole("seed", self.seed, 0, MOST_SEED)
        temperature, top_p = self.temperature, self.top_p
        if temperature is not None and not (
            _is_number(temperature, Real) and 0 <= temperature <= TASK_TEMPERATURE
        ):
            raise _refused(
                "temperature", temperature, f"has to be a number from 0 to {TASK_TEMPERATURE}"
            )
        if top_p is not None and not (_is_number(top_p, Real) and 0 < top_p <= 1):
            raise _refused("top_p", top_p, "has to be a number greater than 0, and at most 1")
        force_setattr(self, "stop", _stops(self.stop))


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if value is not None and not (_is_number(value, Integral) and least <= value <= most):
        raise _refused(name, value, f"has to be a whole number from {least} to {most}")


def _stops(given: object) -> tuple[str, ...]:
    """Return the texts to stop at, of which one may be given alone.

    Raises:
        RunError: They are no texts, too many or too long, or one is empty.
    """
    if given is None:
        return ()
    stop = (given,) if isinstance(given, str) else given
    texts = tuple(stop) if isinstance(stop, Iterable) else (stop,)
    if len(texts) > TASK_STOPS:
        raise _refused("stop", given, f"may have at most {TASK_STOPS} texts")
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= STOP_CHARACTERS:
            reason = f"has to be texts of 1 to {STOP_CHARACTERS} characters"
            raise _refused("stop", given, reason)
    return texts


def _refused(name: str, value: object, reason: str) -> RunError:
    return RunError("M709", choice=f"{name} = {value!r:.60}", reason=f"it {reason}")


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
