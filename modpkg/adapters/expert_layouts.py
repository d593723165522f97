"""How an architecture stores the weights of all experts of a layer, where they are one parameter.

transformers' module says it (``is_transposed``), and PEFT reads it there; the shape says it too,
unless the weights are square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_IN_OUT = frozenset({"aria", "aria_text", "gpt_oss", "openai_privacy_filter"})
"""By ``model_type``, architectures whose modules set ``is_transposed``: (experts, in, out)."""
_OUT_IN = """
    afmoe axk1 axk2 bailing_hybrid beam cohere2_moe deepseek_ocr2 deepseek_ocr2_text deepseek_v2
    deepseek_v3 deepseek_v32 deepseek_v4 diffusion_gemma diffusion_gemma_text dots1 dots3_note
    dots3_note_text ernie4_5_moe ernie4_5_vl_moe ernie4_5_vl_moe_text exaone_moe flex_olmo flint
    gemma4 gemma4_text glm4_moe glm4_moe_lite glm4v_moe glm4v_moe_text glm5_next glm5_next_text
    glm_moe_dsa granitemoe granitemoe_swa granitemoehybrid granitemoeshared hunyuan_v1_moe hy_v3
    hy_v4 inkling2 inkling2_text inkling_text jamba kimi_linear kolibri1 laguna lfm2_moe llama4
    llama4_text longcat_flash mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl
    minimax_m3_vl_text mistral4 mistral_large4 mistral_large4_text mixtral muse_spark
    muse_spark_text nemotron_h olmoe phimoe qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe
    qwen3_next qwen3_omni_moe qwen3_omni_moe_talker_text qwen3_omni_moe_text
    qwen3_omni_moe_thinker qwen4_exp qwen4_exp_text solar_open step3p5 step3p7 unlimited_ocr
    unlimited_ocr_text zaya
"""
"""By ``model_type``, those that do not: for PEFT, their last extent is the input's.
qwen3_vl_moe is not among them: its files may have either layout."""


def stored_in_out(architecture: str | None, config: Mapping[str, Any]) -> bool | None:
    """Return whether experts are stored as (experts, in, out); None if the architecture is unknown.

    Args:
        architecture: The base's ``model_type``.
        config: The base's ``config.json``; empty if not available.
    """
    for model_type in _model_types(architecture, config):
        if model_type in _IN_OUT:
            return True
        if model_type in _OUT_IN.split():
            return False
    return None


def _model_types(architecture: str | None, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ``model_type`` of the language model, and then that of the whole model."""
    nested = config.get("text_config")
    if isinstance(nested, dict):
        yield str(nested.get("model_type"))
    yield str(architecture)
