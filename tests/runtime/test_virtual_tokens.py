"""Virtual tokens: the forward pass equals PEFT's, and unknown tensors and settings are refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import modpkg
from modpkg.compose.executor import compose
from modpkg.compose.mapping import map_tensors
from modpkg.compose.plan import plan
from modpkg.core.errors import ComposeError, ModpkgError
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Step
from modpkg.runtime.live_parts import parts_of
from modpkg.runtime.load import build_model
from modpkg.runtime.virtual_tokens import attach
from tests import tiny
from tests.command import modpkg as command
from tests.command import modpkg_json, refused
from tests.compose.helpers import of_folder
from tests.compose.oracle import close
from tests.raising import raises
from tests.runtime.helpers import SMALL, WORDS, gpt2, llama, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 3, 2, 4]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, intermediate_size=48, num_labels=3)
    return transformers.BertForSequenceClassification(config).eval()


def labels() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, num_labels=3, pad_token_id=0
    )
    return transformers.LlamaForSequenceClassification(config).eval()


def t5() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=97, **sizes, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config).eval()


TASKS = {llama: "CAUSAL_LM", gpt2: "CAUSAL_LM", bert: "SEQ_CLS", labels: "SEQ_CLS",
         t5: "SEQ_2_SEQ_LM"}  # fmt: skip
KINDS: dict[str, Callable[..., Any]] = {
    "prompt": peft.PromptTuningConfig,
    "p": peft.PromptEncoderConfig,
    "prefix": peft.PrefixTuningConfig,
    "projected prefix": lambda **options: peft.PrefixTuningConfig(
        prefix_projection=True, encoder_hidden_size=12, **options
    ),
    "multitask": lambda **options: peft.MultitaskPromptTuningConfig(
        num_tasks=3, num_ranks=2, **options
    ),
}


def trained(folder: Path, build: Callable[[], Any], kind: str, **options: Any) -> Any:
    """Save a base and virtual tokens for it; return PEFT's model, read from there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build()
        model.save_pretrained(folder / "base")
        config = KINDS[kind](task_type=TASKS[build], num_virtual_tokens=4, **options)
        wrapped = peft.get_peft_model(model, config)
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn_like(parameter)
        wrapped.save_pretrained(folder / "adapter")
        base = type(model).from_pretrained(folder / "base")
        return peft.PeftModel.from_pretrained(base, folder / "adapter").eval()


def composition(folder: Path, op: str = "prompt", **options: Any) -> Any:
    modules = {
        "base": of_folder(folder / "base", "base", "base"),
        "adapter": of_folder(folder / "adapter", "adapter", "adapter"),
    }
    step = Step(op=op, module=ModuleName("adapter"), **options)
    return plan("model", "1.0", Compose(base=ModuleName("base"), steps=(step,)), modules)


def ours(folder: Path, **options: Any) -> Any:
    composed = compose(composition(folder, **options), folder / "store", threads=1)
    out = folder / "out"
    out.mkdir()
    (out / "config.json").write_text(json.dumps(composed.config))
    model = build_model("model", out, map_tensors(composed.tensors.items()))
    assert composed.prompt is not None
    attach("model", model, composed.prompt, map_tensors(composed.prompt.tensors.items()))
    return model


def outputs(model: Any, **more: Any) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        more["decoder_input_ids"] = IDS
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK, **more).logits
    assert isinstance(found, torch.Tensor)
    return found


CASES = [
    *((build, kind) for build in (llama, gpt2) for kind in KINDS),
    *((build, kind) for build in (bert, labels) for kind in ("prompt", "p", "multitask")),
    *((build, kind) for build in (bert, labels) for kind in ("prefix",)),
    *((t5, kind) for kind in ("prompt", "p", "prefix")),
]


