"""Hostile modules: configs, tokenizers, templates, paths, and text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests import tiny
from tests.conftest import safetensors_bytes
from tests.hostile.case import INSTALL, RUN, Commands, Input, Make
from tests.hostile.world import GENERATION, TOKENIZER, TOKENIZER_CONFIG, Json, World, dumped

# Configs ------------------------------------------------------------------------------------

_CODE = {"AutoModel": "m.Evil", "AutoModelForCausalLM": "m.Evil", "AutoConfig": "m.Evil"}
_NESTED: Any = {}
for _ in range(200):
    _NESTED = {"a": _NESTED}
_CONFIGS: dict[str, Any] = {
    "auto_map": {"auto_map": _CODE},
    "auto_map inside": {"text_config": {"a": {"auto_map": _CODE}}},
    "a kernel": {"_attn_implementation": "evil/kernel"},
    "a kernel inside": {"text_config": {"attn_implementation": "evil/kernel"}},
    "flex_attention": {"attn_implementation": "flex_attention"},
    "experts_implementation": {"experts_implementation": "evil/x"},
    "a backbone": {"backbone": "evil/backbone", "use_timm_backbone": True},
    "an address": {"backbone_config": {"backbone": "http://127.0.0.1:9/x"}},
    "trust_remote_code": {"trust_remote_code": True},
    "a quantisation": {"quantization_config": {"quant_method": "evil"}},
    "a kernel of quantisation": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "10^9 layers": {"num_hidden_layers": 10**9},
    "10^5 layers": {"num_hidden_layers": 10**5},
    "10^9 words": {"vocab_size": 10**9},
    "10^9 positions": {"max_position_embeddings": 10**12},
    "10^9 heads": {"num_attention_heads": 10**9},
    "a width of 10^9": {"hidden_size": 10**9},
    "10^8 labels": {"num_labels": 10**8},
    "10^6 labels": {"id2label": {str(n): "x" for n in range(10**5)}},
    "no layers": {"num_hidden_layers": 0},
    "no heads": {"num_attention_heads": 0},
    "a negative width": {"hidden_size": -8},
    "a width that is text": {"hidden_size": "8"},
    "a number too large": {"rms_norm_eps": 1e999},
    "NaN": {"rms_norm_eps": float("nan")},
    "an unknown model": {"model_type": "evil"},
    "another model": {"model_type": "bert"},
    "a model that is a list": {"model_type": ["llama"]},
    "architectures of text": {"architectures": "LlamaForCausalLM"},
    "an unknown architecture": {"architectures": ["os.system"]},
    "an architecture that is a path": {"architectures": ["../../evil"]},
    "an activation that is code": {"hidden_act": "__import__('os').system('id')"},
    "a dtype that is code": {"dtype": "os.system"},
    "another name for a kernel": {
        "attribute_map": {"a": "_attn_implementation_internal"},
        "a": "x/y",
    },
    "escapes": {"model_type": "\x1b[2J\u202e"},
    "nested 200 deep": {"a": _NESTED},
    "rope of 10^18": {"rope_parameters": {"rope_type": "dynamic", "factor": 1e18}},
    "rope that is text": {"rope_parameters": "x"},
    "layer types of another length": {"layer_types": ["full_attention"] * 10**5},
}
_RAW_CONFIGS = {
    "empty": b"", "no JSON": b"{", "a list": b"[]", "nested 10^5 deep": b'{"a":' * 10**5,
    "half a surrogate": b'{"model_type": "\\ud800"}', "zeros": bytes(1000), "text": b'"llama"',
    "10^7 lists": b'{"a": [' + b"[]," * 10**7 + b"[]]}",
    "20 MB": b'{"a": "' + b"x" * 20_000_000 + b'"}',
}  # fmt: skip
_GENERATIONS: dict[str, Any] = {
    "10^9 new tokens": {"max_new_tokens": 10**9},
    "a length of 10^9": {"max_length": 10**9, "max_new_tokens": None},
    "10^6 beams": {"num_beams": 10**6},
    "10^6 answers": {"num_return_sequences": 10**6, "do_sample": True},
    "a cache of a library": {"cache_implementation": "evil"},
    "custom code": {"custom_generate": "evil/code"},
    "an assistant": {"assistant_model": "evil/model"},
    "a constraint": {"constraints": [{"a": 1}]},
    "ends of text": {"stop_strings": ["x" * 10**6]},
    "a processor": {"watermarking_config": {"a": 1}},
    "a list": [],
    "escapes": {"transformers_version": "\x1b[2J"},
    "a token of 10^9": {"eos_token_id": 10**9},
    "a token that is text": {"eos_token_id": "x"},
    "10^5 bad words": {"bad_words_ids": [[n % 32] for n in range(10**5)]},
}


def _forged(**files: Any) -> Make:
    return lambda world: world.forge_model(**files)


def _configs() -> Iterator[Input]:
    for name, change in _CONFIGS.items():
        yield Input("config", name, _forged(config__json={**tiny.CONFIG, **change}), RUN)
    for name, raw in _RAW_CONFIGS.items():
        yield Input("config", name, _forged(config__json=raw), RUN)
    for name, change in _GENERATIONS.items():
        value = change if isinstance(change, list) else {**GENERATION, **change}
        make = _forged(generation_config__json=value)
        yield Input("config", f"generation: {name}", make, RUN)
    for file in ("preprocessor_config.json", "processor_config.json"):
        code = {"auto_map": {"AutoProcessor": "m.Evil"}, "processor_class": "Evil"}
        yield Input("config", f"code in {file}", _forged(**{file.replace(".", "__"): code}), RUN)
    for task in ("text-classification", "sentence-embedding", "feature-extraction", "evil"):

        def other(world: World, task: str = task) -> None:
            world.forge_model(task=task)

        yield Input("config", f"the task {task}", other, RUN)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]
    yield Input("config", "a module of code", _forged(modules__json=dumped(modules)), RUN)
    above = [{"idx": 0, "name": "0", "path": "../..", "type": "sentence_transformers.models.T"}]
    yield Input("config", "a module above", _forged(modules__json=dumped(above)), RUN)


# Tokenizers ---------------------------------------------------------------------------------


def _tokenizer(**changes: Any) -> Json:
    return {**TOKENIZER, **changes}


def _model(**changes: Any) -> Json:
    return {**TOKENIZER, "model": {**TOKENIZER["model"], **changes}}


_DOUBLING = {
    "type": "Sequence",
    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30,
}
_BACKTRACKING = {"type": "Replace", "pattern": {"Regex": "(a|a)*$"}, "content": ""}
_TOKENIZERS: dict[str, Any] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "nested": b'{"a":' * 10**5,
    "no model": _tokenizer(model=None),
    "an unknown model": _model(type="Evil"),
    "a vocabulary of lists": _model(vocab=[1, 2]),
    "a token of 10^9": _model(vocab={"a": 10**9, "?": 0}),
    "a negative token": _model(vocab={"a": -1, "?": 0}),
    "10^5 words": _model(vocab={f"w{n}": n for n in range(10**5)}),
    "no unknown word": _model(unk_token="nothing"),
    "doubling 30 times": _tokenizer(normalizer=_DOUBLING),
    "backtracking": _tokenizer(normalizer=_BACKTRACKING),
    "a bad pattern": _tokenizer(normalizer={**_BACKTRACKING, "pattern": {"Regex": "("}}),
    "a template of 10^5": _tokenizer(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 10**5,
            "pair": [],
            "special_tokens": {"a": {"id": "a", "ids": [0], "tokens": ["a"]}},
        }
    ),
    "padding to 10^9": _tokenizer(
        padding={"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    ),
    "truncation to nothing": _tokenizer(
        truncation={"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}
    ),
    "added tokens of escapes": _tokenizer(
        added_tokens=[{"id": 0, "content": "\x1b[2J", "special": True, "single_word": False,
                       "lstrip": False, "rstrip": False, "normalized": False}]
    ),
    "a decoder of escapes": _tokenizer(
        decoder={"type": "Replace", "pattern": {"String": "a"}, "content": "\x1b]0;x\x07"}
    ),
}  # fmt: skip
_TOKENIZER_CONFIGS: dict[str, Json] = {
    "auto_map": {"auto_map": {"AutoTokenizer": ["m.Evil", "m.Evil"]}},
    "auto_map inside": {"init_inputs": [{"auto_map": {"AutoTokenizer": "m.Evil"}}]},
    "another class": {"tokenizer_class": "os.system"},
    "a class of code": {"tokenizer_class": "EvilTokenizer"},
    "a file outside": {"tokenizer_file": "/etc/passwd"},
    "a vocabulary outside": {"vocab_file": "../../../other/valuable.txt"},
    "an address": {"vocab_file": "http://127.0.0.1:9/vocab"},
    "a name of a hub": {"name_or_path": "evil/tokenizer"},
    "a length of 10^30": {"model_max_length": 10**30},
    "a length of text": {"model_max_length": "x"},
    "a token of a list": {"pad_token": ["a"]},
    "a token of a table": {"pad_token": {"__type": "Evil", "content": "a"}},
    "10^4 tokens": {"extra_special_tokens": {f"x{n}": f"<{n}>" for n in range(10**4)}},
    "a side": {"padding_side": "up"},
}


def _tokenizers() -> Iterator[Input]:
    for name, value in _TOKENIZERS.items():
        yield Input("tokenizer", name, _forged(tokenizer__json=value), RUN)
    for name, change in _TOKENIZER_CONFIGS.items():
        make = _forged(tokenizer_config__json={**TOKENIZER_CONFIG, **change})
        yield Input("tokenizer", f"config: {name}", make, RUN)


# Templates ----------------------------------------------------------------------------------

_TEMPLATES = {
    "a loop of 10^10": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}"
    "{% endfor %}",
    "a text of 10 GB": "{{ 'x' * 10000000000 }}",
    "a width of 10^10": "{{ '%010000000000d' % 1 }}",
    "a number of 10^10 digits": "{{ 10 ** 10000000000 }}",
    "itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "the globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "a file": "{% include '/etc/passwd' %}",
    "escapes": "{{ messages[0].content }}\x1b[2J",
    "broken": "{% for %}",
    "nested 3,000 deep": "(" * 3000,
    "an error": "{{ raise_exception('\x1b[2J') }}",
}


def _templates() -> Iterator[Input]:
    for number, (name, text) in enumerate(_TEMPLATES.items()):
        make = _forged(tokenizer_config__json={**TOKENIZER_CONFIG, "chat_template": text})
        yield Input("template", name, make, RUN, heavy=number < 5)
    make = _forged(chat_template__jinja=b"{% for a in range(9) %}x{% endfor %}" * 50_000)
    yield Input("template", "a file of 2 MB", make, RUN)


# Paths --------------------------------------------------------------------------------------

_PATHS = (
    "../evil", "../../other/valuable.txt", "/etc/passwd", "a/../../evil", "./a", "a//b", "a/",
    "", ".", "..", "a\\b", "..\\evil", "C:\\evil", "C:evil", "\\\\server\\share", "NUL", "con.txt",
    "aux/a", "a:b", "a ", "a.", " a", "~/.bashrc", "$HOME/a", "a\nb", "a\x00b", "a\x1b[2Jb",
    "a\u202eb", "a\u200bb", "a" * 300, "/".join("a" * 300), ".git/config", ".envrc", ".bashrc",
    ".vscode/tasks.json", "a/.git/hooks/pre-commit", "Makefile", "package.json", "setup.py",
    "conftest.py", "evil.py", "evil.so", "evil.exe", "evil.desktop", "evil.bat", "evil.lnk",
    "a.pickle", "pytorch_model.bin", "modpkg.toml", "CONFIG.JSON", "config.json/a", "e\u0301.txt",
    "-rf", "--help", "desktop.ini", ".modpkg/model.json", "modpkg.lock", "\ufeffa", "a?b", "a*b",
)  # fmt: skip
_WRITTEN: Commands = (("install", "evil"), ("export", "evil", "out"), ("fork", "evil", "copy"))


def _paths() -> Iterator[Input]:
    for path in _PATHS:

        def make(world: World, path: str = path) -> None:
            files = {"config.json": dumped(tiny.CONFIG), path: b"#!/bin/sh\nid\n"}
            world.forge("evil", files=files, weights=tiny.base_weights())

        yield Input("paths", repr(path)[:60], make, _WRITTEN)
    for first, second in (("a", "A"), ("a/b", "a"), ("\xe9", "e\u0301"), ("a.txt", "a.TXT")):

        def twins(world: World, first: str = first, second: str = second) -> None:
            files = {"config.json": dumped(tiny.CONFIG), first: b"1", second: b"2"}
            world.forge("evil", files=files, weights=tiny.base_weights())

        yield Input("paths", f"{first!r} and {second!r}", twins, _WRITTEN)

    def crowd(world: World) -> None:
        digest = {"digest": world.blob(b"x"), "size": 1}
        world.forge("evil", record={"files": {f"f/{n}.txt": digest for n in range(5000)}})

    yield Input("paths", "5,000 files", crowd, INSTALL)
    for name in ("../evil", "a/b", "", "\x1b[2J", "-x", "a" * 300, "\u202eevil", "evil\n", "."):

        def named(world: World, name: str = name) -> None:
            record: Json = {"name": name, "manifest": {"module": {"name": name}}}
            world.forge("evil", record=record, line={"name": "evil"})

        yield Input("paths", f"the name {name!r}"[:60], named, INSTALL)


# Text ---------------------------------------------------------------------------------------

_ESCAPES = {
    "clears": "\x1b[2Jevil", "a title": "\x1b]0;evil\x07", "a clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "a line": "MIT\nevil: all is well", "overwrites": "MIT\revil", "goes back": "MIT\x08\x08\x08",
    "right to left": "\u202eTIM", "isolates": "\u2066MIT\u2069", "invisible": "M\u200bIT",
    "C1": "\x9b2Jevil", "a bell": "\x07" * 100, "long": "x" * 100_000, "tags": "\U000e0041",
    "zalgo": "M" + "\u0300" * 1000, "markup": "[red]evil[/red]", "percent": "%s%n{0}",
}  # fmt: skip
_TOLD: tuple[tuple[str, Commands], ...] = (
    ("license", (("install", "evil"), ("licenses",))),
    ("summary", (("search", "evil"), ("info", "evil"))),
    ("yanked", (("install", "evil==1.0"), ("list",))),
    ("published", (("info", "evil"), ("log", "evil"))),
)


def _text() -> Iterator[Input]:
    for field, commands in _TOLD:
        for name, text in _ESCAPES.items():

            def make(world: World, field: str = field, text: str = text) -> None:
                record = {field: text} if field in ("license", "summary") else {}
                line = {} if record else {field: text}
                world.forge("evil", record=record, line=line)
                kind = {"name": "evil", "version": "1.0", "kind": "base", "summary": text}
                (world.registry / "modules.jsonl").write_bytes(dumped(kind) + b"\n")

            yield Input("text", f"{field}: {name}", make, commands)
    for name in ("clears", "right to left", "a line"):

        def tensor(world: World, text: str = _ESCAPES[name]) -> None:
            weights = safetensors_bytes({text: ("F32", [1], bytes(4))})
            world.forge("evil", files={"config.json": dumped(tiny.CONFIG)}, weights=weights)

        yield Input("text", f"tensor: {name}", tensor, (*RUN, ("diff", "evil", "evil")))


MODULES = [*_configs(), *_tokenizers(), *_templates(), *_paths(), *_text()]
