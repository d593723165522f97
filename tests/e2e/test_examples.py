"""The main job, on real weights: install, run, export, and equality with PEFT."""

from __future__ import annotations

import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import modpkg as package
from modpkg.compose.mapping import map_tensors
from modpkg.environment.generations import Environment
from modpkg.environment.project import find_project
from tests import forkserver
from tests.command import modpkg, modpkg_json
from tests.documents import blocks_of, likeness, transcript
from tests.e2e.conftest import ROOT, Demo, run_demo

LORA = ROOT / "examples" / "modules" / "summarize-lora" / "1.2.0"
ARTICLE = ROOT / "examples" / "newsroom" / "article.txt"


def last_line(output: str) -> str:
    return output.strip().splitlines()[-1]


def test_the_demo_ends_with_a_summary(demo: Demo) -> None:
    assert "$ modpkg install summarizer\\>=2.1" in demo.output
    assert "summarizer 2.1.0 model" in demo.output
    assert "── smollm2-135m 1.0.0 base (needs >=1.0,<2)" in demo.output
    assert "── summarize-lora 1.2.0 adapter (needs ~=1.2)" in demo.output
    summary = last_line(demo.output)
    assert 5 <= len(summary.split()) <= 60
    assert summary.endswith(".")
    words = set(re.findall(r"\w+", summary.lower()))
    article = set(re.findall(r"\w+", ARTICLE.read_text().lower()))
    assert len(words & article) / len(words) > 0.8  # of the article, not made up


def test_the_readme_shows_the_end_of_the_demo(demo: Demo) -> None:
    (shown,) = (b for b in blocks_of(ROOT / "README.md") if b.told_by == "make demo")
    printed = transcript(demo.output)
    for command, lines in shown.transcript():
        words = " ".join(lines).split()
        assert likeness(" ".join(words)) in " ".join(" ".join(printed[command]).split())


def test_a_second_run_needs_no_network(demo: Demo) -> None:
    again = run_demo(demo.home, "unshare", "--net")
    assert "Published" not in again
    assert last_line(again) == last_line(demo.output)


def test_the_resolver_has_choices(examples: Path) -> None:
    chosen = {}
    for requirement in ("summarizer", "summarizer<2.1", "summarizer@1.0.0"):
        plan = modpkg_json("install", requirement, "--dry-run")
        chosen[requirement] = {m["name"]: m["version"] for m in plan["modules"]}
    assert chosen == {
        "summarizer": {
            "summarizer": "2.1.0",
            "smollm2-135m": "1.0.0",
            "summarize-lora": "1.2.0",
        },
        "summarizer<2.1": {
            "summarizer": "2.0.0",
            "smollm2-135m": "1.0.0",
            "summarize-lora": "1.0.0",
        },
        "summarizer@1.0.0": {"summarizer": "1.0.0", "smollm2-135m": "1.0.0"},
    }


def app(text: str) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "test"\n[dependencies]\n' + text)
    modpkg("install")


ASSEMBLY = (
    'smollm2-135m = "~=1.0"\nsummarize-lora = "~=1.2"\n'
    '[models.merged]\nbase = "smollm2-135m"\n{more}'
    'steps = [{{ op = "lora", module = "summarize-lora" }}]\n'
)


def peft_model(base: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, LORA)


def test_logits_equal_pefts(examples: Path) -> None:
    """Within 1e-5: of the logits' magnitude in a float32 forward pass, outright in a float64 one.

    The logits of this model reach 35; two orders of summation in float32 differ by 1e-4 there, and
    PEFT's own two ways (adapter apart, adapter merged) do too. A float64 pass over the two sets of
    float32 weights leaves only the difference between the weights.
    """
    app(ASSEMBLY.format(more='dtype = "float32"\n'))
    modpkg("export", "smollm2-135m", "--to", "hf", "base")
    ids = torch.tensor([[1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365]])
    ours, apart = package.load("merged"), peft_model(Path("base"))
    with torch.inference_mode():
        logits = ours(ids).logits
        assert logits.dtype == torch.float32
        largest = logits.abs().max()
        assert (logits - apart(ids).logits).abs().max() < 1e-5 * largest
        merged = apart.merge_and_unload()
        assert (logits - merged(ids).logits).abs().max() < 1e-5 * largest
        in_float64 = ours.double()(ids).logits - merged.double()(ids).logits
    assert in_float64.abs().max() < 1e-5


def test_the_bfloat16_merge_is_the_correctly_rounded_one(examples: Path) -> None:
    """Compared with the merge in float64; values near a tie with exact fractions."""
    app(ASSEMBLY.format(more=""))
    environment = Environment(find_project().environment)
    refs = environment.model("merged").tensors
    base = map_tensors(environment.model("smollm2-135m").tensors.items(), environment.packs)
    made = map_tensors(refs.items(), environment.packs)
    factors = load_file(LORA / "adapter_model.safetensors")
    touched = [
        name for name in made if refs[name] != environment.model("smollm2-135m").tensors[name]
    ]
    assert len(touched) == len(factors) // 2
    checked = 0
    for name in touched:
        path = "base_model.model." + name.removesuffix(".weight")
        a, b = (factors[f"{path}.lora_{side}.weight"].double() for side in "AB")
        exact = base[name].double() + 2.0 * (b @ a)  # alpha / rank = 16 / 8
        ours = made[name]
        error = (ours.double() - exact).abs()
        # the neighbours of our value, one step up and down: neither may be nearer
        bits = ours.view(torch.int16).int()
        for step in (-1, 1):
            other = (bits + step).to(torch.int16).view(torch.bfloat16).double()
            nearer = (other - exact).abs() < error
            for where in nearer.nonzero().tolist():
                i, j = where
                truth = Fraction(base[name][i, j].item()) + 2 * sum(
                    (Fraction(x) * Fraction(y))
                    for x, y in zip(b[i].tolist(), a[:, j].tolist(), strict=True)
                )
                assert abs(Fraction(ours[i, j].item()) - truth) <= abs(
                    Fraction(other[i, j].item()) - truth
                )
        checked += ours.numel()
    assert checked > 10_000_000


