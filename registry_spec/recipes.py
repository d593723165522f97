"""Contents of compose.json, and a section of invalid.json: ``[compose]`` tables.

Normal forms and codes are written by hand, not computed; the tests compare the code with them.
"""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]

_STEP = '{ op = "lora", module = "one" }'


def _good(why: str, written: str, **normal: Any) -> Case:
    return {"why": why, "written": written, "normal": {"base": "m", **normal}}


def _bad(why: str, written: str) -> Case:
    return {"input": written, "code": "M110", "why": why}


COMPOSE: list[Case] = [
    _good(
        "defaults are left out",
        f'base = "M"\nmethod = "sum"\nsteps = [{_STEP}]',
        steps=[{"module": "one", "op": "lora"}],
    ),
    _good(
        "whole numbers are numbers, and a scale of 1 is the default",
        'base = "m"\nsteps = [{ op = "lora", module = "one", scale = 1 }, '
        '{ op = "lora", module = "two", scale = -2 }]',
        steps=[
            {"module": "one", "op": "lora"},
            {"module": "two", "op": "lora", "scale": -2.0},
        ],
    ),
    _good(
        "a method with parameters, and steps with their own",
        'base = "m"\nmethod = "ties-mergekit"\ndtype = "bfloat16"\n'
        "parameters = { normalize = true, density = 0.5 }\n"
        'steps = [{ op = "dense", module = "one", scale = 0.5, parameters = { density = 0.2 } }]',
        method="ties-mergekit",
        dtype="bfloat16",
        parameters={"density": 0.5, "normalize": True},
        steps=[{"module": "one", "op": "dense", "parameters": {"density": 0.2}, "scale": 0.5}],
    ),
    _good(
        "a gradient over the layers",
        'base = "m"\nsteps = [{ op = "lora", module = "one", scale = [0, 0.5, 1] }]',
        steps=[{"module": "one", "op": "lora", "scale": [0.0, 0.5, 1.0]}],
    ),
    _good(
        "filters, the last of which fits every tensor",
        'base = "m"\nmethod = "slerp"\n'
        'parameters = { t = [{ filter = "attn", value = [0, 1] }, { value = 0.5 }] }\n'
        'steps = [{ op = "dense", module = "one" }]',
        method="slerp",
        parameters={"t": [{"filter": "attn", "value": [0.0, 1.0]}, {"value": 0.5}]},
        steps=[{"module": "one", "op": "dense"}],
    ),
    _good(
        "layers of several models",
        'base = "m"\nmethod = "passthrough"\nlayers = [{ module = "m", range = [0, 4] }, '
        '{ module = "one", range = [2, 4], scale = 0.5, tensors = ["mlp."] }]',
        method="passthrough",
        layers=[
            {"module": "m", "range": [0, 4]},
            {"module": "one", "range": [2, 4], "scale": 0.5, "tensors": ["mlp."]},
        ],
    ),
]
"""A table of a model whose dependencies are m, one and two, and its normal form."""

BAD_COMPOSE: list[Case] = [
    _bad("no base", f"steps = [{_STEP}]"),
    _bad("a key that there is not", 'base = "m"\nstep = []'),
    _bad("the base is no dependency", 'base = "other"'),
    _bad("a step's module is no dependency", 'base = "m"\nsteps = [{ op = "x", module = "no" }]'),
    _bad("a step without an operator", 'base = "m"\nsteps = [{ module = "one" }]'),
    _bad("an operator is a word", 'base = "m"\nsteps = [{ op = "Lo RA", module = "one" }]'),
    _bad("a dtype that there is not", 'base = "m"\ndtype = "int8"'),
    _bad("infinity", 'base = "m"\nsteps = [{ op = "lora", module = "one", scale = inf }]'),
    _bad(
        "a scale is numbers", 'base = "m"\nsteps = [{ op = "lora", module = "one", scale = "a" }]'
    ),
    _bad("an empty gradient", 'base = "m"\nsteps = [{ op = "lora", module = "one", scale = [] }]'),
    _bad("a filter without a value", 'base = "m"\nparameters = { t = [{ filter = "a" }] }'),
    _bad("a parameter's name", 'base = "m"\nparameters = { "T-x" = 1 }'),
    _bad(
        "a range that ends before it begins",
        'base = "m"\nlayers = [{ module = "m", range = [4, 2] }]',
    ),
]
