"""Recipes are checked by what methods and operators declare, before their modules are known."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from modpkg.compose.operators import Effects, Operator
from modpkg.compose.parameter import Parameter
from modpkg.compose.recipe_settings import check_settings
from modpkg.compose.reducers import REDUCERS, reducer
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Filtered, Layers, Setting, Step
from tests.raising import raises


def step(op: str = "dense", scale: Setting = 1.0, **parameters: Setting) -> Step:
    return Step(op=op, module=ModuleName("m"), scale=scale, parameters=parameters)


def check(method: str, *steps: Step, layers: tuple[Layers, ...] = (), **parameters: Any) -> None:
    base = ModuleName("b")
    recipe = Compose(base=base, method=method, steps=steps, layers=layers, parameters=parameters)
    check_settings("model", recipe)


def run(*steps: Step, method: str | None = None, **parameters: Setting) -> Layers:
    return Layers(
        module=ModuleName("b"), range=(0, 1), steps=steps, method=method, parameters=parameters
    )


class Depth:
    """A plug-in: an operator whose steps have a depth."""

    declared = Operator(
        name="deep",
        bind=lambda context: Effects(),
        parameters={"depth": Parameter(type=int, least=1)},
    )
    free = Operator(name="free", bind=lambda context: Effects())


@reducer("halfway", step={"share": 0.5}, bounds={"share": (0, 1)}, choices={"how": ("up", "down")})
def halfway(base: Any, contributions: Any, *, how: str, times: int = 2) -> Any:
    """A plug-in with a required text."""
    return base


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins, as an installed package would name them."""
    points = [
        EntryPoint("deep", f"{__name__}:Depth.declared", "modpkg.operators"),
        EntryPoint("free", f"{__name__}:Depth.free", "modpkg.operators"),
        EntryPoint("halfway", f"{__name__}:halfway", "modpkg.reducers"),
    ]
    found = EntryPoints(points)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **by: found.select(**by))


def test_every_method_takes_its_defaults() -> None:
    given = {"slerp": {"t": 0.5}, "nearswap": {"t": 0.1}}
    for name, method in REDUCERS.items():
        least, most = method.steps
        count = most if most is not None else max(least, 2)
        check(name, *[step()] * count, **given.get(name, {}))


def test_plug_ins_are_checked_by_what_they_declare(installed: None) -> None:
    check("sum", step("deep", depth=3.0), step("free", anything="x"))
    with raises("M601", match="'depth' is 0, but must be at least 1"):
        check("sum", step("deep", depth=0.0))
    with raises("M601", match="no parameter 'dept'; it has depth, on"):
        check("sum", step("deep", dept=1.0))
    check("halfway", step(share=0.5), how="up", times=3.0)
    with raises("M601", match="needs the parameter 'how'"):
        check("halfway", step())
    with raises("M601", match="'how' is 'sideways', but must be 'up' or 'down'"):
        check("halfway", step(), how="sideways")
    with raises("M601", match="'share' is 2.0, but must be 0 to 1"):
        check("halfway", step(share=2.0), how="up")
    with raises("M601", match="'times' is 1.5, but must be an integer"):
        check("halfway", step(), how="up", times=1.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.2, 7.0), "is 7.0"),
        ((Filtered(0.2, "mlp"), Filtered((0.1, 1.5))), "is 1.5"),
        ((Filtered("x", "nothing has this name"), Filtered(0.2)), "is 'x'"),
        (True, "is True"),
    ],
)
def test_every_value_of_a_setting_is_checked(given: Setting, message: str) -> None:
    with raises("M601", match=f"'density' {message}"):
        check("ties", step(), density=given)
    with raises("M601", match=f"'density' {message}"):
        check("ties", step(density=given))


def test_weights_and_settings_go_together() -> None:
    check("nuslerp", step(scale=0.0), step())
    check("della", step(density=0.5, epsilon=0.2), step(density=1.0))
    with raises("M601", match=r"density ± epsilon is 0\.9 ± 0\.15, but must be more than 0"):
        check("della", step(density=0.9))
    with raises("M601", match="is 0"):
        check("linear", step(scale=0.5), step(scale=-0.5), base_weight=0.0)
    check("linear", step(scale=0.5), step(scale=-0.5), base_weight=0.0, normalize=False)
    check("linear", step(scale=(0.5, 1.0)), step(scale=-0.5), base_weight=0.0)  # by layer: planned
    with raises("M601", match="takes two steps"):
        check("nuslerp", step())


def test_runs_of_layers_are_recipes_of_their_own() -> None:
    check("slerp", layers=(run(step(), t=0.3), run(step(), method="mean")))
    check("slerp", layers=(run(step()),), t=0.3)
    with raises("M601", match="needs the parameter 't'"):
        check("slerp", layers=(run(step()),))
    with raises("M620", match="nope"):
        check("sum", layers=(run(step(), method="nope"),))
    with raises("M601", match="no parameter 'x'"):
        check("sum", layers=(run(step(x=1.0)),))
    with raises("M601", match="'nuslerp' takes 1 to 2 steps"):
        check("slerp", layers=(run(step(), step(), t=0.3),))
