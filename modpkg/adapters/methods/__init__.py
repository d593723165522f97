"""The PEFT methods that modpkg applies, and the known ones that it does not.

A method is one file here: its paper, the keys that PEFT writes, how they bind to a base, and the
formula of the change. To add one, write that file and add it to `METHODS`.
"""

from __future__ import annotations

from modpkg.adapters.method import PeftMethod
from modpkg.adapters.methods.adalora import ADALORA
from modpkg.adapters.methods.beft import BEFT
from modpkg.adapters.methods.boft import BOFT
from modpkg.adapters.methods.c3a import C3A
from modpkg.adapters.methods.deft import DEFT
from modpkg.adapters.methods.delora import DELORA
from modpkg.adapters.methods.fourierft import FOURIERFT
from modpkg.adapters.methods.frod import FROD
from modpkg.adapters.methods.glora import GLORA
from modpkg.adapters.methods.gralora import GRALORA
from modpkg.adapters.methods.hira import HIRA
from modpkg.adapters.methods.hra import HRA
from modpkg.adapters.methods.ia3 import IA3
from modpkg.adapters.methods.ln_tuning import LN_TUNING
from modpkg.adapters.methods.loha import LOHA
from modpkg.adapters.methods.lokr import LOKR
from modpkg.adapters.methods.lora import LORA
from modpkg.adapters.methods.miss import MISS
from modpkg.adapters.methods.oft import OFT
from modpkg.adapters.methods.osf import OSF
from modpkg.adapters.methods.peanut import PEANUT
from modpkg.adapters.methods.psoft import PSOFT
from modpkg.adapters.methods.pvera import PVERA
from modpkg.adapters.methods.randlora import RANDLORA
from modpkg.adapters.methods.road import ROAD
from modpkg.adapters.methods.shira import SHIRA
from modpkg.adapters.methods.supertuning import SUPERTUNING
from modpkg.adapters.methods.tinylora import TINYLORA
from modpkg.adapters.methods.trainable_tokens import TRAINABLE_TOKENS
from modpkg.adapters.methods.unilora import UNILORA
from modpkg.adapters.methods.vblora import VBLORA
from modpkg.adapters.methods.vera import VERA
from modpkg.adapters.methods.virtual_tokens import VIRTUAL_TOKENS
from modpkg.adapters.methods.waveft import WAVEFT

METHODS: dict[str, PeftMethod] = {
    method.peft_type: method
    for method in (
        ADALORA,
        BEFT,
        BOFT,
        C3A,
        DEFT,
        DELORA,
        FOURIERFT,
        FROD,
        GLORA,
        GRALORA,
        HIRA,
        HRA,
        IA3,
        LN_TUNING,
        LOHA,
        LOKR,
        LORA,
        MISS,
        OFT,
        OSF,
        PEANUT,
        PSOFT,
        PVERA,
        RANDLORA,
        ROAD,
        SHIRA,
        SUPERTUNING,
        TINYLORA,
        TRAINABLE_TOKENS,
        UNILORA,
        VBLORA,
        VERA,
        WAVEFT,
        *VIRTUAL_TOKENS,
    )
}
"""By ``peft_type``, the methods that are applied exactly."""

_AT_RUN_TIME = "it adds to the model's inputs or activations at run time and changes no weight"
_BY_INPUT = "what it adds depends on the input"
UNSUPPORTED: dict[str, str] = {
    "ADAMSS": "which rows its parts are for is not in its file: PEFT clusters the base's singular "
    "vectors again, and how depends on the version of scikit-learn",
    "ADAPTION_PROMPT": _AT_RUN_TIME,
    "CARTRIDGE": _AT_RUN_TIME,
    "CPT": _AT_RUN_TIME,
    "LILY": _BY_INPUT,
    "POLY": "it mixes adapters by task at run time",
    "SHADOW": _BY_INPUT,
    "XLORA": "it mixes adapters by the input",
}
"""By ``peft_type``, why a known method is not supported. Any other is unknown."""
