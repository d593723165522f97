"""What needs a package that is not installed says so at once, and not after the work."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import modpkg
from tests import tiny
from tests.e2e.remedies import Run, fails, works
from tests.raising import raises

WORK = (
    "modpkg.compose.executor.compose",
    "modpkg.environment.first_load.compose_at_load",
    "modpkg.runtime.load.load_model",
    "modpkg.community.evaluate.builds.build_project",
    "modpkg.cli.compose.plan_install",
    "modpkg.interop.gguf.read_parts",
)
"""What takes long, or comes before what takes long."""
TESTS = '[[tests]]\nname = "t"\ncases = "{}"\nmetric = "{}"\nat_most = 99\n'


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package one that is not installed, and any long work an error."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)

    def too_late(*arguments: object, **options: object) -> None:
        raise AssertionError("the work began")

    for name in WORK:
        monkeypatch.setattr(name, too_late)


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("transformers", "transformers", ["run", "tiny-lora", "text"]),
        ("transformers", "transformers", ["test"]),
        ("gguf", "gguf", ["import", "gguf", "model.gguf", "--license", "MIT"]),
        ("yaml", "mergekit", ["import", "mergekit", "recipe.yml"]),
        ("distributed", "dask", ["compose", "--executor", "dask://127.0.0.1:1"]),
    ],
)
def test_m703_before_the_work(
    package: str,
    extra: str,
    command: list[str],
    registry: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works(run, "install")
    for name in ("model.gguf", "recipe.yml"):
        Path(name).touch()
    if command[0] == "test":
        app = Path("modpkg.toml")
        app.write_text(app.read_text() + TESTS.format("c.jsonl", "perplexity"))
        Path("c.jsonl").write_text('{"text": "a"}\n')
        works(run, "lock")
        command = ["test"]
    hide(monkeypatch, package)
    assert f"pip install 'modpkg[{extra}]'" in fails(run, "M703", *command)


@pytest.mark.parametrize(
    ("package", "cases", "metric", "extra"),
    [
        ("transformers", "c.jsonl", "perplexity", "transformers"),
        ("pyarrow", "c.parquet", "perplexity", "parquet"),
        ("rouge_score", "c.jsonl", "rouge_l", "eval"),
    ],
)
@pytest.mark.parametrize("command", ["test", "vet"])
def test_m703_of_tests_before_a_module_is_built(
    command: str,
    package: str,
    cases: str,
    metric: str,
    extra: str,
    registry: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny.write_base(Path("new"), "3.0")
    manifest = folder / "modpkg.toml"
    manifest.write_text(manifest.read_text() + TESTS.format(cases, metric))
    (folder / cases).write_text('{"text": "a"}\n')
    hide(monkeypatch, package)
    words = ["-C", str(folder), "test"] if command == "test" else ["vet", str(folder)]
    assert f"pip install 'modpkg[{extra}]'" in fails(run, "M703", *words)


def test_m703_in_python(registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    works(run, "install")
    hide(monkeypatch, "transformers")
    for call in (modpkg.load, modpkg.pipeline, modpkg.tokenizer):
        with raises("M703", match="transformers"):
            call("tiny-lora")
    with raises("M703", match="transformers"):
        modpkg.run("tiny-lora", "text")


def test_m704_of_no_tokenizer_comes_before_composing_and_loading(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(run, "install")
    shutil.rmtree(registry)
    for name in WORK[:3]:
        monkeypatch.setattr(name, lambda *arguments, **options: pytest.fail("the work began"))
    assert "it has no tokenizer" in fails(run, "M704", "run", "tiny-lora", "text")
    for call in (modpkg.pipeline, lambda name: modpkg.run(name, "text")):
        with raises("M704", match="it has no tokenizer"):
            call("tiny-lora")


def test_m895_of_a_light_install(registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    works(run, "install")
    with monkeypatch.context() as patch:
        hide(patch, "torch")
        assert "pip install torch" in fails(run, "M895", "run", "tiny-lora", "text")
    assert "M895" not in run("run", "tiny-lora", "text")[1]
