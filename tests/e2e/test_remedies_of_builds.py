"""What `build` and `import` say to do works: malformed values, files, tensors and adapters."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.names import module_name, parse_requirement, parse_version
from modpkg.core.release_path import safe_path
from modpkg.manifest.cutoff import parse_cutoff
from modpkg.manifest.values import manifest_specifier, parse_alias, parse_license
from tests import tiny
from tests.conftest import safetensors_bytes
from tests.e2e.remedies import Run, fails, works
from tests.raising import raises


def base_weights(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Return the tensors of a safetensors file, read without the code under test."""
    data = folder.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    return {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def plain(folder: Path) -> Path:
    """Make a module's folder one that a trainer left: without a manifest."""
    (folder / "modpkg.toml").unlink()
    return folder


@pytest.mark.parametrize(
    ("code", "wrong", "parse"),
    [
        ("M101", "a b", module_name),
        ("M102", "one", parse_version),
        ("M103", "a>>1", parse_requirement),
        ("M104", "sha1:00", parse_digest),
        ("M106", "Apache 2", parse_license),
        ("M107", "a b", parse_alias),
        ("M108", ">>1", manifest_specifier),
        ("M109", "yesterday", parse_cutoff),
    ],
)
def test_m101_to_m109_show_examples_that_are_right(
    code: str, wrong: str, parse: Callable[[str], object]
) -> None:
    with raises(code) as caught:
        parse(wrong)
    said = str(caught.value).removeprefix(repr(wrong))
    quoted = re.findall(r"'([^']{3,})'", said)
    examples = {
        "M101": ["a.B_c-1"],
        "M102": ["2.1.0", "3.0rc1"],
        "M103": [*quoted, "summarizer@2.1", "summarizer@^2.1"],
        "M104": ["sha256:" + "0" * 64],
        "M106": ["Apache-2.0", "MIT OR Apache-2.0", "LicenseRef-own"],
        "M107": ["acme"],
        "M109": [*quoted[-3:], "3 weeks", "2 hours", "5 minutes"],
    }
    for example in examples.get(code, quoted):
        assert parse(example) is not None


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "c:x", "a\\b", ""])
def test_m105_asks_for_a_path_inside(path: str) -> None:
    with raises("M105", match="stay inside the module"):
        safe_path(path)
    assert safe_path("cases/a.jsonl")


# Files --------------------------------------------------------------------------------------


def test_m201_of_a_cut_file(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-50])
    assert "fetch or build it again" in fails(run, "M201", "build", folder)
    weights.write_bytes(whole)
    works(run, "build", folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.pt", b"x"),
        ("extra.bin", b"PK\x03\x04"),
        ("weights.pkl", b"\x80\x04."),
        ("a.h5", b""),
    ],
)
def test_m202_of_code_and_pickles(
    name: str, data: bytes, registry: Path, tmp_path: Path, run: Run
) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    (folder / name).write_bytes(data)
    assert "remove it" in fails(run, "M202", "build", folder)
    (folder / name).unlink()
    works(run, "build", folder)


