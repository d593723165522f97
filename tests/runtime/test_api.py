"""``modpkg.load``, ``tokenizer``, ``pipeline`` and ``run``: which project, which form."""

from __future__ import annotations

import functools
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import modpkg
from modpkg.core.names import parse_requirement
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project, find_project
from modpkg.environment.workspace import Workspace
from modpkg.runtime import live as live_models
from modpkg.runtime import placement
from tests.raising import raises
from tests.runtime.helpers import publish_two_adapters, tokenizer

IDS = torch.tensor([[3, 4, 5]])


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """The embedded registry: a base with a tokenizer, and two adapters."""
    publish_two_adapters(home / "registry", tmp_path / "p")
    return home / "registry"


def installed(folder: Path | None, *names: str) -> Project:
    """Install into a project in a folder, or into the user's environment."""
    project = find_project()
    if folder is not None:
        folder.mkdir()
        (folder / "modpkg.toml").write_text('[app]\nname = "x"\n')
        project = Project(folder / "modpkg.toml")
    install(Workspace(project), InstallRequest(add=[parse_requirement(name) for name in names]))
    return project


def test_the_project_is_named_or_found_but_not_guessed(registry: Path, tmp_path: Path) -> None:
    installed(None, "tiny", "lora-1")
    installed(tmp_path / "app", "tiny", "lora-2")
    assert modpkg.load("lora-1") is not None  # there is no project around: the user's environment
    modpkg.load("lora-2", project=tmp_path / "app")
    modpkg.load("lora-2", project=str(tmp_path / "app"))
    with raises("M504"):
        modpkg.load("lora-1", project=tmp_path / "app")
    with raises("M111"):
        modpkg.load("lora-1", project=tmp_path / "p")
    service = tmp_path / "app" / "service.py"
    service.write_text("import modpkg\nfound = modpkg.load('tiny')\n")
    with raises("M727", match="user environment"):
        runpy.run_path(str(service))
    service.write_text("import modpkg\nfound = modpkg.load('lora-1', user=True)\n")
    runpy.run_path(str(service))


def test_the_working_folder_of_the_script_is_not_guessed_about(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "app", "tiny")
    service = tmp_path / "app" / "service.py"
    service.write_text("import modpkg\nfound = modpkg.load('tiny')\n")
    monkeypatch.chdir(tmp_path / "app")
    assert runpy.run_path(str(service))["found"] is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "modpkg.toml").write_text('[app]\nname = "y"\n')
    monkeypatch.chdir(tmp_path / "other")
    with raises("M727", match="other"):
        runpy.run_path(str(service))
    monkeypatch.setenv("MODPKG_PROJECT", str(tmp_path / "app"))
    assert runpy.run_path(str(service))["found"] is not None


def test_dtype_and_device_are_those_of_from_pretrained(registry: Path) -> None:
    from transformers import AutoModelForCausalLM

    installed(None, "lora-1")
    whole = modpkg.load("lora-1", dtype="bfloat16", device="cpu")
    wanted = AutoModelForCausalLM.from_pretrained(modpkg.path("lora-1"), dtype=torch.bfloat16)
    assert whole.state_dict().keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(whole.state_dict()[name], tensor), name
    assert torch.equal(whole(IDS).logits, wanted(IDS).logits)
    with raises("M709", match="dtype"):
        modpkg.load("lora-1", dtype="int8")
    with raises("M709", match="live"):
        modpkg.load("lora-1", live=True, dtype="bfloat16")  # type: ignore[call-overload]
    with raises("M709", match="device"):
        modpkg.load("lora-1", device="cuda:77")
    with raises("M709", match="form"):
        modpkg.path("lora-1", form="x")  # type: ignore[arg-type]
    with raises("M709", match="project"):
        modpkg.load("lora-1", project=Path.cwd(), user=True)
    with pytest.raises(TypeError, match="live=True"):
        modpkg.pipeline(["tiny", "lora-1"])
    with raises("M709", match="live"):
        modpkg.pipeline("lora-1", live=True, dtype="bfloat16")


@pytest.mark.parametrize("name", [None, 5, [], [None], b"x"])
def test_what_is_no_name_is_refused(name: Any, home: Path) -> None:
    for call in (modpkg.load, modpkg.pipeline):
        for live in (False, True):
            with raises("M101"):
                call(name, live=live)
    for find in (modpkg.tokenizer, modpkg.path):
        with raises("M101"):
            find(name)
    with raises("M101"):
        modpkg.run(name, "the cat")


def test_a_tokenizer_needs_no_weights(registry: Path) -> None:
    project = installed(None, "lora-1")
    found = modpkg.tokenizer("lora-1")
    assert found("the cat")["input_ids"] == tokenizer()("the cat")["input_ids"]
    assert Workspace(project).environment.model("lora-1").result is None


@pytest.mark.parametrize("share", ["no", 1, 0, None])
def test_sharing_is_true_or_false(share: Any) -> None:
    for call in (modpkg.load, modpkg.pipeline):
        for live in (False, True):
            with raises("M709", match="share"):
                call("tiny", live=live, share=share)


def test_live_models_on_a_device_share_their_base(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(None, "tiny", "lora-1", "lora-2")
    wanted = modpkg.load(["lora-1", "lora-2"], live=True)
    copying = functools.partial(placement.Placement, copied=True)  # as onto another device
    monkeypatch.setattr(live_models, "Placement", copying)
    one = modpkg.load(["lora-1", "lora-2"], live=True, device="cpu", share=True)
    two = modpkg.load("tiny", adapters=["lora-2"], device="cpu", share=True)
    addresses = [{value.data_ptr() for value in each.parameters()} for each in (one, two, wanted)]
    assert addresses[0] == addresses[1]
    assert not addresses[0] & addresses[2]
    with torch.no_grad():
        for name in ("lora-1", "lora-2"):
            one.set_adapter(name)
            wanted.set_adapter(name)
            assert torch.equal(one(IDS).logits, wanted(IDS).logits)
        assert torch.equal(two(IDS).logits, wanted(IDS).logits)


def test_a_live_pipeline_answers_with_the_adapter_of_each_call(registry: Path) -> None:
    installed(None, "tiny", "lora-1", "lora-2")
    talk = modpkg.pipeline(["tiny", "lora-1", "lora-2"], live=True)
    fused = {name: modpkg.pipeline(name) for name in ("tiny", "lora-1", "lora-2")}
    for name, alone in fused.items():
        wanted = alone("the cat", max_new_tokens=5)
        assert talk("the cat", adapter=name, max_new_tokens=5) == wanted
        assert (
            "".join(talk.stream("the cat", adapter=name, max_new_tokens=5)).strip() == wanted.text
        )
        assert talk.model.active == {"tiny": 1.0}
    assert modpkg.run("lora-1", "the cat", max_new_tokens=5) == fused["lora-1"](
        "the cat", max_new_tokens=5
    )


def test_an_adapter_alone_is_a_folder_that_peft_opens(registry: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    project = installed(None, "tiny", "lora-1")
    base = AutoModelForCausalLM.from_pretrained(modpkg.path("tiny"))
    folder = modpkg.path("lora-1", form="peft")
    assert modpkg.path("lora-1", form="peft") == folder
    wanted = PeftModel.from_pretrained(base, str(folder))(IDS).logits
    assert Workspace(project).environment.model("lora-1").result is None
    assert torch.allclose(modpkg.load("lora-1")(IDS).logits, wanted, atol=1e-6)
    with raises("M805"):
        modpkg.path("tiny", form="peft")
