"""Every place of the installed libraries where a value of a config could name code is known.

The sources are searched for calls that import, fetch, open, compile or look a name up. One that is
not explained here fails: either what reaches it is refused or left out before
(`modpkg.compose.named_code`, `modpkg.compose.allowed_keys`, `modpkg.compose.tokenizer_settings`),
or the guards of `modpkg.compose.confinement` stand before it, or no value of a config gets there.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import modpkg
from modpkg.compose.named_code import DTYPES

CALLS = (
    *(b"getattr(torch, ", b"getattr(current_module", b"import_module(", b"import_from_string("),
    *(b"create_model(", b"get_kernel(", b"lazy_load_kernel(", b"load_backbone(", b"repo_exists("),
    *(b"load_dataset(", b"load_state_dict_from_url(", b"cached_file(", b"torch.load("),
    *(b"torch.compile(", b"open(", b"exec(", b"eval(", b"__import__("),
)
IN_MODELS = (b".from_pretrained(",)
"""Called in the file of a model, where only configs of the model are known."""
OF_MODELS = ("modeling_", "configuration_", "generation_")
WHOLE = (b"open(", b"exec(", b"eval(")
"""Names that end many others."""
PROSE = re.compile(
    r"#|>>|\.\.\.|def |class |@|[\"'`*-]|from |import |raise |.*[#`]"
    r"|.*getattr\(torch, \"|.*\.eval\(\)"
)
DTYPE = re.compile(r"getattr\(torch, *[\w.\[\"]*(?:dtype|storage)\b")
"""What looks a dtype up: dtypes of any name are judged at any depth."""
KNOWN = (
    # file, call, why no value of a config makes it dangerous
    ("models/*", r"load_backbone\(config", "backbones of a hub are refused"),
    (
        "models/timm_*",
        r"create_model\(",
        "words, and pretrained is False",
    ),
    ("models/*", r"get_kernel\(\"kernels-community/", "a name in transformers; confined"),
    ("models/auto/*", r"import_module\(", "of model types that transformers knows"),
    ("models/bark/*", r"device_type", "a device"),
    ("models/wav2vec2/*", r"cached_file|torch\.load", "a language, from an argument"),
    ("models/qwen2_5_omni/*", r"cached_file|torch\.load", "an argument; weights_only"),
    ("models/diffusion_gemma/*", r"getattr\(current_module", "_cls_name ends with Config"),
    ("models/diffusion_gemma/*", r"generation_config_class\.from", "arguments of the caller"),
    ("models/diffusion_gemma/*", r"torch\.compile", "disable_compile is set"),
    ("models/vibevoice/*", r"torch\.compile", "disable_compile is set"),
    ("models/*encoder_decoder/*", r"from_pretrained", "arguments of another constructor"),
    ("models/vision_text_dual_encoder/*", r"from_pretrained", "arguments of another constructor"),
    ("models/musicgen*/*", r"from_pretrained", "arguments of another constructor"),
    ("models/rag/*", r"from_pretrained", "arguments of another constructor"),
    ("models/auto/*", r"from_pretrained", "arguments of the caller"),
    (
        "models/*",
        r"super\(\)\.from_pretrained|from_pretrained\([\"A-Z]",
        "examples",
    ),
    ("hf_argparser", r"", "not used"),
    ("model_debugging_utils", r"open\(", "writing"),
    ("modeling_utils", r"open\(", "names in transformers, and weights"),
    ("*trainer*", r"", "modpkg trains nothing"),
    ("training_args*", r"", "modpkg trains nothing"),
    ("testing_utils", r"", "not used"),
    ("convert_*", r"", "not used"),
    ("hyperparameter_search", r"", "not used"),
    ("modelcard", r"", "not used"),
    ("safetensors_conversion", r"", "confined; weights are given"),
    ("integrations/deepgemm", r"open\(", "files of an installed package"),
    ("integrations/integration_utils", r"", "modpkg trains nothing"),
    ("integrations/peft", r"", "arguments of the caller"),
    ("utils/generic", r"open\(", "arguments of the caller"),
    ("utils/logging", r"open\(", "writing"),
    ("modeling_utils", r"getattr\(torch, device", "a device"),
    ("modeling_utils", r"cached_file|torch\.load|torch\.compile", "arguments; disable_compile"),
    ("modeling_layers", r"\.open", "name_or_path is left out"),
    ("backbone_utils", r"repo_exists", "backbones of a hub are refused"),
    ("configuration_utils", r"cached_file|open\(", "configs are read by modpkg"),
    ("generation/configuration_utils", r"cached_file|open\(", "the folder's own file"),
    ("generation/utils", r"", "arguments of the caller; confined"),
    ("tokenization_utils_*", r"cached_file|open\(", "files of the folder: tokenizer_settings"),
    ("tokenization_python", r"open\(", "writing"),
    ("dynamic_module_utils", r"", "confined"),
    ("integrations/hub_kernels", r"", "confined"),
    ("integrations/*", r"kernel\(|import_module", "names in transformers; confined"),
    ("integrations/flex_attention", r"torch\.compile", "only eager and sdpa pass"),
    ("integrations/fp_quant", r"device\.type", "a device"),
    ("utils/generic", r"getattr\(torch, x|import_module", "names in transformers"),
    ("utils/import_utils", r"", "names in transformers"),
    ("utils/hub", r"", "confined"),
    ("utils/peft_utils", r"cached_file", "arguments of the caller"),
    ("utils/quantization_config", r"open\(", "writing"),
    # processors: modpkg builds none
    ("processing_utils", r"", "modpkg builds no processor"),
    ("*_processing_*", r"", "modpkg builds no processor"),
    ("feature_extraction_utils", r"", "modpkg builds no processor"),
    ("video_*", r"", "modpkg builds no processor"),
    ("audio_utils", r"", "what is given to a processor"),
)


def found(library: str, folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield file and line of each call in the sources of an installed library."""
    spec = importlib.util.find_spec(library)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for folder in folders:
        of_model = folder == "models/*"
        for path in sorted(root.glob(f"{folder}/*.py" if folder else "*.py")):
            if of_model and not path.name.startswith(
                ("modeling_", "configuration_", "generation_")
            ):
                continue
            text = path.read_bytes()
            file = path.relative_to(root).with_suffix("").as_posix()
            for call in (*CALLS, *IN_MODELS) if of_model else CALLS:
                for line in lines_with(text, call):
                    if PROSE.match(line) is None:
                        yield file, line