@pytest.mark.parametrize(
    ("build", "kind"), CASES, ids=[f"{build.__name__}-{kind}" for build, kind in CASES]
)
def test_the_forward_pass_equals_pefts(build: Any, kind: str, tmp_path: Path) -> None:
    theirs = trained(tmp_path, build, kind)
    multitask = kind == "multitask"
    more = {"task_ids": torch.tensor([2, 2])} if multitask else {}
    wanted = outputs(theirs, **more)
    model = ours(tmp_path, **({"parameters": {"task": 2.0}} if multitask else {}))
    got = outputs(model)
    assert got.shape == wanted.shape
    close(got, wanted)
    assert model.virtual_tokens == 4
    if build is bert and not multitask and kind != "prefix":
        types = torch.tensor([[0, 0, 1, 1, 1]] * 2)
        close(outputs(model, token_type_ids=types), outputs(theirs, token_type_ids=types))
    if build is llama and not multitask:
        close(outputs(model, labels=IDS), outputs(theirs, labels=IDS))
    if not model.can_generate():
        return
    for beams in (1, 3):
        more = {"task_ids": torch.tensor([2, 2])} if multitask else {}
        options = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False}
        options |= {"eos_token_id": None, "pad_token_id": 0, "attention_mask": MASK}
        got = model.generate(input_ids=IDS, **options).tolist()
        wanted = theirs.generate(input_ids=IDS, **options, **more).tolist()
        if build is not t5:  # padded, a row is what it is alone: PEFT forgets its position
            options["attention_mask"] = MASK[1:, 2:]
            more = {"task_ids": torch.tensor([2])} if multitask else {}
            alone = theirs.generate(input_ids=IDS[1:, 2:], **options, **more)[0].tolist()
            wanted[1][-6:] = alone[-6:]
        assert got == wanted


def test_without_a_cache_and_one_token_after_the_other(tmp_path: Path) -> None:
    """What a cache holds is what would be read again."""
    for kind in ("prompt", "prefix"):
        folder = tmp_path / kind
        trained(folder, llama, kind)
        model = ours(folder)
        with torch.no_grad():
            whole = model(IDS).logits[:, -1]
            first = model(IDS[:, :3], use_cache=True)
            cache = first.past_key_values
            assert cache.get_seq_length() == 7
            rest = model(IDS[:, 3:], past_key_values=cache, attention_mask=torch.ones_like(IDS))
        close(rest.logits[:, -1], whole)
        options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
        one, two = (model.generate(IDS, use_cache=use, **options) for use in (True, False))
        assert one.tolist() == two.tolist()


def test_a_cache_of_fixed_length_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, llama, "prompt")
    with raises("M700", match="cache that grows"):
        ours(tmp_path).generate(
            IDS, cache_implementation="static", max_new_tokens=4, do_sample=False
        )


def test_a_classifier_saved_with_the_tokens_is_used(tmp_path: Path) -> None:
    """The base is an encoder alone, and PEFT has saved the classifier with the tokens."""
    theirs = trained(tmp_path, bert, "prompt")
    shutil.rmtree(tmp_path / "base")
    bert().bert.save_pretrained(tmp_path / "base")
    model = ours(tmp_path)
    assert model.config.num_labels == 3
    close(outputs(model), outputs(theirs))


# Refusals -----------------------------------------------------------------------------------


def test_other_operators_refuse_virtual_tokens(tmp_path: Path) -> None:
    trained(tmp_path, llama, "prompt")
    with raises("M601", match=r'of type PROMPT_TUNING.*op = "prompt"'):
        composition(tmp_path, op="lora")
    for options, message in (
        ({"scale": 0.5}, "has a scale"),
        ({"parameters": {"task": 1.0}}, r"is for 1 task\(s\)"),
    ):
        with raises("M601", match=message):
            composition(tmp_path, **options)
    modules = {n: of_folder(tmp_path / n, n, "base") for n in ("base", "adapter")}
    step = Step(op="prompt", module=ModuleName("adapter"))
    with raises("M708", match="virtual tokens of adapter"):
        parts_of(tmp_path, {"x": Compose(base=ModuleName("base"), steps=(step,))}, modules)
    modules["second"] = of_folder(tmp_path / "adapter", "second", "adapter")
    steps = (step, Step(op="prompt", module=ModuleName("second")))
    with raises("M601", match="adapter and second both have"):
        plan("x", "1", Compose(base=ModuleName("base"), steps=steps), modules)


EDITS: list[tuple[str, dict[str, Any], str]] = [
    ("prompt", {"num_virtual_tokens": 5}, "needs [5, 32]"),
    ("prompt", {"token_dim": 16}, "needs [4, 16]"),
    ("prompt", {"num_layers": 3}, "'layers' is 3"),
    ("prompt", {"task_type": "TOKEN_CLS"}, "task_type is 'TOKEN_CLS'"),
    ("prompt", {"task_type": "SEQ_CLS"}, "are for SEQ_CLS"),
    ("prompt", {"peft_type": "CPT"}, "CPT"),
    ("prompt", {"mystery": 1}, "mystery"),
    ("prompt", {"peft_type": "MULTITASK_PROMPT_TUNING"}, "do not agree about 'columns'"),
    ("prefix", {"num_attention_heads": 3}, "not a multiple"),
    ("prefix", {"num_attention_heads": 4}, "4 heads of 4"),
    ("prefix", {"num_layers": 4}, "needs [4, 128]"),
    ("multitask", {"num_tasks": 2}, "prefix_task_cols"),
]