def test_parameters_are_mapped_and_training_does_not_change_the_files(examples: Path) -> None:
    app('minilm-l6 = "~=1.0"\n')
    model = package.load("minilm-l6")
    parameter = next(model.parameters())
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1)
    again = next(package.load("minilm-l6").parameters())
    assert torch.equal(again, before)
    maps = Path("/proc/self/maps").read_text()
    assert str(Environment(find_project().environment).packs) in maps


def test_an_export_opens_in_plain_transformers(examples: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    app('summarizer = ">=2.1"\n')
    modpkg("export", "summarizer", "--to", "hf", "out")
    model, info = AutoModelForCausalLM.from_pretrained(
        "out", dtype="auto", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    ids = AutoTokenizer.from_pretrained("out")(
        "The bridge reopened.", return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, package.load("summarizer")(ids).logits)


def test_an_export_can_be_imported_unchanged(examples: Path) -> None:
    app('minilm-l6 = "~=1.0"\n')
    modpkg("export", "minilm-l6", "--to", "hf", "out")
    modpkg("import", "hf", "out", "--name", "minilm-copy", "--license", "Apache-2.0")
    modpkg("build", "minilm-copy")
    line = modpkg_json("build", "minilm-copy")
    from modpkg.registry.reader import Registry

    original = Registry(str(examples)).index("minilm-l6")[0]
    assert line["provides"] == original.provides


def test_a_peft_directory_becomes_a_module(examples: Path) -> None:
    modpkg(
        "import", "peft", LORA, "--name", "mine", "--base", "smollm2-135m>=1,<2", "--out", "mine"
    )
    built = modpkg("build", "mine").stdout
    assert "against  smollm2-135m 1.0.0" in built


def test_the_sentiment_head_classifies(examples: Path) -> None:
    app('sentiment = "^1.0"\n')
    for text, label in (
        ("What a wonderful, kind and funny film. I loved it!", "positive"),
        ("The worst phone I ever bought. It broke and support was rude.", "negative"),
    ):
        Path("text.txt").write_text(text)
        result = modpkg_json("run", "sentiment", "text.txt")
        assert result["labels"][0][0] == label
    modpkg("export", "sentiment", "--to", "hf", "out")
    from transformers import AutoModelForSequenceClassification

    _, info = AutoModelForSequenceClassification.from_pretrained("out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not Path("out/modules.json").exists()  # it reads the transformer itself, not a pooling


@pytest.mark.parametrize("described", [True, False], ids=["with modules.json", "without"])
def test_embeddings_equal_sentence_transformers(examples: Path, described: bool) -> None:
    """What `modpkg run` prints is what sentence-transformers makes of the export."""
    from sentence_transformers import SentenceTransformer

    name = "minilm-l6"
    app('minilm-l6 = "~=1.0"\n')
    if not described:
        modpkg("export", name, "--to", "hf", "bare")
        for path in (Path("bare/modules.json"), Path("bare/sentence_bert_config.json")):
            path.unlink(missing_ok=True)
        shutil.rmtree("bare/1_Pooling")
        name = "bare"
        registry = str(Path("registry").absolute())
        modpkg("import", "hf", "bare", "--name", name, "--license", "MIT", "--out", "module")
        modpkg("build", "module", "--registry", registry)
        modpkg("publish", "module", "--registry", registry)
        app('bare = { version = "*", registry = "own" }\n[registries]\nown = "registry"\n')
    Path("text.txt").write_text("A bridge was reopened.")
    ours = torch.tensor(modpkg_json("run", name, "text.txt")["embedding"])
    modpkg("export", name, "--to", "sentence-transformers", "out")
    theirs = SentenceTransformer("out", device="cpu").encode(["A bridge was reopened."])[0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-6, rtol=1e-5)


def test_an_app_uses_models_by_name_and_version(examples: Path) -> None:
    shutil.copytree(ROOT / "examples" / "newsroom", "newsroom")
    folder = Path("newsroom")
    modpkg("install", cwd=folder)
    assert modpkg_json("list", cwd=folder)["models"].keys() == {
        "gentle-summarizer",
        "sentiment",
        "smollm2-135m",
        "summarize-lora",
        "summarizer",
    }
    done = subprocess.run(
        [forkserver.python(), "newsroom.py", "article.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "article.txt: the tone is" in done.stdout


@pytest.mark.parametrize("name", ["summarizer", "minilm-l6"])
def test_running_reads_standard_input(examples: Path, name: str) -> None:
    app(f'{name} = "*"\n')
    done = subprocess.run(
        [forkserver.python(), "-m", "modpkg", "run", name],
        input="The library opened again after two years of repairs.",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""
