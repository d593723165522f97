"""Adapters, heads and patches are models on their base, composed when they are first loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import modpkg
from modpkg.core.installed import read_model
from modpkg.core.names import parse_requirement
from modpkg.environment import first_load
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project, find_project
from modpkg.environment.workspace import Workspace
from modpkg.runtime.installed import find_model
from modpkg.store.garbage import clear
from modpkg.store.store import Store
from tests import tiny
from tests.command import modpkg as command
from tests.command import modpkg_json
from tests.raising import raises


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """The embedded registry."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    return home / "registry"


def workspace_with(*requirements: str, manifest: str | None = None) -> Workspace:
    """Return the workspace in which requirements, or a manifest's, were installed."""
    project = find_project()
    if manifest is not None:
        Path("app").mkdir()
        Path("app/modpkg.toml").write_text('[app]\nname = "x"\n' + manifest)
        project = Project(Path("app/modpkg.toml").absolute())
    workspace = Workspace(project)
    install(workspace, InstallRequest(add=[parse_requirement(text) for text in requirements]))
    return Workspace(project)


def composed(store: Store) -> list[Path]:
    return list(store.root.glob("composed/*/*/*.safetensors"))


def test_an_adapter_is_a_model_on_the_base_that_was_resolved(registry: Path) -> None:
    workspace = workspace_with("tiny-lora")
    assert not composed(workspace.store)
    model = modpkg.load("tiny-lora")
    assert len(composed(workspace.store)) == 1
    workspace_with("talker")
    for name, tensor in modpkg.load("talker").state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_it_is_composed_once_and_belongs_to_the_generation(registry: Path) -> None:
    workspace = workspace_with("tiny-lora")
    folder, packs = find_model("tiny-lora", workspace)
    generation = workspace.environment.current()
    assert generation is not None
    assert workspace.environment.is_complete(generation)
    record = read_model(folder)
    assert {ref.file for ref in record.tensors.values()} <= generation.packs.keys()
    stamp = (folder / "model.json").stat().st_mtime_ns
    workspace.environment.prune()
    assert find_model("tiny-lora", Workspace())[0] == folder
    assert (folder / "model.json").stat().st_mtime_ns == stamp
    assert all((packs / ref.file).is_file() for ref in record.tensors.values())


def test_the_manifest_chooses_when(registry: Path) -> None:
    recipe = 'base = "tiny"\nsteps = [{ op = "lora", module = "tiny-lora" }]\n'
    half = recipe.replace(" }", ", scale = 0.5 }")
    workspace = workspace_with(
        manifest='[dependencies]\ntiny = { version = "*", compose-at = "load" }\n'
        'tiny-lora = { version = "<2", compose-at = "install" }\n'
        f'[models.now]\n{recipe}[models.later]\ncompose-at = "load"\n{half}'
    )
    results = {name: workspace.environment.model(name).result for name in ("tiny-lora", "now")}
    assert results["now"] == results["tiny-lora"] is not None
    assert workspace.environment.model("later").result is None
    find_model("later", workspace)
    assert workspace.environment.model("later").result not in (None, results["now"])
    assert [item.model for item in workspace.lock.composed] == ["now", "tiny-lora"]  # type: ignore[union-attr]


def test_adding_a_bound_keeps_the_choice(registry: Path) -> None:
    workspace = workspace_with(
        "tiny-lora<2",
        manifest='[dependencies]\ntiny-lora = { version = "*", compose-at = "install" }\n',
    )
    assert '{ version = "<2", compose-at = "install" }' in workspace.text
    assert workspace.environment.model("tiny-lora").result is not None


def test_a_module_does_not_choose(registry: Path, tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "m")
    text = (folder / "modpkg.toml").read_text()
    choice = 'tiny = { version = "*", compose-at = "load" }'
    (folder / "modpkg.toml").write_text(text.replace('tiny = ">=1"', choice))
    with raises("M110", match="compose-at"):
        tiny.publish(folder, registry)


def test_adapters_that_are_only_live_are_not_composed(registry: Path) -> None:
    workspace = workspace_with("tiny-lora", "tiny")
    model = modpkg.load(["tiny-lora", "tiny"], live=True)
    assert not composed(workspace.store)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        live = model(ids).logits
        assert torch.allclose(live, modpkg.load("tiny-lora")(ids).logits, atol=1e-5)
        model.set_adapter("tiny")
        assert torch.equal(model(ids).logits, modpkg.load("tiny")(ids).logits)


