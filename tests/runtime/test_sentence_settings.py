"""Settings of sentence-transformers: each applied as it does itself, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modpkg.core.errors import RunError
from modpkg.runtime.pipeline import open_pipeline
from modpkg.runtime.sentence_modules import check_modules
from modpkg.runtime.sentence_settings import read_settings
from tests.raising import raises
from tests.runtime.helpers import bert, install, llama, tokenizer

TEXT = "The cat sat on a mat and then it slept"
PROMPTS = {"prompts": {"query": "it sat : ", "passage": "the mat <eos>", "none": None}}
LONG = {"max_seq_length": 6}
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def write(folder: Path, files: dict[str, Any], *kinds: str) -> None:
    """Write a model's modules and settings into a folder that has the transformer."""
    modules = [
        {
            "name": str(n),
            "path": f"{n}_{k}" if n else "",
            "type": f"sentence_transformers.models.{k}",
        }
        for n, k in enumerate(("Transformer", "Pooling", *kinds))
    ]
    pooling = {"embedding_dimension": 32, "pooling_mode": "mean"}
    for path, value in {"modules.json": modules, "1_Pooling/config.json": pooling, **files}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(value))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A transformer: as it was saved, as it is installed, and its packs."""
    folder = tmp_path_factory.mktemp("plain")
    home, packs = install(folder, bert())
    tokenizer().save_pretrained(folder / "saved")
    return folder / "saved", home, packs


@pytest.fixture
def both(plain: tuple[Path, Path, Path], tmp_path: Path) -> Callable[..., Any]:
    """Write a model's files twice; return our vector of the text and sentence-transformers'."""

    def vectors(files: dict[str, Any], *kinds: str, prompt_name: str | None = None) -> Any:
        from sentence_transformers import SentenceTransformer

        saved, home = tmp_path / "saved", tmp_path / "home"
        shutil.copytree(plain[0], saved)
        shutil.copytree(plain[1], home)
        write(saved, files, *kinds)
        write(home, files, *kinds)
        model = SentenceTransformer(str(saved), device="cpu", local_files_only=True)
        wanted = torch.from_numpy(model.encode(TEXT, prompt_name=prompt_name))
        return torch.tensor(
            open_pipeline(home, plain[2])(TEXT, prompt_name=prompt_name).embedding
        ), wanted

    return vectors


def settings(**values: Any) -> dict[str, Any]:
    return {"config_sentence_transformers.json": values}


def transformer(**values: Any) -> dict[str, Any]:
    return {"sentence_bert_config.json": values}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("files", "prompt_name"),
    [
        (settings(**PROMPTS, default_prompt_name="query"), None),
        (settings(**PROMPTS, default_prompt_name="query"), "passage"),
        (settings(**PROMPTS, default_prompt_name="query"), "none"),
        (settings(**PROMPTS, default_prompt_name="query"), "document"),
        (settings(**PROMPTS), None),
        (settings(**PROMPTS), "query"),
        (settings(truncate_dim=8), None),
        (settings(truncate_dim=99), None),
        (settings(default_prompt_name="document"), None),
        (transformer(**LONG), None),
        ({**transformer(**LONG), **settings(**PROMPTS, default_prompt_name="query")}, None),
        (transformer(do_lower_case=True), None),
        (transformer(processor_kwargs={"model_max_length": 4}), None),
        ({"sentence_roberta_config.json": LONG}, None),
    ],
)
def test_settings_are_those_of_sentence_transformers(
    both: Any, files: dict[str, Any], prompt_name: str | None
) -> None:
    ours, wanted = both(files, prompt_name=prompt_name)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prompt", ["query", "passage"])
@pytest.mark.parametrize("mode", POOLINGS)
def test_a_pooling_may_leave_out_the_prompt(both: Any, mode: str, prompt: str) -> None:
    pooling = {"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": False}
    files = {**settings(**PROMPTS, default_prompt_name=prompt), "1_Pooling/config.json": pooling}
    ours, wanted = both(files)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_dropout_does_nothing_and_vectors_are_cut_after_normalizing(both: Any) -> None:
    files = {**settings(truncate_dim=8), "2_Dropout/config.json": {"dropout": 0.5}}
    ours, wanted = both(files, "Dropout", "Normalize")
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)
    assert ours.norm() < 0.9


def test_a_layer_norm_is_the_one_of_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    from modpkg.runtime.dense import normalize_layer

    own = LayerNorm(4)
    torch.nn.init.normal_(own.norm.weight)
    weights = {name: value.detach() for name, value in own.state_dict().items()}
    x = torch.randn(3, 4)
    wanted = own({"sentence_embedding": x})["sentence_embedding"].detach()
    assert torch.equal(normalize_layer("m", "2", {"dimension": 4}, weights, x), wanted)
    with raises("M704", match="of width 4, but gets 5"):
        normalize_layer("m", "2", {"dimension": 4}, weights, torch.randn(3, 5))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (settings(model_type="SparseEncoder"), "it is a 'SparseEncoder'"),
        (settings(model_type=7), "it is a 7"),
        (settings(prompts=["query"]), "prompts that are not texts"),
        (settings(prompts={"query": 1}), "prompts that are not texts"),
        (settings(default_prompt_name="sts"), "default prompt 'sts', but its prompts are"),
        (settings(default_prompt_name=["query"]), "default prompt"),
        (settings(truncate_dim=-1), "truncate_dim -1"),
        (settings(truncate_dim=True), "truncate_dim True"),
        (transformer(max_seq_length="8"), "max_seq_length '8'"),
        (transformer(do_lower_case="yes"), "do_lower_case 'yes'"),
        (transformer(transformer_task="fill-mask"), "transformer_task 'fill-mask'"),
        (transformer(modality_config={"text": {}}), "last hidden state"),
        (transformer(model_args={"torch_dtype": "float16"}), "'torch_dtype' in model_args"),
        (transformer(tokenizer_args={"add_eos_token": True}), "'add_eos_token' in tokenizer_args"),
        (transformer(new_key=1), "'new_key', which is not applied"),
    ],
)
def test_a_setting_that_is_not_applied_is_refused(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    write(tmp_path, files)
    with raises("M704", match=message):
        read_settings("m", tmp_path)


def test_settings_count_only_beside_modules(tmp_path: Path) -> None:
    write(tmp_path, settings(truncate_dim=8))
    (tmp_path / "modules.json").unlink()
    assert read_settings("m", tmp_path).truncate_dim is None


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["StaticEmbedding"], "names StaticEmbedding"),
        (["Router"], "names Router"),
        (["Transformer", "WordWeights", "Pooling"], "names WordWeights"),
        (["Transformer", "custom_st.Pooling"], "names custom_st.Pooling"),
        (["Transformer"], "lists Transformer;"),
        (["Transformer", "Normalize", "Pooling"], "lists Transformer, Normalize, Pooling;"),
        ([], "lists nothing"),
    ],
)
def test_a_module_that_is_not_run_is_named(kinds: list[str], message: str) -> None:
    with raises("M704", match=message):
        check_modules("m", [(kind, "") for kind in kinds])
    with pytest.raises(RunError, match="lies in 0_Transformer/"):
        check_modules("m", [("Transformer", "0_Transformer"), ("Pooling", "1_Pooling")])


def test_a_prompt_that_is_not_there_is_told(tmp_path: Path) -> None:
    home, packs = install(tmp_path / "a", bert())
    write(home, settings(prompts={"sts": ""}))
    with raises("M724", match="no prompt named 'web'; it has 'document', 'query', 'sts'"):
        open_pipeline(home, packs)(TEXT, prompt_name="web")
    home, packs = install(tmp_path / "b", llama(vocab_size=13))
    with raises("M725", match="text-generation"):
        open_pipeline(home, packs)(TEXT, prompt_name="web")


def test_a_tasks_own_prompt_takes_the_place_of_the_default_one(tmp_path: Path) -> None:
    task: dict[str, object] = {"kind": "feature-extraction", "prompt": "it {{ text }}"}
    home, packs = install(tmp_path, bert(), task=task)
    write(home, settings(**PROMPTS, default_prompt_name="query"))
    write(tmp_path, settings(prompts={"own": "it "}))
    own = open_pipeline(home, packs)(TEXT).embedding
    shutil.copy(tmp_path / "config_sentence_transformers.json", home)
    assert own == open_pipeline(home, packs)(TEXT, prompt_name="own").embedding


def test_static_embeddings_are_refused_at_import(tmp_path: Path) -> None:
    from modpkg.interop.hf import import_hf

    (tmp_path / "in").mkdir()
    save_file({"embedding.weight": torch.ones(2, 2)}, tmp_path / "in" / "model.safetensors")
    entry = {"name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}
    (tmp_path / "in" / "modules.json").write_text(json.dumps([entry]))
    with raises("M801", match="StaticEmbedding, which is not supported"):
        import_hf(tmp_path / "in", tmp_path / "out", "m", "1")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bert whole", "bert encoder", "llama whole", "llama encoder"])
def test_the_encoder_of_a_language_model_is_run(tmp_path: Path, kind: str) -> None:
    """As `AutoModel` does: the output layer is left out, whatever class the config names."""
    from sentence_transformers import SentenceTransformer
    from transformers import BertForMaskedLM, LlamaModel

    name, _, part = kind.partition(" ")
    if name == "bert":
        model = BertForMaskedLM(bert().config).eval()
        inner: Any = bert()
        architecture = "BertForMaskedLM"
    else:
        model = llama(vocab_size=13)
        inner = LlamaModel(model.config).eval()
        architecture = "LlamaForCausalLM"
    config = {"architectures": [architecture]}
    home, packs = install(tmp_path, model if part == "whole" else inner, config=config)
    saved = tmp_path / "saved"
    shutil.copy(home / "config.json", saved)
    tokenizer().save_pretrained(saved)
    write(saved, {})
    write(home, {})
    judge = SentenceTransformer(str(saved), device="cpu", local_files_only=True)
    ours = open_pipeline(home, packs)(TEXT).embedding
    wanted = torch.from_numpy(judge.encode(TEXT))
    torch.testing.assert_close(torch.tensor(ours), wanted, rtol=0, atol=1e-6)
