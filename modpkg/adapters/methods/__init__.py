"""The PEFT methods that modpkg applies, and the known ones that it does not.

A method is one file here: its paper, the keys that PEFT writes, how they bind to a base, and the
formula of the change. To add one, write that file and add it to `METHODS`.
"""

from __future__ import annotations

from modpkg.adapters.method import PeftMethod
from modpkg.adapters.methods.adalora import ADALORA
from modpkg.adapters.methods.boft import BOFT
from modpkg.adapters.methods.c3a import C3A
from modpkg.adapters.methods.delora import DELORA
from modpkg.adapters.methods.hira import HIRA
from modpkg.adapters.methods.hra import HRA
from modpkg.adapters.methods.ia3 import IA3
from modpkg.adapters.methods.ln_tuning import LN_TUNING
from modpkg.adapters.methods.loha import LOHA
from modpkg.adapters.methods.lokr import LOKR
from modpkg.adapters.methods.lora import LORA
from modpkg.adapters.methods.miss import MISS
from modpkg.adapters.methods.oft import OFT
from modpkg.adapters.methods.shira import SHIRA
from modpkg.adapters.methods.trainable_tokens import TRAINABLE_TOKENS
from modpkg.adapters.methods.vera import VERA
from modpkg.adapters.methods.virtual_tokens import VIRTUAL_TOKENS

METHODS: dict[str, PeftMethod] = {
    method.peft_type: method
    for method in (
        ADALORA,
        BOFT,
        C3A,
        DELORA,
        HIRA,
        HRA,
        IA3,
        LN_TUNING,
        LOHA,
        LOKR,
        LORA,
        MISS,
        OFT,
        SHIRA,
        TRAINABLE_TOKENS,
        VERA,
        *VIRTUAL_TOKENS,
    )
}
"""By ``peft_type``, the methods that are applied exactly."""

_AT_RUN_TIME = "it adds to the model's inputs or activations at run time and changes no weight"
_SEEDED = "the positions of its values are drawn from a seed and are not in its file"
UNSUPPORTED: dict[str, str] = {
    "ADAPTION_PROMPT": _AT_RUN_TIME,
    "CARTRIDGE": _AT_RUN_TIME,
    "CPT": _AT_RUN_TIME,
    "FOURIERFT": _SEEDED,
    "POLY": "it mixes adapters by task at run time",
    "PVERA": "its scales are drawn at random at run time",
    "RANDLORA": "its bases are random numbers that depend on the version of torch",
    "VBLORA": "which vectors of its bank a layer uses depends on ties between its logits",
    "WAVEFT": _SEEDED,
    "XLORA": "it mixes adapters by the input",
}
"""By ``peft_type``, why a known method is not supported. Any other is unknown."""
