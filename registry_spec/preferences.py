"""Contents of resolution.json: small registries, and the versions that are chosen from them.

Written by hand, not computed; the tests compare the resolver with them.
"""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]


def _case(
    why: str, releases: dict[str, list[str]], roots: list[str], chosen: dict[str, str], **more: Any
) -> Case:
    """Return a case; ``releases`` has requirements by ``name==version``."""
    return {"why": why, "releases": releases, "roots": roots, **more, "chosen": chosen}


_C: dict[str, list[str]] = {"c==1.0": [], "c==2.0a1": [], "c==2.0b1": []}

RESOLUTIONS: list[Case] = [
    _case("a final release comes before a newer pre-release", _C, ["c"], {"c": "1.0"}),
    _case(
        "a range that names a pre-release does not change that",
        {"a==0.1.0a1": [], "a==0.3.0": [], "a==1.0.0a1": []},
        ["a>=0.1.0a1"],
        {"a": "0.3.0"},
    ),
    _case("no final release is in the range", _C, ["c>1.0"], {"c": "2.0b1"}),
    _case(
        "a module needs a pre-release that nobody else names",
        {**_C, "a==1": ["c>=2.0a1"], "b==1": ["c"]},
        ["b", "a"],
        {"b": "1", "c": "2.0b1", "a": "1"},
    ),
    _case(
        "each final release conflicts",
        {"b==1": ["c<2"], "b==2rc1": ["c"], "c==1": [], "c==2": []},
        ["c>=2", "b"],
        {"c": "2", "b": "2rc1"},
    ),
    _case("the locked pre-release stays", _C, ["c"], {"c": "2.0a1"}, locked={"c": "2.0a1"}),
    _case(
        "the oldest final release comes before an older pre-release",
        {"c==1.0a1": [], "c==1.0": [], "c==2.0": []},
        ["c"],
        {"c": "1.0"},
        resolution={"strategy": "lowest"},
    ),
    _case(
        "pre-releases that count as final ones",
        _C,
        ["c"],
        {"c": "2.0b1"},
        resolution={"prereleases": ["c"]},
    ),
]
