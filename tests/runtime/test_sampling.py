"""How text is generated: what a caller, the task and the generation config say."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.runtime.sampling import GREEDY, Sampling, StopFilter, cut, generation_of
from tests.raising import raises


def config(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_nothing_that_asks_for_sampling_is_greedy() -> None:
    how = generation_of(Sampling(), {}, config(temperature=0.7))
    assert (how.seed, how.options["do_sample"], how.max_new_tokens) == (None, False, None)


def test_the_generation_config_may_ask_for_it() -> None:
    how = generation_of(Sampling(seed=3), {}, config(do_sample=True, max_new_tokens=9))
    assert (how.seed, how.options, how.max_new_tokens) == (3, {"do_sample": True}, 9)
    assert generation_of(GREEDY, {}, config(do_sample=True)).seed is None


def test_the_task_comes_before_it_and_the_caller_before_both() -> None:
    task = {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7, "stop": ["a"]}
    how = generation_of(Sampling(), task, config(do_sample=True, max_new_tokens=9))
    assert how.options == {"do_sample": True, "temperature": 0.5, "top_p": 0.9}
    assert (how.max_new_tokens, how.stop) == (7, ("a",))
    asked = Sampling(temperature=1.5, max_new_tokens=2, stop=("b", "c"), seed=0)
    how = generation_of(asked, task, config())
    assert how.options == {"do_sample": True, "temperature": 1.5, "top_p": 0.9}
    assert (how.max_new_tokens, how.stop, how.seed) == (2, ("b", "c"), 0)


def test_a_seed_is_drawn_where_none_is_given() -> None:
    seeds = {generation_of(Sampling(top_p=0.5), {}, config()).seed for _ in range(5)}
    assert len(seeds) == 5
    assert None not in seeds


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_new_tokens", [0, 1.5, -5, True, 10**7, "3"]),
        ("temperature", ["a", -1, math.nan, math.inf, 101]),
        ("top_p", [2, -3, 0, math.nan, "a"]),
        ("seed", [-1, 2**70, 1.0]),
        ("stop", ["", [""], ["a", 5], 5, ["a"] * 17, "a" * 101]),
    ],
)
def test_values_are_bounded_as_on_the_command_line(name: str, values: list[Any]) -> None:
    for value in values:
        with raises("M709", match=name):
            Sampling(**{name: value})


def test_values_at_the_bounds_are_fine_and_one_stop_is_a_text() -> None:
    Sampling(max_new_tokens=1, temperature=0, top_p=1, seed=0)
    Sampling(max_new_tokens=10**6, temperature=100.0, top_p=1e-9, seed=2**63 - 1)
    given: Any = "tomorrow"
    assert Sampling(stop=given).stop == ("tomorrow",)
    given = ["a", "\n"]
    assert Sampling(stop=given).stop == ("a", "\n")
    given = None
    assert Sampling(stop=given).stop == ()


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("abc", ("c",), "ab"),
        ("abc", ("bc", "ab"), ""),
        ("abc", (), "abc"),
        ("a\n\nb", ("\n\n",), "a"),
    ],
)
def test_a_text_ends_before_the_first_stop(text: str, stop: tuple[str, ...], left: str) -> None:
    assert cut(text, stop) == left


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_pieces_make_the_same_text_as_the_whole(text: str, stop: list[str]) -> None:
    shown = StopFilter(stop)
    pieces = [shown.feed(piece) for piece in text] + [shown.feed("", last=True)]
    assert "".join(pieces) == cut(text, stop)


def test_what_may_begin_a_stop_is_held_back() -> None:
    shown = StopFilter(("</s>",))
    assert [shown.feed("x<"), shown.feed("/"), shown.feed("b")] == ["x", "", "</b"]
    assert [shown.feed("</s"), shown.feed("> more"), shown.feed("y")] == ["", "", ""]