def test_adapters_by_name_on_a_base(registry: Path) -> None:
    """Of a module that is there for another one only, too."""
    workspace = workspace_with("tiny-lora<2")
    ids = torch.tensor([[1, 2, 3]])
    model = modpkg.load("tiny", adapters=["tiny-lora"])  # the base is no model here
    assert (model.adapters, model.active) == (("tiny-lora", "tiny"), {"tiny-lora": 1.0})
    assert not composed(workspace.store)
    with torch.inference_mode():
        live = model(ids).logits
        assert torch.allclose(live, modpkg.load("tiny-lora")(ids).logits, atol=1e-5)
    with raises("M701", match="there for another module only"):
        modpkg.load("tiny-lora", adapters=["tiny"])
    with raises("M504", match="did you mean 'tiny-lora'"):
        modpkg.load("tiny", adapters=["tiny-lore"])
    with raises("M709", match="dtype"):
        modpkg.load("tiny", live=True, dtype="bfloat16")  # type: ignore[call-overload]
    with raises("M709", match="'nowhere'"):
        modpkg.load("tiny", adapters=["tiny-lora"], device="nowhere")


def test_adapters_by_name_on_a_model(registry: Path) -> None:
    workspace = workspace_with("talker==2.0", "tiny")
    before = len(composed(workspace.store))
    model = modpkg.load("talker", adapters=["tiny-lora"])
    assert model.adapters == ("tiny-lora", "talker")
    alone = modpkg.load("tiny", adapters=["tiny-lora"], device="cpu")
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, alone(ids).logits)
        model.set_adapter("talker")
        assert torch.allclose(model(ids).logits, modpkg.load("talker")(ids).logits, atol=1e-5)
    assert modpkg.load("tiny", adapters=[]).adapters == ("tiny",)
    for refused in ("", "tiny-lora", {"tiny-lora": 0.5}, {"tiny-lora"}, 3, [None]):
        with raises("M709", match="list of names"):
            modpkg.load("tiny", adapters=refused)  # type: ignore[call-overload]
    with raises("M709", match="set_adapter"):
        modpkg.load({"tiny": 0.5}, live=True)  # type: ignore[call-overload]
    with raises("M704", match="tokenizer"):
        modpkg.pipeline("tiny", adapters=["tiny-lora"])
    assert len(composed(workspace.store)) == before
    workspace_with(manifest='[dependencies]\ntalker = "*"\n')
    with raises("M701", match="run 'modpkg install tiny'"):
        modpkg.load("tiny", adapters=["tiny-lora"], project="app")


def test_an_interrupted_first_load_changes_nothing(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = workspace_with("tiny-lora")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(first_load, "lay_out_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            find_model("tiny-lora", workspace)
    generation = workspace.environment.current()
    assert generation is not None
    assert workspace.environment.is_complete(generation)
    assert workspace.environment.model("tiny-lora").result is None
    find_model("tiny-lora", Workspace())
    assert workspace.environment.model("tiny-lora").result is not None


@pytest.mark.parametrize("live", [False, True])
def test_what_the_store_lost_is_fetched_again(registry: Path, live: bool) -> None:
    workspace = workspace_with("tiny-lora")
    with workspace.store.lock(exclusive=True):
        clear(workspace.store)
    model = modpkg.load("tiny-lora", live=True) if live else modpkg.load("tiny-lora")
    with torch.inference_mode():
        assert model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_what_the_store_lost_is_not_guessed_from_another_lock(registry: Path) -> None:
    workspace = workspace_with("tiny-lora")
    with workspace.store.lock(exclusive=True):
        clear(workspace.store)
    workspace.project.lock_path.unlink()
    with raises("M506", match="tiny"):
        modpkg.load("tiny-lora")


def test_on_the_command_line(registry: Path, tmp_path: Path) -> None:
    assert modpkg_json("install", "tiny-lora==1.0")["models"] == ["tiny-lora"]
    shown = modpkg_json("show", "tiny-lora")
    assert (shown["runs"], shown["result"]) == (True, None)
    command("export", "tiny-lora", tmp_path / "out")
    assert modpkg_json("show", "tiny-lora")["result"].startswith("sha256:")
    command("install", "tiny")
    differing = modpkg_json("diff", "tiny", "tiny-lora")
    changed = [item for item in differing["tensors"] if item["status"] != "same"]
    assert len(changed) == 2 * tiny.LAYERS
    command("rollback")
    command("diff", "tiny-lora@2", "tiny-lora")


def test_what_was_composed_once_is_there_after_the_next_install(registry: Path) -> None:
    find_model("tiny-lora", workspace_with("tiny-lora<2"))
    workspace = workspace_with("tiny")
    assert workspace.environment.model("tiny-lora").result is not None
    assert [item.model for item in workspace.lock.composed] == ["tiny"]  # type: ignore[union-attr]