def test_m203_of_a_link(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    (tmp_path / "notes.md").write_text("text")
    link = folder / "notes.md"
    link.symlink_to(tmp_path / "notes.md")
    assert "replace it with the file" in fails(run, "M203", "build", folder)
    link.unlink()
    link.write_text("text")
    works(run, "build", folder)


def test_m205_of_a_tensor_in_two_files(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    one = dict([next(iter(base_weights(folder / "a.safetensors").items()))])
    (folder / "b.safetensors").write_bytes(safetensors_bytes(one))
    text = fails(run, "M205", "build", folder)
    assert "keep it in one of them" in text
    (folder / "b.safetensors").unlink()
    works(run, "build", folder)


def test_m206_of_files_that_are_one_elsewhere(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    (folder / "notes.md").write_text("a")
    (folder / "Notes.md").write_text("b")
    assert "rename one of them" in fails(run, "M206", "build", folder)
    (folder / "Notes.md").rename(folder / "more.md")
    works(run, "build", folder)


def test_m206_of_a_pointer(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    (folder / "notes.md").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    text = fails(run, "M206", "build", folder)
    assert "git lfs pull" in text


@pytest.mark.parametrize(
    ("index", "code"),
    [
        ('{"weight_map": {}}', "M206"),
        ('{"metadata": {}}', "M206"),
        ('{"weight_map": {"x": "../out.safetensors"}}', "M206"),
    ],
)
def test_m206_of_an_index(index: str, code: str, registry: Path, tmp_path: Path, run: Run) -> None:
    folder = plain(tiny.write_base(tmp_path / "new", "3.0"))
    (folder / "model.safetensors.index.json").write_text(index)
    command = ["import", "hf", folder, "--name", "it", "--license", "MIT", "--out", "out"]
    fails(run, code, *command)
    (folder / "model.safetensors.index.json").unlink()
    works(run, *command)


def test_m211_of_what_the_manifest_names(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    manifest = folder / "modpkg.toml"
    right = manifest.read_text()
    manifest.write_text(right + '[files]\ninclude = ["*.safetensors", "*.json", "*.txt"]\n')
    assert "fix the pattern or add the file" in fails(run, "M211", "build", folder)
    (folder / "a.txt").write_text("a")
    works(run, "build", folder)
    test = '[[tests]]\nname = "t"\ncases = "cases.jsonl"\nmetric = "perplexity"\nat_most = 99\n'
    manifest.write_text(right + test)
    assert "add the file of cases, or remove the test" in fails(run, "M211", "build", folder)
    (folder / "cases.jsonl").write_text('{"text": "a"}\n')
    works(run, "build", folder)


def test_m211_of_an_adapter_without_its_config(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "3.0")
    (folder / "adapter_config.json").unlink()
    text = fails(run, "M211", "build", folder)
    assert "add the file that PEFT wrote beside the weights" in text
    (folder / "adapter_config.json").write_text(json.dumps(tiny.ADAPTER_CONFIG))
    works(run, "build", folder)


def test_m213_of_a_shard_that_is_missing(tmp_path: Path, run: Run) -> None:
    folder = plain(tiny.write_base(tmp_path / "new", "3.0"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    command = ["import", "hf", folder, "--name", "it", "--license", "MIT", "--out", "out"]
    text = fails(run, "M213", *command)
    assert "model-00002-of-00002.safetensors" in text


def test_m214_of_weights_beside_an_index(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    names = base_weights(folder / "model-1.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    one = safetensors_bytes({"other": ("F32", [1], b"\0" * 4)})
    (folder / "other.safetensors").write_bytes(one)
    text = fails(run, "M214", "build", folder)
    assert "exclude it under [files]" in text
    manifest = folder / "modpkg.toml"
    manifest.write_text(manifest.read_text() + '[files]\nexclude = ["other.safetensors"]\n')
    works(run, "build", folder)


# Tensors ------------------------------------------------------------------------------------


def test_m217_of_nan(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "3.0")
    weights = next(folder.glob("*.safetensors"))
    right = weights.read_bytes()
    tensors = base_weights(weights)
    name = next(iter(tensors))
    dtype, shape, raw = tensors[name]
    tensors[name] = (dtype, shape, struct.pack("<f", float("nan")) + raw[4:])
    weights.write_bytes(safetensors_bytes(tensors))
    assert "fix the training" in fails(run, "M217", "build", folder)
    weights.write_bytes(right)
    works(run, "build", folder)


def test_m220_of_zero3(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "3.0")
    weights = folder / "adapter_model.safetensors"
    right = weights.read_bytes()
    tensors = base_weights(weights)
    tensors = {name: ("F32", [0], b"") for name in tensors}
    weights.write_bytes(safetensors_bytes(tensors))
    text = fails(run, "M220", "build", folder)
    assert "stage3_gather_16bit_weights_on_model_save" in text
    weights.write_bytes(right)
    works(run, "build", folder)


def test_m207_of_another_base(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "3.0")
    weights = folder / "adapter_model.safetensors"
    tensors = base_weights(weights)
    other = {name.replace("self_attn", "attention"): value for name, value in tensors.items()}
    weights.write_bytes(safetensors_bytes(other))
    assert "attention.q_proj" in fails(run, "M207", "build", folder)
    weights.write_bytes(safetensors_bytes(tensors))
    works(run, "build", folder)


def test_m208_of_a_tensor_that_is_not_matched(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "3.0")
    weights = folder / "adapter_model.safetensors"
    right = weights.read_bytes()
    tensors = base_weights(weights)
    tensors["something.else"] = ("F32", [1], b"\0" * 4)
    weights.write_bytes(safetensors_bytes(tensors))
    fails(run, "M208", "build", folder)
    weights.write_bytes(right)
    works(run, "build", folder)


def test_m215_of_a_quantised_base(registry: Path, tmp_path: Path, run: Run) -> None:
    config = tiny.CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    base = tiny.write_base(tmp_path / "base", "2.0", seed=3)
    (base / "config.json").write_text(json.dumps(config))
    works(run, "build", base)
    works(run, "publish", base, "--allow-breaking", "no tests")
    folder = tiny.write_adapter(tmp_path / "new", "3.0", base=">=2")
    text = fails(run, "M215", "build", folder)
    assert "take quantization_config out" in text
    plain(base)
    (base / "config.json").write_text(json.dumps(tiny.CONFIG))
    out = ["--name", "tiny", "--version", "2.1", "--license", "MIT", "--out", "again"]
    works(run, "import", "hf", base, *out)
    works(run, "build", "again")
    works(run, "publish", "again", "--allow-breaking", "no tests")
    works(run, "build", folder)


def test_m216_of_weights_that_the_config_ties(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = plain(tiny.write_base(tmp_path / "new", "3.0"))
    weights = folder / "model.safetensors"
    tensors = base_weights(weights)
    dtype, shape, raw = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = (dtype, shape, raw[::-1])
    weights.write_bytes(safetensors_bytes(tensors))
    command = ["import", "hf", folder, "--name", "it", "--license", "MIT", "--out"]
    text = fails(run, "M216", *command, "out")
    assert 'write "tie_word_embeddings": false into config.json' in text
    config = tiny.CONFIG | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    works(run, *command, "out")


def test_m209_of_a_config(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    (folder / "config.json").write_text("{")
    assert "is not a valid config.json file" in fails(run, "M209", "build", folder)
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    works(run, "build", folder)
