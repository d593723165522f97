"""``modpkg patch`` and ``modpkg merge``, as a contributor and a maintainer use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modpkg.community.patch.base import check_base
from modpkg.environment.workspace import Workspace
from modpkg.manifest.read import read_manifest
from tests import tiny
from tests.command import modpkg, modpkg_json, refused
from tests.community.changed import same_bits
from tests.raising import raises

QUERY = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def base(home: Path, tmp_path: Path) -> Path:
    """The project of tiny 1.0, which is published."""
    folder = tiny.write_base(tmp_path / "tiny")
    tiny.publish(folder, home / "registry")
    return folder


def copy_of(base: Path, name: str, *changed: str, seed: int = 1) -> Path:
    """Write a copy as a trainer leaves it: one value of each tensor is another."""
    folder = base.parent / name
    folder.mkdir()
    tensors = load_file(base / "model.safetensors")
    for tensor in changed:
        tensors[tensor].view(-1)[3] += seed
    save_file(tensors, folder / "model.safetensors")
    shutil.copy(base / "config.json", folder / "config.json")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_patch_is_made_published_installed_and_turned_back(base: Path, tmp_path: Path) -> None:
    copy = copy_of(base, "tuned", QUERY, NORM)
    config = json.loads((copy / "config.json").read_text()) | {"rms_norm_eps": 1e-5}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "added_tokens.json").write_text("{}")

    text = modpkg("patch", "create", "--base", "tiny==1.0", copy).stdout
    assert "tensors  2 of 20 changed" in text
    assert "values   2 of 1576 changed (0.13 %)" in text
    assert "files    added_tokens.json, config.json" in text
    assert "Wrote the patch tuned-patch 1.0.0 to tuned-patch/" in text
    result = modpkg_json("patch", "create", "--base", "tiny==1.0", copy, "--out", "again")
    assert [(form["name"], form["changed"]) for form in result["forms"]] == [(QUERY, 1), (NORM, 1)]
    assert Path("again/patch.safetensors").read_bytes() == (
        Path("tuned-patch/patch.safetensors").read_bytes()
    )

    modpkg("build", "tuned-patch")
    modpkg("publish", "tuned-patch")
    modpkg("patch", "apply", "--base", "tiny==1.0", "tuned-patch==1.0.0")
    back = Path("tiny-1.0.1")
    assert same_bits(weights(back), weights(copy))
    assert 'name = "tuned-patch"' in (back / "modpkg.toml").read_text()
    for file in ("config.json", "added_tokens.json"):
        assert (back / file).read_bytes() == (copy / file).read_bytes()

    app = tmp_path / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\ntuned-patch = "*"\ntiny = "*"\n'
        '[models.mine]\nbase = "tiny"\nsteps = [{ op = "patch", module = "tuned-patch" }]\n'
    )
    modpkg("install", cwd=app)
    modpkg("export", "mine", app / "out", cwd=app)
    assert same_bits(weights(app / "out"), weights(copy))
    assert json.loads((app / "out" / "config.json").read_text())["rms_norm_eps"] == 1e-5
    assert (app / "out" / "added_tokens.json").read_text() == "{}"
    again = modpkg_json(  # an installed model is a copy too
        "patch", "create", "--base", "tiny==1.0", "mine", "--out", app / "p", cwd=app
    )
    assert again["changed"] == 2


def test_new_removed_and_trimmed_tensors_are_reported(base: Path) -> None:
    copy = copy_of(base, "tuned")
    tensors = weights(copy)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-4].clone()
    tensors["score.weight"] = torch.ones(2, 8)
    del tensors[NORM]
    save_file(tensors, copy / "model.safetensors")
    done = modpkg("patch", "create", "--base", "tiny==1.0", copy)
    assert f"removed: {NORM}" in done.stderr
    assert "new: score.weight" in done.stderr
    assert "first rows" in done.stdout
    modpkg("patch", "apply", "--base", "tiny==1.0", "tuned-patch", "--out", "back")
    assert same_bits(weights(Path("back")), tensors)


def test_an_impossible_patch_is_refused_and_nothing_is_written(
    base: Path, home: Path, tmp_path: Path
) -> None:
    copy = copy_of(base, "tuned", QUERY)
    tensors = weights(copy)
    tensors[QUERY][0, 0] = float("nan")
    save_file(tensors, copy / "model.safetensors")
    assert f"'{QUERY}'" in refused("patch", "create", "--base", "tiny==1.0", copy)
    assert "there is nothing to create" in refused("patch", "create", "--base", "tiny==1.0", base)
    assert "NAME==VERSION" in refused("patch", "create", "--base", "tiny", copy, status=2)
    tiny.publish(tiny.write_base(tmp_path / "two", "2.0", seed=7), home / "registry")
    other = copy_of(base, "other", QUERY)
    modpkg("patch", "create", "--base", "tiny==1.0", other, "--out", tmp_path / "p")
    error = refused("patch", "apply", "--base", "tiny==2.0", tmp_path / "p")
    assert f"was made for tiny==1.0, and '{QUERY}' of tiny 2.0" in error
    # A manifest that allows the other version does not help: what it is built on is looked at.
    path = tmp_path / "p" / "modpkg.toml"
    path.write_text(path.read_text().replace("==1.0", ">=1"))
    assert "was made for tiny==1.0" in refused("build", tmp_path / "p")
    assert list(Path.cwd().iterdir()) == []


def test_nan_put_into_a_patch_later_is_refused_by_build(base: Path, tmp_path: Path) -> None:
    modpkg("patch", "create", "--base", "tiny==1.0", copy_of(base, "t", QUERY), "--out", "p")
    path = Path("p/patch.safetensors")
    tensors = load_file(path)
    name = next(name for name in tensors if not name.endswith("gaps"))
    save_file({**tensors, name: torch.full_like(tensors[name], float("inf"))}, path)
    assert "M733" in refused("build", "p")


@pytest.fixture
def parents(base: Path) -> list[Path]:
    """Two patches that changed one value to different ones, and one tensor each alone."""
    for name, alone, seed in (("one", "model.layers.0.mlp.up_proj.weight", 1), ("two", NORM, 3)):
        modpkg(
            "patch", "create", "--base", "tiny==1.0",
            copy_of(base, f"{name}-copy", QUERY, alone, seed=seed), "--out", name, "--name", name,
        )  # fmt: skip
        modpkg("build", name)
        modpkg("publish", name)
    return [Path("one"), Path("two")]


def test_a_merge_reports_conflicts_and_how_to_resolve_them(
    parents: list[Path], base: Path, tmp_path: Path
) -> None:
    asked = ("merge", "--base", "tiny==1.0", *parents)
    done = modpkg(*asked, check=False)
    assert done.returncode == 1
    assert "0      1 of 1       1            1                 0" in done.stdout
    assert "choose --method mean" in done.stderr
    checked = modpkg(*asked, "--check", "--svg", tmp_path / "c.svg", "--json", check=False)
    assert checked.returncode == 1
    (tensor,) = json.loads(checked.stdout)["tensors"]
    assert (tensor["name"], tensor["different"]) == (QUERY, 1)
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    assert not Path("tiny-1.0.1").exists()

    text = modpkg(*asked, "--method", "mean").stdout
    assert "Merged into tiny 1.0.1 in tiny-1.0.1/ by mean." in text
    found, before = weights(Path("tiny-1.0.1")), weights(base)
    assert found[QUERY][0, 3] == before[QUERY][0, 3] + 2
    assert found[NORM][3] == before[NORM][3] + 3
    manifest = (Path("tiny-1.0.1") / "modpkg.toml").read_text()
    for name in ("one", "two", "tiny"):
        assert f'name = "{name}"' in manifest
    modpkg("build", "tiny-1.0.1")
    modpkg("publish", "tiny-1.0.1")

    resolution = tmp_path / "r.toml"
    resolution.write_text(f'[tensors]\n"{QUERY}" = "theirs"\n')
    modpkg(*asked, "--resolution", resolution, "--out", "resolved")
    assert weights(Path("resolved"))[QUERY][0, 3] == before[QUERY][0, 3] + 3
    resolution.write_text(f'[tensors]\n"{NORM}" = "ours"\n')
    assert "names no conflict" in refused(*asked, "--resolution", resolution, "--out", "x")
    assert not Path("x").exists()


def test_a_merge_is_remembered_and_made_again(parents: list[Path], base: Path) -> None:
    copy = copy_of(base, "copy", QUERY, seed=5)
    asked = ("merge", "--base", "tiny==1.0", *parents, copy)
    result = modpkg_json(*asked, "--method", "linear", "--weights", "3,1,4")
    before, found = weights(base)[QUERY][0, 3], weights(Path("tiny-1.0.1"))[QUERY][0, 3]
    assert abs(found - before - (3 * 1 + 1 * 3 + 4 * 5) / 8) < 1e-6
    manifest = read_manifest(Path("tiny-1.0.1/modpkg.toml"))
    merge = manifest.merge
    assert merge is not None
    assert (merge.base, merge.method, merge.result) == ("tiny==1.0", "linear", result["result"])
    assert [one.release or one.folder for one in merge.parents] == [
        *("one==1.0.0", "two==1.0.0", "copy"),
    ]
    assert [one.weight for one in merge.parents] == [3.0, 1.0, 4.0]
    assert (merge.conflicts.tensors, merge.conflicts.values) == (1, 1)
    assert str(base.parent) not in Path("tiny-1.0.1/modpkg.toml").read_text()
    modpkg("build", "tiny-1.0.1")
    modpkg("publish", "tiny-1.0.1")
    for earlier in ("tiny-1.0.1", "tiny==1.0.1"):
        assert "the same weights" in modpkg("merge", "--again", earlier, copy).stdout
    modpkg("merge", "--again", "tiny==1.0.1", copy, "--out", "twice")
    assert same_bits(weights(Path("twice")), weights(Path("tiny-1.0.1")))

    again = ("merge", "--again", "tiny-1.0.1")
    assert "takes 1 folders" in refused(*again, status=2)
    assert "leave it out" in refused(*again, copy, "--base", "tiny==1.0", status=2)
    other = copy_of(base, "other", QUERY, seed=6)
    assert "copy has other weights" in refused(*again, other)
    path = Path("tiny-1.0.1/modpkg.toml")
    path.write_text(path.read_text().replace("weight = 4.0", "weight = 2.0"))
    assert "was merged to sha256:" in refused(*again, copy)
    assert "says nothing of a merge" in refused("merge", "--again", "tiny==1.0", status=2)


def test_a_resolution_is_remembered_in_its_order(parents: list[Path], tmp_path: Path) -> None:
    resolution = tmp_path / "r.toml"
    resolution.write_text(f'[tensors]\n"{QUERY}" = "theirs"\n"*.q_proj.*" = "ours"\n')
    asked = ("merge", "--base", "tiny==1.0", *parents, "--resolution", resolution)
    modpkg(*asked, "--out", "resolved")
    merge = read_manifest(Path("resolved/modpkg.toml")).merge
    assert merge is not None
    assert [(one.pattern, one.choice) for one in merge.resolution] == [
        (QUERY, "theirs"),
        ("*.q_proj.*", "ours"),
    ]
    assert (merge.method, merge.parameters) == (None, {})
    assert "the same weights" in modpkg("merge", "--again", "resolved").stdout


def test_a_method_for_another_number_names_its_relative(parents: list[Path]) -> None:
    asked = ("merge", "--base", "tiny==1.0", *parents)
    text = refused(*asked, "--method", "slerp", "--parameter", "t=0.5")
    assert "takes 1 step, not 2; its relative 'nuslerp' takes 1 to 2 steps" in text
    text = refused(*asked, "--method", "mean", "--weights", "1,2")
    assert "takes no weights; its relative 'linear' does" in text
    assert "--weights 1.0,1.0" in refused(*asked, "--method", "linear", "--weights", "1", status=2)
    modpkg(*asked, "--method", "linear", "--out", "linear")
    modpkg(*asked, "--method", "mean", "--out", "mean")
    assert same_bits(weights(Path("linear")), weights(Path("mean")))


def test_factors_of_a_lora_are_handed_over(base: Path, tmp_path: Path) -> None:
    lora = tiny.write_adapter(tmp_path / "lora")
    copy = tmp_path / "tuned"
    copy.mkdir()
    tensors, factors = (
        load_file(base / "model.safetensors"),
        load_file(lora / "adapter_model.safetensors"),
    )
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    change = factors[f"{path}.lora_B.weight"].double() @ factors[f"{path}.lora_A.weight"].double()
    tensors[QUERY] = (tensors[QUERY].double() + 2 * change).float()
    save_file(tensors, copy / "model.safetensors")
    asked = ("patch", "create", "--base", "tiny==1.0", copy, "--factors")
    result = modpkg_json(*asked, lora)
    assert [form["name"] for form in result["forms"]] == [QUERY]
    assert "cannot give factors" in refused(*asked, copy, "--out", "again")


def test_a_patch_of_what_is_no_base_is_refused_before_any_work(
    parents: list[Path], base: Path
) -> None:
    copy = copy_of(base, "tuned", QUERY)
    with raises("M239", match="'modpkg patch apply --base tiny==1.0 one==1.0.0'"):
        check_base("one==1.0.0", Workspace())
    text = refused("patch", "create", "--base", "one==1.0.0", copy)
    assert "it was made for tiny 1.0. Name --base tiny==1.0" in text
    Path("full").mkdir()
    Path("full/file").touch()
    text = refused("patch", "create", "--base", "tiny==1.0", base / "nowhere", "--out", "full")
    assert "nowhere" in text
    assert "full" in refused("patch", "create", "--base", "tiny==1.0", copy, "--out", "full")
    text = refused("patch", "create", "--base", "tiny==1.0", copy, "--license", "x", status=2)
    assert "licence" in text


def test_wrong_usage_of_a_merge_is_refused(parents: list[Path]) -> None:
    asked = ("merge", "--base", "tiny==1.0", *parents)
    assert "need a --method" in refused(*asked, "--parameter", "density=1", status=2)
    assert "method 'mena'" in refused(*asked, "--method", "mena").replace("is ", "")
    assert "one --importance for each" in refused(
        *asked, "--method", "fisher", "--importance", ".", status=2
    )
    assert "=VALUE" in refused(*asked, "--method", "ties", "--parameter", "density", status=2)
    assert "'density'" in refused(
        *asked, "--method", "ties", "--parameter", "density=7", "--out", "x"
    )
    assert "no [[tests]]" in refused(*asked, "--method", "auto")
