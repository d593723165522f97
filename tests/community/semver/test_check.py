"""``modpkg check`` and what ``publish`` refuses: versions that mean something."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from modpkg.community.semver.check import Check
from modpkg.community.semver.releases import check_project
from modpkg.community.semver.weights import Weights, weight_facts
from modpkg.core.records import Kind
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.registry.reader import Registry
from registry_spec.check import check as check_registry
from tests.command import modpkg, refused
from tests.conftest import safetensors_bytes
from tests.modules import write_module
from tests.tiny import ADAPTER_CONFIG, CONFIG, adapter_weights, base_weights, floats, publish

Tensors = dict[str, tuple[str, list[int], bytes]]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "registry"
    monkeypatch.setenv("MODPKG_REGISTRY", str(folder))
    return folder


def parsed(weights: bytes) -> Tensors:
    """Return the tensors of a safetensors file, read without the code under test."""
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + length])
    data = weights[8 + length :]
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def nudged(tensors: Tensors, share: float) -> Tensors:
    """Return tensors of which the first so many values of each are others."""
    found = {}
    for name, (dtype, shape, raw) in tensors.items():
        count = round(len(raw) // 4 * share)
        values = struct.unpack(f"<{len(raw) // 4}f", raw)
        new = [value + 1 if place < count else value for place, value in enumerate(values)]
        found[name] = (dtype, shape, struct.pack(f"<{len(new)}f", *new))
    return found


BASE = parsed(base_weights())


def base(folder: Path, version: str, tensors: Tensors = BASE, more: str = "", **files: Any) -> Path:
    config = CONFIG | files.pop("config", {})
    content = {
        "model.safetensors": safetensors_bytes(tensors),
        "config.json": json.dumps(config).encode(),
    } | {name.replace("__", "."): data for name, data in files.items()}
    return write_module(folder / version, "tiny", version, "base", files=content, more=more)


def checked(project: Path, against: str | None = None) -> Check:
    workspace = Workspace(Project(project / "modpkg.toml"))
    return check_project(workspace, against)


def asked(project: Path) -> tuple[str, str, list[str]]:
    """Return the level, the lowest allowed version, and what the facts are about."""
    result = checked(project)
    top = [fact.about for fact in result.facts if fact.level == result.level]
    return result.level, str(result.lowest), top


def test_few_values_are_a_patch_and_most_are_a_major_version(
    registry: Path, tmp_path: Path
) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    few = base(tmp_path, "1.0.1", nudged(BASE, 0.1))
    assert asked(few) == ("patch", "1.0.1", ["values"])
    output = modpkg("check", few).stdout
    assert "20 changed" in output
    assert (
        "tests were not compared: tiny 1.0.0 and tiny 1.0.1 have no report.json" in output.lower()
    )
    assert output.endswith(
        "is a patch change: values: 157 of 1576 values changed (10.0 %); 1.0.1 is allowed.\n"
    )
    publish(few, registry)
    most = base(tmp_path, "1.1.0", nudged(BASE, 0.9))
    assert asked(most) == ("major", "2.0.0", ["values"])
    modpkg("build", most)
    message = refused("publish", most)
    assert "error[M761]: tiny 1.1.0 would be a major change after 1.0.1:\n  values: " in message
    assert "2.0.0 or higher" in message
    assert [line.version for line in Registry(str(registry)).index("tiny")] == ["1.0.0", "1.0.1"]


def test_a_breaking_version_is_published_with_a_reason_that_is_recorded(
    registry: Path, tmp_path: Path
) -> None:
    publish(base(tmp_path, "1.0"), registry)
    project = base(tmp_path, "1.1", nudged(BASE, 0.9))
    modpkg("build", project)
    assert "needs a reason" in refused("publish", project, "--allow-breaking", " ", status=2)
    assert "M475" in refused("publish", project, "--allow-breaking", 2001 * "y")
    modpkg("publish", project, "--allow-breaking", "1.0 was never announced")
    reader = Registry(str(registry))
    record = reader.record(reader.line("tiny", "1.1"))
    assert record.provenance.breaking == "1.0 was never announced"
    assert check_registry(str(registry)).problems == []
    # again, without the reason: the same release, and nothing happens
    modpkg("publish", project)
    assert len(Registry(str(registry)).index("tiny")) == 2


def test_new_tensors_are_minor_and_lost_ones_major(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    more = BASE | {"extra.weight": floats(random.Random(9), 4, 4)}
    assert asked(base(tmp_path, "1.0.1", more)) == ("minor", "1.1.0", ["tensors"])
    less = {name: tensor for name, tensor in BASE.items() if name != "model.norm.weight"}
    assert asked(base(tmp_path, "1.0.2", less)) == ("major", "2.0.0", ["tensors"])
    dtype = BASE | {"model.norm.weight": ("F16", [16], BASE["model.norm.weight"][2])}
    assert asked(base(tmp_path, "1.0.3", dtype))[0] == "major"


def test_rows_that_are_added_keep_those_that_were_there(registry: Path, tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    tokenizer = {"version": "1", "model": {"type": "WordLevel", "vocab": {"a": 0}}}
    publish(base(tmp_path, "1.0.0", tokenizer__json=json.dumps(tokenizer).encode()), registry)
    dtype, shape, raw = BASE[name]
    more = floats(random.Random(1), 2, shape[1])[2]
    tokenizer["model"] = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}}
    new = {"config": {"vocab_size": 34}, "tokenizer__json": json.dumps(tokenizer).encode()}
    grown = base(tmp_path, "1.0.1", BASE | {name: (dtype, [34, 8], raw + more)}, **new)
    assert asked(grown) == ("minor", "1.1.0", ["tensors", "config.json", "tokenizer.json"])
    moved = base(tmp_path, "1.0.2", BASE | {name: (dtype, [34, 8], more + raw)}, **new)
    assert asked(moved) == ("major", "2.0.0", ["tensors"])


def test_config_keys_that_affect_outputs_are_the_interface(registry: Path, tmp_path: Path) -> None:
    say = {"id2label": {"0": "good"}}
    publish(base(tmp_path, "1.0.0", config={**say, "transformers_version": "4"}), registry)
    for config, level in [
        ({**say, "transformers_version": "5", "attention_dropout": 0.5}, "none"),
        ({**say, "max_position_embeddings": 128}, "minor"),
        ({**say, "max_position_embeddings": 32}, "major"),
        ({**say, "sliding_window": 4}, "minor"),
        ({**say, "rope_theta": 1.0, "hidden_act": "gelu", "num_attention_heads": 4}, "major"),
        ({"id2label": {"0": "good", "1": "bad"}}, "major"),
        ({}, "major"),
    ]:
        assert checked(base(tmp_path, "1.0.1", config=config)).level == level, config


def test_an_unchanged_project_is_identical_to_its_release(registry: Path, tmp_path: Path) -> None:
    project = base(tmp_path, "1.0.0")
    result = checked(project)
    assert (result.against, result.legal, result.level) == (None, True, "none")
    assert "First release" in modpkg("check", project).stdout
    publish(project, registry)
    result = checked(project)
    assert (result.level, result.facts, result.legal) == ("none", (), True)
    assert modpkg("check", project).stdout.endswith("Identical to the published tiny 1.0.0.\n")
    modpkg("publish", project)  # nothing happens
    # it was changed, and the version was not raised
    base(tmp_path, "1.0.0", nudged(BASE, 0.01))
    done = modpkg("check", project, check=False)
    assert done.returncode == 1
    assert "the lowest allowed version is 1.0.1" in done.stdout


def test_words_about_a_module_are_a_post_publish(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    words = base(tmp_path, "1.0.0.post1", README__md=b"# Better said\n")
    assert asked(words)[0] == "none"
    publish(words, registry)
    other = base(tmp_path, "1.0.0.post2", nudged(BASE, 0.1))
    assert checked(other).legal is False


def test_pre_releases_promise_no_compatibility(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    publish(base(tmp_path, "2.0.0rc1", nudged(BASE, 0.9)), registry)
    publish(base(tmp_path, "2.0.0rc2", nudged(BASE, 0.6)), registry)
    final = base(tmp_path, "2.0.0", nudged(BASE, 0.8))
    assert checked(final).against == "1.0.0"
    assert checked(final, "tiny==2.0.0rc2").legal is True
    early = base(tmp_path, "1.1.0b1", nudged(BASE, 0.8))
    modpkg("build", early)
    assert "error[M761]" in refused("publish", early)
    publish(final, registry)
    # a repair of the line before: compared with the newest below it
    assert asked(base(tmp_path, "1.0.1", nudged(BASE, 0.1))) == ("patch", "1.0.1", ["values"])


def test_a_yanked_release_is_passed_over(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    publish(base(tmp_path, "2.0.0", nudged(BASE, 0.9)), registry)
    modpkg("yank", "tiny==2.0.0")
    assert checked(base(tmp_path, "2.0.1", nudged(BASE, 0.1))).against == "1.0.0"


def test_before_1_0_the_first_number_that_is_not_zero_breaks(
    registry: Path, tmp_path: Path
) -> None:
    publish(base(tmp_path, "0.3.1"), registry)
    assert asked(base(tmp_path, "0.3.2", nudged(BASE, 0.9))) == ("major", "0.4.0", ["values"])
    more = BASE | {"extra.weight": floats(random.Random(9), 4, 4)}
    assert checked(base(tmp_path, "0.3.3", more)).legal is True


def adapter(folder: Path, version: str, base: str = ">=1,<2", seed: int = 1, **config: Any) -> Path:
    files = {
        "adapter_model.safetensors": adapter_weights(seed),
        "adapter_config.json": json.dumps(ADAPTER_CONFIG | config).encode(),
    }
    return write_module(
        folder / f"lora-{version}", "tiny-lora", version, "adapter", {"tiny": base}, files=files
    )


def test_an_adapter_promises_the_bases_that_it_works_on(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    publish(adapter(tmp_path, "1.0.0"), registry)
    assert asked(adapter(tmp_path, "1.0.1", ">=1,<3")) == ("minor", "1.1.0", ["dependencies"])
    assert asked(adapter(tmp_path, "1.0.2", ">=1.5,<2")) == ("major", "2.0.0", ["dependencies"])
    assert asked(adapter(tmp_path, "1.0.3", "~=1.0"))[0] == "patch"  # the same versions
    assert asked(adapter(tmp_path, "1.0.4", use_rslora=True))[0] == "minor"
    assert asked(adapter(tmp_path, "1.0.5", peft_type="DORA"))[:2] == ("major", "2.0.0")


def test_a_retrained_adapter_is_a_minor_change(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    publish(adapter(tmp_path, "1.0.0"), registry)
    assert asked(adapter(tmp_path, "1.0.1", seed=2)) == ("minor", "1.1.0", ["values"])
    assert asked(adapter(tmp_path, "1.0.2", lora_alpha=8)) == (
        "minor", "1.1.0", ["adapter_config.json"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tests_hold", "level"), [(True, "patch"), (False, "minor"), (None, "minor")]
)
@pytest.mark.parametrize("kind", ["adapter", "head", "expert", "patch"])
def test_tests_that_hold_make_a_retrained_module_a_patch(
    kind: Kind, tests_hold: bool | None, level: str
) -> None:
    weights = Weights(
        same=(), changed=("a",), grown=(), other=(), added=(), removed=(),
        values=9, changed_values=9, touched_values=9,
    )  # fmt: skip
    (fact,) = weight_facts(weights, kind, tests_hold=tests_hold)
    assert fact.level == level
    (fact,) = weight_facts(weights, "base", tests_hold=tests_hold)
    assert fact.level == "major"


@pytest.mark.parametrize(("kind", "level"), [("adapter", "minor"), ("head", "major")])
def test_another_rank_is_of_a_retrained_adapter(kind: Kind, level: str) -> None:
    weights = Weights(
        same=(), changed=(), grown=(), other=("a",), added=(), removed=("b",),
        values=9, changed_values=9, touched_values=9,
    )  # fmt: skip
    facts = weight_facts(weights, kind, tests_hold=True)
    assert {fact.level for fact in facts if fact.about == "tensors"} == {level}


def collection(folder: Path, version: str, **requires: str) -> Path:
    return write_module(folder / f"set-{version}", "set", version, requires=requires)


def test_a_collection_is_its_dependencies(registry: Path, tmp_path: Path) -> None:
    publish(collection(tmp_path, "1.0.0", a=">=1,<2", b=">=1"), registry)
    assert asked(collection(tmp_path, "1.0.1", a=">=1,<2"))[:2] == ("major", "2.0.0")
    assert asked(collection(tmp_path, "1.0.2", a=">=1,<2", b=">=1", c="*"))[0] == "minor"
    assert asked(collection(tmp_path, "1.0.3", a=">=1,<3", b=">=1"))[0] == "major"
    assert asked(collection(tmp_path, "1.0.4", a=">=1.2,<2", b=">=1"))[0] == "minor"
    assert asked(collection(tmp_path, "1.0.5", a="~=1.0", b=">=1"))[0] == "patch"


def model(folder: Path, version: str, compose: str, more: str = "") -> Path:
    text = f'[compose]\nbase = "tiny"\n{compose}\n[task]\nkind = "text-generation"\n{more}'
    requires = {"tiny": ">=1,<2", "tiny-lora": ">=1,<2"}
    return write_module(folder / f"talker-{version}", "talker", version, "model", requires, text)


def test_a_model_is_its_recipe_inputs_and_outputs(registry: Path, tmp_path: Path) -> None:
    one = 'steps = [{ op = "lora", module = "tiny-lora" }]'
    publish(model(tmp_path, "1.0.0", one), registry)
    assert asked(model(tmp_path, "1.0.1", one)) == ("none", "1.0.1", [])
    louder = 'steps = [{ op = "lora", module = "tiny-lora", scale = 2.0 }]'
    result = checked(model(tmp_path, "1.0.2", louder))
    assert (result.level, "no tests show" in result.facts[0].text) == ("major", True)
    assert asked(model(tmp_path, "1.0.3", ""))[0] == "major"
    assert asked(model(tmp_path, "1.0.4", one, "max_new_tokens = 9\n"))[0] == "minor"
    other = model(tmp_path, "1.0.5", one)
    manifest = other / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace("text-generation", "summarization"))
    assert asked(other) == ("major", "2.0.0", ["task"])


TEST = '[[tests]]\nname = "{}"\ncases = "tests/{}.jsonl"\nmetric = "accuracy"\nat_least = {}\n'


def suite(folder: Path, version: str, tests: str, cases: bytes) -> Path:
    return write_module(
        folder / f"suite-{version}", "suite", version, "suite", more=tests,
        files={"tests/a.jsonl": cases},
    )  # fmt: skip


def test_a_suite_may_grow_and_not_loosen(registry: Path, tmp_path: Path) -> None:
    one, case = TEST.format("a", "a", 0.5), b'{"text": "x", "expected": "y"}\n'
    publish(suite(tmp_path, "1.0.0", one, case), registry)
    assert asked(suite(tmp_path, "1.0.1", one + TEST.format("b", "a", 0.1), case))[0] == "minor"
    assert asked(suite(tmp_path, "1.0.2", TEST.format("a", "a", 0.6), case))[0] == "minor"
    assert asked(suite(tmp_path, "1.0.3", TEST.format("a", "a", 0.4), case))[0] == "major"
    assert asked(suite(tmp_path, "1.0.4", one, case + b'{"text": "z"}\n'))[0] == "minor"
    assert asked(suite(tmp_path, "1.0.5", one, b'{"text": "z"}\n'))[0] == "major"
    assert asked(suite(tmp_path, "1.0.6", "", case))[0] == "major"
    metric = one.replace("accuracy", "f1")
    assert asked(suite(tmp_path, "1.0.7", metric, case))[0] == "major"


def test_another_licence_is_major_unless_it_only_permits_more(
    registry: Path, tmp_path: Path
) -> None:
    publish(collection(tmp_path, "1.0.0"), registry)
    for text, level in [
        ("MIT OR ISC", "patch"),
        ("GPL-3.0-only", "major"),
        ("ISC AND MIT", "major"),
    ]:
        project = collection(tmp_path, "1.0.1")
        manifest = project / "modpkg.toml"
        manifest.write_text(manifest.read_text().replace('"MIT"', f'"{text}"'))
        assert asked(project)[0] == level, text


def test_a_missing_release_to_compare_with_is_refused(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    project = base(tmp_path, "1.0.1")
    assert "error[M312]" in refused("check", project, "--against", "tiny==7")
    assert "NAME==VERSION" in refused("check", project, "--against", "tiny", status=2)


def sparse(folder: Path, version: str, places: dict[int, float]) -> Path:
    indices = struct.pack(f"<{len(places)}i", *places)
    values = struct.pack(f"<{len(places)}f", *places.values())
    tensors = {
        "model.norm.weight.indices": ("I32", [len(places)], indices),
        "model.norm.weight.values": ("F32", [len(places)], values),
    }
    files = {"patch.safetensors": safetensors_bytes(tensors)}
    return write_module(
        folder / f"patch-{version}", "fix", version, "patch", {"tiny": ">=1,<2"}, files=files
    )


def test_places_of_a_patch_are_kept_where_their_value_is(registry: Path, tmp_path: Path) -> None:
    publish(base(tmp_path, "1.0.0"), registry)
    publish(sparse(tmp_path, "1.0.0", {1: 0.5, 3: 0.25, 6: 1.0}), registry)
    more = checked(sparse(tmp_path, "1.0.1", {6: 1.0, 0: 2.0, 3: 0.25, 1: 0.5}))
    assert (more.level, more.weights and more.weights.changed_values) == ("patch", 0)
    one = checked(sparse(tmp_path, "1.0.2", {1: 0.5, 3: 0.25, 6: 9.0}))
    assert (one.level, one.facts[0].text) == ("patch", "1 of 6 values changed (16.7 %)")
    most = checked(sparse(tmp_path, "1.0.3", {1: 0.5}))
    assert (most.level, most.weights and most.weights.changed_values) == ("minor", 4)