def lines_with(text: bytes, call: bytes) -> Iterator[str]:
    """Yield the lines that have a call, from their beginning."""
    place = text.find(call)
    while place >= 0:
        before = text[place - 1 : place]
        if call not in WHOLE or not (before.isalnum() or before in (b"_", b".")):
            start, end = text.rfind(b"\n", 0, place) + 1, text.find(b"\n", place)
            yield text[start:end].decode().strip()
        place = text.find(call, place + 1)


def explained(file: str, line: str) -> bool:
    if DTYPE.search(line):
        return True
    return any(fnmatch.fnmatch(file, place) and re.search(call, line) for place, call, _ in KNOWN)


def test_every_place_is_known() -> None:
    folders = ("models/*", "", "integrations", "generation", "quantizers", "utils")
    calls = found("transformers", folders)
    assert [f"{file}: {line}" for file, line in calls if not explained(file, line)] == []


@pytest.mark.parametrize("library", ["peft", "sentence_transformers"])
def test_other_libraries_get_no_config(library: str) -> None:
    """modpkg reads their configs itself: it imports none of them."""
    importing = re.compile(rf"^\s*(?:import|from) {library}\b|import_extra\(\"{library}", re.M)
    files = Path(modpkg.__file__).parent.rglob("*.py")
    assert [path.name for path in files if importing.search(path.read_text(encoding="utf-8"))] == []


def test_dtypes_are_those_of_torch() -> None:
    names = {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    assert {name for name in names if not re.match(r"q?u?int\dx|bits|q", name)} <= DTYPES | {"bit"}