@pytest.mark.parametrize(("kind", "edit", "message"), EDITS, ids=[str(e[1]) for e in EDITS])
def test_tensors_that_do_not_fit_are_named(
    kind: str, edit: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trained(tmp_path, llama, kind)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    options = {"parameters": {"task": 0.0}} if kind == "multitask" else {}
    with pytest.raises(ModpkgError) as caught:
        composition(tmp_path, **options)
    assert isinstance(caught.value, ComposeError)
    assert message in str(caught.value)


def test_unused_tensors_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, llama, "prompt")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, message in (
        ("base_model.model.surplus.weight", "surplus"),
        ("prefix_task_rows", "'rows'"),
        ("base_model.prompt_embeddings.weight", "prompt_embeddings"),
    ):
        save_file({**tensors, name: torch.ones(2, 2)}, path)
        with pytest.raises(ModpkgError, match=message):
            composition(tmp_path)


# Published and installed --------------------------------------------------------------------


def test_import_publish_install_and_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(**options: Any) -> Any:
        return llama(vocab_size=len(WORDS), **options)

    TASKS[small] = "CAUSAL_LM"
    theirs = trained(tmp_path, small, "prompt")
    tokenizer().save_pretrained(tmp_path / "base")
    command("import", "hf", tmp_path / "base", "--name", "small", "--out", "base")
    source = tmp_path / "adapter"
    command("import", "peft", source, "--name", "polite", "--base", "small", "--out", "polite")
    Path("model").mkdir()
    Path("model/modpkg.toml").write_text(
        '[module]\nname = "talker"\nversion = "1.0"\nkind = "model"\nlicense = "MIT"\n'
        '[dependencies]\nsmall = "*"\npolite = "*"\n'
        '[compose]\nbase = "small"\nsteps = [{ op = "prompt", module = "polite" }]\n'
        '[task]\nkind = "text-generation"\nmax_new_tokens = 6\nchat = false\n'
    )
    registry = home / "registry"
    for folder in ("base", "polite", "model"):
        tiny.publish(Path(folder), registry)
    Path("app").mkdir()
    app = Path("app/modpkg.toml")
    app.write_text('[app]\nname = "x"\n[dependencies]\ntalker = "*"\nsmall = "*"\n')
    command("install", cwd=Path("app"))
    shutil.rmtree(home / "store")  # an environment stands by itself
    assert "exact" in command("show", "polite", cwd=Path("app")).stdout
    Path("text").write_text("the cat sat")
    result = modpkg_json("run", "talker", Path("text").absolute(), cwd=Path("app"))
    ids = tokenizer()("the cat sat", return_tensors="pt")
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    wanted = theirs.generate(**{k: ids[k] for k in ("input_ids", "attention_mask")}, **options)
    text = tokenizer().decode(wanted[0, 3:], skip_special_tokens=True).strip()
    assert result["text"] == text
    plain = modpkg_json("run", "small", Path("text").absolute(), cwd=Path("app"))
    assert plain["text"] != text
    for form in ("hf", "safetensors"):
        message = refused("export", "talker", "--to", form, Path("out").absolute(), cwd=Path("app"))
        assert "virtual tokens of polite" in message
    assert not Path("out").exists()
    monkeypatch.chdir("app")
    with raises("M805", match="virtual tokens"):
        modpkg.path("talker")


def test_the_resolver_refuses_another_width_or_depth(home: Path, tmp_path: Path) -> None:
    trained(tmp_path, llama, "prompt")
    command("import", "hf", tmp_path / "base", "--name", "small", "--out", "base")
    command("import", "peft", tmp_path / "adapter", "--name", "polite", "--base", "small",
            "--out", "polite")  # fmt: skip
    for folder in ("base", "polite"):
        tiny.publish(Path(folder), home / "registry")
    other = llama(num_hidden_layers=3)
    other.save_pretrained(tmp_path / "deep")
    command("import", "hf", tmp_path / "deep", "--name", "small", "--version", "2", "--out", "deep")
    tiny.publish(Path("deep"), home / "registry")
    Path("modpkg.toml").write_text('[app]\nname = "x"\n[dependencies]\nsmall = ">=2"\npolite = "*"')
    message = refused("install")
    assert "port 'layers' is 3, not 2" in message
    message = refused("build", "polite")
    assert "'layers' is 2" in message


def test_a_mask_that_cannot_grow(tmp_path: Path) -> None:
    trained(tmp_path, llama, "prompt")
    mask = torch.zeros(2, 1, 5, 5)
    with raises("M700", match=r"attention_mask of \[batch, length\]"):
        ours(tmp_path)(IDS, attention_mask=mask)
