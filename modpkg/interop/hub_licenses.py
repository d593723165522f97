"""Licences as model hubs name them, and their SPDX expressions."""

from __future__ import annotations

import re

from modpkg.core.errors import InvalidValue
from modpkg.manifest.values import parse_license

UNKNOWN_LICENSE = "LicenseRef-unknown"

_OTHER_SPELLING = {
    "agpl-3.0": "AGPL-3.0-only",
    "gpl": "LicenseRef-gpl",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-3.0": "GPL-3.0-only",
    "lgpl": "LicenseRef-lgpl",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "gfdl": "LicenseRef-gfdl",
    "bsd": "LicenseRef-bsd",
    "cc": "LicenseRef-cc",
}
"""Licences of hubs whose name is no SPDX identifier: SPDX tells "only" from "or later"."""
_SPDX = frozenset(
    {
        *("afl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0"),
        *("cdla-permissive-2.0", "cdla-sharing-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0"),
        *("eupl-1.1", "eupl-1.2", "isc", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa"),
        *("odbl-1.0", "odc-by-1.0", "ofl-1.1", "osl-3.0", "pddl-1.0", "postgresql", "unlicense"),
        *("wtfpl", "zlib"),
    }
)
"""Licences of hubs whose name is the SPDX identifier in lower case."""
_ALIASES = {"odbl": "odbl-1.0", "odc-by": "odc-by-1.0", "pddl": "pddl-1.0"}
_OWN = frozenset(
    {
        *("apple-amlr", "apple-ascl", "bigcode-openrail-m", "bigscience-bloom-rail-1.0"),
        *("bigscience-openrail-m", "c-uda", "creativeml-openrail-m", "deepfloyd-if-license"),
        *("fair-noncommercial-research-license", "gemma", "h-research", "intel-research", "llama2"),
        *("llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "open-mdw", "openrail"),
        "openrail++",
    }
)
"""Licences that hubs name and SPDX does not."""
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}")
_REFERENCE = "LicenseRef-"


def spdx_of(named: str, own_name: str | None = None) -> str | None:
    """Return the SPDX expression of a licence of a hub; None for one that is not known.

    Args:
        named: What the card has under ``license``.
        own_name: What it has under ``license_name``, which goes with the licence ``other``.

    >>> spdx_of("apache-2.0"), spdx_of("gpl-3.0"), spdx_of("llama3.2")
    ('Apache-2.0', 'GPL-3.0-only', 'LicenseRef-llama3.2')
    """
    known = named.strip().lower()
    known = _ALIASES.get(known, known)
    if known in _SPDX:
        return parse_license(known)
    if known in _OTHER_SPELLING:
        return _OTHER_SPELLING[known]
    if known in _OWN:
        return _REFERENCE + known.replace("+", "-plus")
    if known == "other" and own_name is not None and _IDENTIFIER.fullmatch(own_name):
        return _REFERENCE + own_name
    try:
        return parse_license(named)  # some cards have an expression of SPDX
    except InvalidValue:
        return None


def hub_license(spdx: str) -> tuple[str, str | None]:
    """Return what a card has under ``license`` and ``license_name`` for an SPDX expression.

    >>> hub_license("GPL-3.0-only"), hub_license("LicenseRef-llama3.2"), hub_license("MIT OR ISC")
    (('gpl-3.0', None), ('llama3.2', None), ('other', 'MIT OR ISC'))
    """
    if spdx.lower() == UNKNOWN_LICENSE.lower():
        return "unknown", None
    back = {expression: name for name, expression in _OTHER_SPELLING.items()}
    back |= {long: short for short, long in _ALIASES.items()}
    if (name := back.get(spdx) or back.get(spdx.lower())) is not None:
        return name, None
    if spdx.lower() in _SPDX:
        return spdx.lower(), None
    own = spdx.removeprefix(_REFERENCE).replace("-plus", "+")
    if spdx.startswith(_REFERENCE) and own in _OWN:
        return own, None
    return "other", spdx.removeprefix(_REFERENCE)
