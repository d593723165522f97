"""What is known of licences: under which terms may a work that has parts under them be given on?

A small table of facts, and no legal advice. Each licence has the terms that the whole may be
given on under; a composition goes together where its parts have some in common. The facts are

- the Free Software Foundation's comments, https://www.gnu.org/licenses/license-list.html
  (Apache-2.0 and version 2 of the GPL exclude each other; so do EPL-2.0 and the GPL unless it is
  named as a secondary licence, BSD-4-Clause and the GPL; CC-BY-4.0 and CC0-1.0 go with the GPL),
  and its matrix of GPL and LGPL, https://www.gnu.org/licenses/gpl-faq.html#AllCompatibility;
- section 13 of GPL-3.0 and of AGPL-3.0 (they may be combined);
- sections 1.12 and 3.3 of MPL-2.0 (its secondary licences are GPL, LGPL and AGPL);
- Creative Commons' chart of what may be remixed, and what under which licence,
  https://creativecommons.org/faq/ (no remix of ND is given on; NC and SA without NC exclude each
  other), and https://creativecommons.org/compatiblelicenses/ (BY-SA-4.0 may become GPL-3.0).

What it does not know, and says so: licences that are not in the table, every ``LicenseRef-`` (the
use restrictions of RAIL and Llama licences among them), what an exception after ``WITH`` adds, and
whether a court would take composed weights for a derived work at all.
"""

from __future__ import annotations

from msgspec import Struct

PERMISSIVE = "a permissive licence"
_GPL = frozenset({"GPL-2.0-only", "GPL-3.0-only", "AGPL-3.0-only"})
_LGPL = frozenset({"LGPL-2.1-only", "LGPL-3.0-only"})
_CC = frozenset({"CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"})
_EVERY = frozenset({PERMISSIVE, "MPL-2.0", "EPL-2.0", *_GPL, *_LGPL, *_CC})
_GPL3 = frozenset({"GPL-3.0-only", "AGPL-3.0-only"})


class Terms(Struct, frozen=True):
    """The terms that a work with such a part may be given on under: at least, and at most."""

    known: frozenset[str]
    possible: frozenset[str]

    def __and__(self, other: Terms) -> Terms:
        """Return the terms of a work that has both parts."""
        return Terms(self.known & other.known, self.possible & other.possible)

    def __or__(self, other: Terms) -> Terms:
        """Return the terms of a part of which one may be chosen."""
        return Terms(self.known | other.known, self.possible | other.possible)


def _exactly(*terms: str) -> Terms:
    return Terms(frozenset(terms), frozenset(terms))


ANY = Terms(_EVERY, _EVERY)
"""Of a work with no part, or with permissive ones: the neutral element of ``and``."""
UNKNOWN = Terms(frozenset(), _EVERY)

_FACTS: dict[str, Terms] = {
    **dict.fromkeys(
        ("0BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0"), ANY
    ),
    **dict.fromkeys(("Unlicense", "Zlib"), ANY),
    "Apache-2.0": Terms(_EVERY - {"GPL-2.0-only", "LGPL-2.1-only"}, _EVERY - {"GPL-2.0-only"}),
    "BSD-4-Clause": Terms(_EVERY - _GPL - _LGPL, _EVERY - _GPL),
    "CC-BY-4.0": Terms(frozenset({PERMISSIVE, *_GPL, *_CC}), _EVERY),
    "CC-BY-SA-4.0": Terms(
        frozenset({"CC-BY-SA-4.0", "GPL-3.0-only"}), frozenset({"CC-BY-SA-4.0", *_GPL3})
    ),
    "CC-BY-NC-4.0": _exactly("CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"),
    "CC-BY-NC-SA-4.0": _exactly("CC-BY-NC-SA-4.0"),
    "CC-BY-ND-4.0": _exactly(),
    "CC-BY-NC-ND-4.0": _exactly(),
    "EPL-2.0": Terms(frozenset({"EPL-2.0"}), _EVERY - _GPL),
    "MPL-2.0": Terms(_GPL | _LGPL | {"MPL-2.0"}, _EVERY),
    "LGPL-2.1-only": Terms(_GPL | {"LGPL-2.1-only"}, _EVERY),
    "LGPL-2.1-or-later": Terms(_GPL | _LGPL, _EVERY),
    **dict.fromkeys(
        ("LGPL-3.0-only", "LGPL-3.0-or-later"),
        Terms(_GPL3 | {"LGPL-3.0-only"}, _EVERY - {"GPL-2.0-only"}),
    ),
    "GPL-2.0-only": _exactly("GPL-2.0-only"),
    "GPL-2.0-or-later": _exactly(*_GPL),
    **dict.fromkeys(("GPL-3.0-only", "GPL-3.0-or-later"), _exactly(*_GPL3)),
    **dict.fromkeys(("AGPL-3.0-only", "AGPL-3.0-or-later"), _exactly("AGPL-3.0-only")),
}
_OLDER = {
    f"{name}{mark}": f"{name}{word}"
    for name in ("LGPL-2.1", "LGPL-3.0", "GPL-2.0", "GPL-3.0", "AGPL-3.0")
    for mark, word in (("", "-only"), ("+", "-or-later"))
}
"""SPDX's own earlier identifiers."""


def terms_of(license: str) -> Terms:
    """Return what is known of one licence, as SPDX spells it."""
    name, _, exception = license.partition(" WITH ")
    found = _FACTS.get(_OLDER.get(name, name))
    if found is None:
        return UNKNOWN
    return Terms(found.known, _EVERY) if exception else found


def is_known(license: str) -> bool:
    """Say whether the table has the licence."""
    name = license.partition(" WITH ")[0]
    return _OLDER.get(name, name) in _FACTS
