"""The names of tensors in LoRA files of kohya, LyCORIS and diffusers: part, layer and role."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from modpkg.core.errors import ConversionError
from modpkg.core.packs import read_pack_header

_UNDERSCORED = re.compile(
    r"^(?:lora_(?P<part>unet|te\d?|transformer|prior_unet|prior_te|prior)|(?P<all>lycoris))_"
    r"(?P<path>[^.]+)$"
)
_DOTTED = re.compile(
    r"^(?P<part>unet|text_encoder(?:_\d)?|transformer(?:_\d)?|prior|diffusion_model)\.(?P<path>.+)$"
)
_ROLES = {
    "lora_down.weight": "a",
    "lora_up.weight": "b",
    "lora_mid.weight": "mid",
    "dora_scale": "magnitude",
    "alpha": "alpha",
    "lora.down.weight": "a",
    "lora.up.weight": "b",
    "lora.up.bias": "b_bias",
    "lora_linear_layer.down.weight": "a",
    "lora_linear_layer.up.weight": "b",
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    **{key: key for n in "12" for key in (f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}")},
    **{key: key for n in "12" for key in (f"lokr_w{n}", f"lokr_w{n}_a", f"lokr_w{n}_b")},
    "lokr_t2": "lokr_t2",
}
_NAME = re.compile(rf"^(?P<path>.+)\.(?P<role>{'|'.join(map(re.escape, _ROLES))})$")
_PROCESSOR = re.compile(r"^(?P<path>.+)\.to_(?P<which>q|k|v|out)_lora\.(?P<side>down|up)\.weight$")
_ATTENTION = {
    "unet": {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
    "text": {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"},
}
_PEFT = re.compile(r"^base_model\.|^(?:transformer\.)?h\.\d")
_SIGNS = re.compile(
    r"^lycoris_|^lora_(?:unet|te\d?|transformer|prior)_|^bundle_emb\.|^(?:unet|text_encoder(?:_\d)?)\."
    r"|^transformer\.(?:single_)?transformer_blocks\.|[._]lora\.(?:down|up)\."
    r"|\.lora_(?:down|up)\.|\.lora_linear_layer\."
)
"""Names that PEFT does not write."""
_FACTORS = re.compile(r"\.(?:hada_w[12]_[ab]|lokr_w[12](?:_[ab])?)$")
_OTHERS = (
    (re.compile(r"\.(?:diff|diff_b|w_norm|b_norm)$"), "whole differences of weights or norms"),
    (re.compile(r"\.(?:oft_blocks|oft_diag|rescale)$"), "OFT, which turns outputs, PEFT's inputs"),
    (re.compile(r"\.(?:on_input)$"), "IA³, which leaves out biases that PEFT's has"),
    (re.compile(r"\.(?:a1|a2|b1|b2|bm)\.weight$"), "GLoRA of LyCORIS, which PEFT does not have"),
    (re.compile(r"^bundle_emb\."), "embeddings of new words (textual inversion)"),
    (re.compile(r"^(?:first_stage|image_proj|ip_adapter)"), "an IP adapter"),
)
"""By names, what else such files may hold."""
MERGE = "merge it with the tool that made it and import the model that results"


def is_lora_file(names: Collection[str], *, configured: bool = False) -> bool:
    """Return whether a file is one of these, by the names of its tensors.

    Args:
        names: The names.
        configured: Whether PEFT's configuration is beside it.
    """
    if any(map(_PEFT.match, names)):
        return False
    if any(map(_SIGNS.search, names)):
        return True
    layers = (_FACTORS.search(name) or _NAME.match(name) for name in names)
    return not configured and any(layers)


def parts_of(source: Path) -> list[str]:
    """Return the parts of a file, each for a model of its own."""
    return sorted({parsed(source, name)[0] for name in read_pack_header(source)})


def parsed(source: Path, name: str) -> tuple[str, str, str, bool]:
    """Return the part, the layer and the role of a tensor, and whether its dots are lost.

    Raises:
        ConversionError: It is something that PEFT does not have.
    """
    for form, what in _OTHERS:
        if form.search(name):
            raise _unknown(source, name, what)
    if (old := _PROCESSOR.match(name)) is not None:
        kind = "text" if name.startswith("text_encoder") else "unet"
        path = f"{old['path']}.{_ATTENTION[kind][old['which']]}"
        role = {"down": "a", "up": "b"}[old["side"]]
    elif (plain := _NAME.match(name)) is not None:
        path, role = plain["path"], _ROLES[plain["role"]]
    else:
        raise _unknown(source, name, "something else than LoRA, LoHa and LoKr")
    path = path.replace(".processor.", ".")
    if (match := _UNDERSCORED.match(path)) is not None:
        return match["part"] or match["all"], match["path"], role, True
    if (match := _DOTTED.match(path)) is not None:
        return match["part"], match["path"], role, False
    return "model", path, role, False


def _unknown(source: Path, name: str, what: str) -> ConversionError:
    reason = f"its {name!r} is for {what}; {MERGE}"
    return ConversionError("M801", path=source, reason=reason)
