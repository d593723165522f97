"""Models assembled from layers of several models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.layers import positions
from modpkg.compose.plan import plan
from modpkg.core.names import ModuleName
from modpkg.core.tied_by_default import FORCED, TIED
from modpkg.manifest.schema import Compose, Filtered, Layers, Step
from tests.compose.helpers import module, values
from tests.raising import raises


def stacked(folder: Path, *runs: Layers, method: str = "passthrough", **config: Any) -> Composition:
    modules = {}
    for number, name in enumerate("ab"):
        tensors = {f"model.layers.{k}.w": torch.full((2,), 10.0 * number + k) for k in range(3)}
        tensors |= {"model.norm.weight": torch.full((2,), number + 0.5)}
        own = {"num_hidden_layers": 3, "layer_types": [f"{name}{k}" for k in range(3)], **config}
        modules[name] = module(folder, name, "base", tensors, config=own)
    return plan("m", "1", Compose(base=ModuleName("a"), method=method, layers=runs), modules)


def run(name: str, first: int, stop: int, **more: Any) -> Layers:
    return Layers(module=ModuleName(name), range=(first, stop), **more)


def test_layers_are_taken_and_renumbered(tmp_path: Path) -> None:
    runs = run("a", 0, 2), run("b", 0, 3, scale=0.5, tensors=("model.norm.",))
    composition = stacked(tmp_path, *runs)
    got = values(compose(composition, tmp_path).tensors)
    found = [float(got[f"model.layers.{k}.w"][0]) for k in range(5)]
    assert found == [0.0, 1.0, 5.0, 5.5, 6.0]
    assert got["model.norm.weight"].tolist() == [1.5, 1.5]
    assert composition.config["num_hidden_layers"] == 5
    assert composition.config["layer_types"] == ["a0", "a1", "b0", "b1", "b2"]


def test_runs_that_cannot_be_assembled(tmp_path: Path) -> None:
    for runs, message in (
        ([run("b", 2, 4)], "b has no layer 3"),
        ([run("b", 0, 1, tensors=("lm_head.",))], "no tensor 'lm_head.' outside"),
    ):
        with raises("M601", match=message):
            stacked(tmp_path, *runs)
    with raises("M601", match="does not state the number of layers"):
        stacked(tmp_path, run("b", 0, 1), num_hidden_layers=None)
    with raises("M601", match='method = "passthrough"'):
        stacked(tmp_path, run("b", 0, 1, scale=2.0), method="sum")


def test_positions_are_by_stack() -> None:
    names = ["enc.block.0.w", "enc.block.1.w", "dec.block.0.w", "embed"]
    assert list(positions(names).values()) == [0.0, 1.0, 1.0, 0.0]


# Layers that are merged --------------------------------------------------------------------------


def models(folder: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """Return three models of four layers; ``changes`` are tensors of some of them."""
    found = {}
    for number, name in enumerate("abc"):
        tensors = {
            f"model.layers.{k}.w": torch.randn((3, 4), generator=seeded(10 * number + k))
            for k in range(4)
        }
        tensors["model.embed_tokens.weight"] = torch.randn((6, 4), generator=seeded(91 + number))
        tensors["model.norm.weight"] = torch.randn((4,), generator=seeded(81 + number))
        tensors |= changes.get(name, {})
        found[name] = module(folder, name, "base", tensors, config={"num_hidden_layers": 4})
    return found


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def merged(name: str, **more: Any) -> Step:
    return Step(op="dense", module=ModuleName(name), **more)


def composed(folder: Path, modules: Any, *runs: Layers, **more: Any) -> dict[str, torch.Tensor]:
    recipe = Compose(base=ModuleName("a"), layers=runs, **more)
    return values(compose(plan("m", "1", recipe, modules), folder).tensors)


def test_each_run_is_merged_as_the_whole_models_would_be(tmp_path: Path) -> None:
    """Slices of all layers in pieces, each at its own place, are the merge of whole models."""
    modules = models(tmp_path)
    steps = (merged("b"),)
    whole = values(
        compose(
            plan(
                "m",
                "1",
                Compose(base=ModuleName("a"), method="slerp", parameters={"t": 0.3}, steps=steps),
                modules,
            ),
            tmp_path,
        ).tensors
    )
    got = composed(
        tmp_path,
        modules,
        run("a", 0, 3, steps=steps, tensors=("model.embed_tokens.weight",)),
        run("a", 3, 4, steps=steps, tensors=("model.norm.weight",)),
        method="slerp",
        parameters={"t": 0.3},
    )
    assert got.keys() == whole.keys()
    assert all(torch.equal(got[name], whole[name]) for name in whole)


def test_runs_have_their_own_models_methods_and_parameters(tmp_path: Path) -> None:
    modules = models(tmp_path)
    own_name = (Filtered(1.0, "layers.3"), Filtered(0.25))
    result_name = (Filtered(0.5, "layers.5"),)  # otherwise the recipe's
    got = composed(
        tmp_path,
        modules,
        run("a", 0, 1),
        run("b", 1, 3, steps=(merged("c", range=(2, 4), scale=(0.0, 1.0)),), method="sum"),
        run("c", 0, 1, steps=(merged("a", scale=0.5), merged("b", scale=0.25))),
        run("a", 2, 4, steps=(merged("b", scale=own_name),), parameters={"lambda": result_name}),
        method="task-arithmetic",
        parameters={"lambda": 2.0},
        dtype="float32",
    )

    def w(name: str, k: int) -> torch.Tensor:
        return values(modules[name].tensors)[f"model.layers.{k}.w"]

    wanted = [
        w("a", 0),
        w("b", 1),
        w("c", 3),
        w("c", 0) + 2 * (0.5 * (w("a", 0) - w("c", 0)) + 0.25 * (w("b", 0) - w("c", 0))),
        w("a", 2) + 2 * 0.25 * (w("b", 2) - w("a", 2)),
        w("a", 3) + 0.5 * (w("b", 3) - w("a", 3)),
    ]
    for k, tensor in enumerate(wanted):
        assert torch.allclose(got[f"model.layers.{k}.w"], tensor, atol=1e-6), k
    assert torch.equal(got["model.norm.weight"], values(modules["a"].tensors)["model.norm.weight"])


def test_merged_runs_that_cannot_be_composed(tmp_path: Path) -> None:
    modules = models(tmp_path, c={"model.layers.1.w": torch.ones(3, 5)})
    adapter = Step(op="lora", module=ModuleName("b"))

    def refused(message: str, *runs: Layers, **more: Any) -> None:
        recipe = Compose(base=ModuleName("a"), layers=runs, **more)
        with raises("M601", "M604", match=message):
            plan("m", "1", recipe, modules)

    steps = (merged("b"),)
    refused("step 1 has 2 layers, not 1", run("a", 0, 1, steps=(merged("b", range=(0, 2)),)))
    refused("only 'dense' can", run("a", 0, 1, steps=(adapter,)))
    refused("give each step the scale", run("a", 0, 1, steps=steps, scale=0.5))
    refused("the recipe cannot have others", run("a", 0, 1, steps=steps), steps=steps)
    refused("measures the whole model", run("a", 0, 1, steps=steps, method="ties"))
    refused("takes 1 step, not 2", run("a", 0, 1, steps=steps * 2, method="slerp"))
    refused("no parameter 't'", run("a", 0, 1, steps=steps, parameters={"t": 0.5}))
    refused("'model.layers.0.w' has shape", run("a", 1, 2, steps=(merged("c"),)))
    refused("does not", run("a", 3, 4, steps=(merged("b", range=(4, 5)),)))


def test_of_two_runs_that_take_a_tensor_the_later_one_has_it(tmp_path: Path) -> None:
    modules = models(tmp_path)
    norm = ("model.norm.weight",)
    runs = run("a", 0, 2, tensors=norm, steps=(merged("c"),)), run("b", 2, 4, tensors=norm)
    got = composed(tmp_path, modules, *runs)
    assert torch.equal(got[norm[0]], values(modules["b"].tensors)[norm[0]])


# Tied models -------------------------------------------------------------------------------------

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def tied_and_untied(folder: Path, **config: Any) -> dict[str, Any]:
    """Return ``a`` (tied), ``b`` (untied), and ``c``: tied, with its embedding stored twice."""
    found = models(folder)
    embeddings = {name: values(found[name].tensors)[EMBEDDING] for name in "abc"}
    ties = {"num_hidden_layers": 4, "tie_word_embeddings": True, **config}
    for name, output, own in (
        ("a", None, ties),
        ("b", torch.randn((6, 4), generator=seeded(7)), {**ties, "tie_word_embeddings": False}),
        ("c", embeddings["c"], ties),
    ):
        tensors = values(found[name].tensors) | ({} if output is None else {OUTPUT: output})
        found[name] = module(folder / "tied", name, "base", tensors, config=own)
    return found


def test_an_output_layer_of_an_untied_model_unties_the_result(tmp_path: Path) -> None:
    modules = tied_and_untied(tmp_path)
    runs = run("a", 0, 2), run("b", 2, 4, tensors=(OUTPUT,))
    composition = plan("m", "1", Compose(base=ModuleName("a"), layers=runs), modules)
    assert composition.config["tie_word_embeddings"] is False
    assert composition.kept[OUTPUT] == modules["b"].tensors[OUTPUT]
    assert composition.kept[EMBEDDING] == modules["a"].tensors[EMBEDDING]


def test_a_model_that_is_always_tied_takes_no_output_layer(tmp_path: Path) -> None:
    kind = sorted(FORCED & TIED)[0]
    modules = tied_and_untied(tmp_path, model_type=kind)
    runs = run("a", 0, 2), run("b", 2, 4, tensors=(OUTPUT,))
    with raises("M601", match="cannot be taken from another model"):
        plan("m", "1", Compose(base=ModuleName("a"), layers=runs), modules)


def test_a_copy_of_a_tied_embedding_does_not_stay_behind(tmp_path: Path) -> None:
    modules = tied_and_untied(tmp_path)
    for runs in (
        (run("c", 0, 2), run("a", 2, 4, tensors=(EMBEDDING,))),
        (run("c", 0, 4, tensors=(EMBEDDING,), steps=(merged("a", scale=0.5),)),),
    ):
        composition = plan("m", "1", Compose(base=ModuleName("c"), layers=runs), modules)
        assert OUTPUT not in composition.kept.keys() | composition.computed.keys()
        assert composition.config["tie_word_embeddings"] is True
    with raises("M601", match="no tensor 'lm_head.weight'"):
        plan(
            "m",
            "1",
            Compose(base=ModuleName("b"), layers=(run("a", 0, 2, tensors=(OUTPUT,)),)),
            modules,
        )
