"""Recipes of mergekit from import to install, beside the reference of benchmarks.recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks import recipes as judge
from benchmarks.recipe_reference import Model, expected

RECIPES = {recipe.title: recipe for recipe in judge.recipes()}
RIGHT = (
    "linear: filters and a gradient",
    "linear: no dtype, several dtypes",
    "slerp: several slices",
    "nuslerp: columns of changes, float32",
    "karcher: with a base_model, float32",
    "ties: gradients of weight and density",
    "dare_ties: not rescaled",
    "breadcrumbs_ties: bfloat16, gradient",
    "sce: selected, by filter",
    "passthrough: layers twice, with scaled copies",
    "tokens: union, rows told and padding",
    "moe: two experts, gates from embeddings",
)

REFUSED_OF = ("base", "writer", "coder", "deep", "words-a", "words-b")
"""The models whose shapes or tokens show what is wrong with a recipe."""


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Model]:
    return judge.write_models(tmp_path / "models")


def test_results_are_the_reference_rounded_once(models: dict[str, Model], tmp_path: Path) -> None:
    judge.publish_models(tmp_path / "models", models)
    found = {}
    for number, title in enumerate(RIGHT):
        path = tmp_path / "models" / f"recipe-{number}.yml"
        path.write_text(RECIPES[title].text)
        made = judge.by_modpkg(path, tmp_path / path.stem)
        assert made.folder is not None, (title, made.reason)
        right = expected(yaml.safe_load(RECIPES[title].text), models)
        figures = judge.judged(made.folder, right)
        found[title] = (figures.off, figures.dtypes)
    assert found == dict.fromkeys(RIGHT, (0, ()))


def test_what_cannot_be_merged_is_refused_before_it_is_published(
    models: dict[str, Model], tmp_path: Path
) -> None:
    refused = [recipe for recipe in RECIPES.values() if recipe.refused]
    assert refused
    judge.publish_models(tmp_path / "models", REFUSED_OF)
    for number, recipe in enumerate(refused):
        path = tmp_path / "models" / f"refused-{number}.yml"
        path.write_text(recipe.text)
        made = judge.by_modpkg(path, tmp_path / path.stem)
        assert made.reason.startswith(("import: ", "build: ")), (recipe.title, made)
        assert made.reason.endswith(("(M801)", "(M235)")), (recipe.title, made.reason)


def test_the_page_has_each_recipe() -> None:
    kept = judge.kept()
    assert all(title in kept for title in RECIPES)


def test_a_wrong_result_is_found(models: dict[str, Model], tmp_path: Path) -> None:
    """The judge tells a model that is not the merge from one that is."""
    right = expected(yaml.safe_load(RECIPES["linear: three models"].text), models)
    assert judge.judged(tmp_path / "models" / "writer", right).off > 4000
