"""Testing and vetting on real weights: MiniLM, the sentiment head, and people's ratings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.command import modpkg, modpkg_json
from tests.e2e.conftest import ROOT, Demo
from tests.modules import write_module

HEAD = ROOT / "examples" / "modules" / "sentiment-head" / "1.0.0"
LINES = [
    ("What a wonderful, kind and funny film. I loved it!", "positive"),
    ("The best phone I ever had, it works perfectly.", "positive"),
    ("Thank you so much, this made my day!", "positive"),
    ("A brilliant cast and a moving story.", "positive"),
    ("I am so happy with this purchase.", "positive"),
    ("Great service and lovely people.", "positive"),
    ("The worst phone I ever bought. It broke and support was rude.", "negative"),
    ("A dull, ugly and endless film.", "negative"),
    ("I hate this, it is terrible.", "negative"),
    ("Disgusting food and horrible staff.", "negative"),
    ("This is a sad and awful day.", "negative"),
    ("It was a disaster, nothing works.", "negative"),
]


@pytest.fixture
def registry(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example registry, with a head that has tests and a third party's suite."""
    registry = tmp_path / "registry"
    shutil.copytree(demo.home / "registry", registry)
    monkeypatch.setenv("MODPKG_REGISTRY", str(registry))
    pairs = [{"text": text, "other": text.replace("phone", "car")} for text, _ in LINES]
    suite = write_module(
        tmp_path / "things",
        "things",
        kind="suite",
        more='[[tests]]\nname = "phone or car"\ncases = "pairs.jsonl"\nmetric = "invariance"\n'
        'at_least = 0.9\n[[tests]]\nname = "gap"\ncases = "pairs.jsonl"\nmetric = "bias"\n'
        "at_most = 0.2\n",
        files={"pairs.jsonl": "\n".join(map(json.dumps, pairs)).encode()},
    )
    modpkg("build", suite)
    modpkg("publish", suite)
    head = tmp_path / "head"
    shutil.copytree(HEAD, head)
    (head / "tests").mkdir()
    rows = [json.dumps({"text": text, "label": label}) for text, label in LINES]
    (head / "tests" / "lines.jsonl").write_text("\n".join(rows))
    text = (head / "modpkg.toml").read_text().replace('"1.0.0"', '"1.1.0"')
    (head / "modpkg.toml").write_text(
        text
        + '[suites]\nthings = "~=1.0"\n[[tests]]\nname = "lines"\ncases = "tests/lines.jsonl"\n'
        'metric = "accuracy"\nat_least = 0.9\n'
    )
    return registry


def candidate(demo: Demo, folder: Path, layers: tuple[str, ...], noise: float) -> Path:
    """Write a new MiniLM: some layers with noise of so much of their spread."""
    shutil.copytree(demo.home / "work" / "minilm-l6", folder, ignore=lambda *_: ["dist"])
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in sorted(tensors.items()):
        if tensor.ndim == 2 and any(layer in name for layer in layers):
            drawn = torch.randn(tensor.shape, generator=generator)
            tensors[name] = (tensor + noise * tensor.std() * drawn).contiguous()
    save_file(tensors, folder / "model.safetensors")
    text = (folder / "modpkg.toml").read_text().replace('"1.0.0"', '"1.0.1"')
    (folder / "modpkg.toml").write_text(text)
    return folder


def test_a_base_is_vetted_by_the_tests_of_the_head_on_it(
    demo: Demo, registry: Path, tmp_path: Path
) -> None:
    head = tmp_path / "head"
    failed = modpkg("test", head.name, check=False, cwd=tmp_path)
    assert failed.returncode == 1  # a name is an installed model, and nothing is installed
    [report] = modpkg_json("test", cwd=head)["reports"]
    assert [(r["suite"], r["test"], r["passed"]) for r in report["results"]] == [
        ("sentiment-head", "lines", True),
        ("things", "phone or car", True),
        ("things", "gap", True),
    ]
    modpkg("build", head)
    modpkg("publish", head)

    near = candidate(demo, tmp_path / "near", ("layer.5.",), 1e-3)
    done = modpkg("vet", near, "--json", check=False)
    result = json.loads(done.stdout)
    assert (done.returncode, result["verdict"]) == (0, "accept"), result["reason"]
    [tested] = [one for one in result["dependants"] if one["state"] == "tested"]
    assert tested["name"] == "sentiment-head"
    lines = tested["changes"][0]
    assert lines["before"] == report["results"][0]
    assert (lines["negative"], lines["positive"]) == (0, 0)
    assert modpkg("vet", near, "--json", check=False).stdout == done.stdout

    far = candidate(demo, tmp_path / "far", ("layer.",), 1.0)
    done = modpkg("vet", far, check=False)
    assert done.returncode == 1
    assert "reject: With it, sentiment-head 1.1.0 fails test 'lines'" in done.stdout


def test_generated_text_is_tested(examples: Path, tmp_path: Path) -> None:
    """Batches of several lengths give what one text at a time gives, and likelihoods add up."""
    articles = [
        "The library opened again on Monday after two years of repairs to its roof.",
        "A bridge was closed. Engineers found a crack in one of its cables during an "
        "inspection, and said that it will take three weeks to mend.",
    ]
    written = {}
    app = tmp_path / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text(
        '[app]\nname = "news"\n[dependencies]\nsmollm2-135m = "*"\nsummarize-lora = "~=1.2"\n'
        '[models.short]\nbase = "smollm2-135m"\ndtype = "float32"\n'
        'steps = [{ op = "lora", module = "summarize-lora" }]\n'
        '[models.short.task]\nkind = "summarization"\nmax_new_tokens = 10\n'
        'prompt = "{{ text }}\\n\\nSummarize the text above in one sentence."\n'
        + "".join(
            f'[[tests]]\nname = "{metric}"\ncases = "c.jsonl"\nmetric = "{metric}"\n'
            'model = "short"\n'
            for metric in ("rouge_l", "exact_match", "perplexity")
        )
    )
    modpkg("install", cwd=app)
    for article in articles:
        (app / "text.txt").write_text(article)
        written[article] = modpkg_json("run", "short", "text.txt", cwd=app)["text"]
    rows = [json.dumps({"text": text, "expected": made}) for text, made in written.items()]
    (app / "c.jsonl").write_text("\n".join(rows))
    [report] = modpkg_json("test", cwd=app)["reports"]
    values = {result["metric"]: result["value"] for result in report["results"]}
    assert values["rouge_l"] == 1.0
    assert values["exact_match"] == 1.0
    assert 5 < values["perplexity"] < 100
