"""Names, versions and requirements of modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import NewType

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from modpkg.core.errors import InvalidValue
from modpkg.core.lazy_pattern import lazy_pattern

ModuleName = NewType("ModuleName", str)
"""A module's name in its normal form (PEP 503): lower case, runs of ``-_.`` as one ``-``."""

_AT = lazy_pattern(
    r"^\s*(?P<name>[^@\s\[\]]+(?:\[[^\]]*\])?)\s*@\s*(?P<rest>[~^=]?)\s*(?P<version>\S+)\s*$"
)


def module_name(text: str) -> ModuleName:
    """Return ``text`` in its normal form.

    >>> module_name("Summarize_LoRA")
    'summarize-lora'

    Raises:
        InvalidValue: `text` is not a name by PEP 508, or is longer than 100 characters.
    """
    if not isinstance(text, str):  # code that is not type-checked may pass anything
        raise InvalidValue("M101", name=text)
    if len(text) > 100:
        raise InvalidValue("M101", name=text[:100] + "…")
    try:
        return ModuleName(canonicalize_name(text, validate=True))
    except InvalidName:
        raise InvalidValue("M101", name=text) from None


@lru_cache(maxsize=1 << 18)  # more than one command may resolve: they are asked for twice
def parse_version(text: str) -> Version:
    """Return ``text`` as a PEP 440 version without a local part.

    Raises:
        InvalidValue: `text` is not a version, or has a local part (``+abc``), which has no shared
            meaning between publishers.
    """
    if len(text) > 100:
        raise InvalidValue("M102", version=text[:100] + "…")
    try:
        version = Version(text)
    except InvalidVersion:
        raise InvalidValue("M102", version=text) from None
    if version.local is not None or version.epoch > 9999:
        raise InvalidValue("M102", version=text)
    return version


def caret(version: Version) -> str:
    """Return the specifier that ``^version`` stands for, as cargo and npm read it.

    >>> caret(Version("2.1")), caret(Version("0.3.1"))
    ('>=2.1,<3', '>=0.3.1,<0.4')
    """
    release = version.release
    for position, part in enumerate(release):
        if part or position == len(release) - 1:
            upper = [*release[:position], part + 1]
            break
    epoch = f"{version.epoch}!" if version.epoch else ""
    return f">={version},<{epoch}{'.'.join(map(str, upper))}"


class Requirement:
    """What is required: a module, extras of it, and the versions of it that are allowed."""

    __slots__ = ("extras", "name", "specifier")

    def __init__(
        self, name: ModuleName, extras: Collection[ModuleName], specifier: SpecifierSet
    ) -> None:
        self.name = name
        self.extras = frozenset(extras)
        self.specifier = specifier

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requirement) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, frozenset[ModuleName], SpecifierSet]:
        return self.name, self.extras, self.specifier

    def __repr__(self) -> str:
        extras = f"[{','.join(sorted(self.extras))}]" if self.extras else ""
        return f"{self.name}{extras}{self.specifier}"


def parse_requirement(text: str) -> Requirement:
    """Return the requirement in ``text``, its name and extras in normal form.

    Beside PEP 508 (``summarizer[news]>=2.1``) these need no quotes in a shell:
    ``summarizer@2.1`` (exactly that version), ``summarizer@^2.1`` (that or a later one that is
    compatible), ``summarizer@~2.1`` (``~=2.1``) and ``summarizer@latest``.

    Raises:
        InvalidValue: `text` has none of these forms, or has a URL or an environment marker.
    """
    if len(text) > 1000:
        raise InvalidValue(
            "M103", requirement=text[:100] + "…", reason="it is over 1000 characters"
        )
    spelled = _expand_at(text)
    if (plain := _plain_parts(spelled)) is not None:
        return Requirement(ModuleName(plain[0]), (), SpecifierSet(plain[1]))
    from packaging.requirements import InvalidRequirement  # slow to import, and seldom needed
    from packaging.requirements import Requirement as WrittenRequirement

    try:
        requirement = WrittenRequirement(spelled)
    except InvalidRequirement as error:
        reason = (len(text) <= 100 and _slip(text)) or str(error).splitlines()[0]
        raise InvalidValue("M103", requirement=text, reason=reason) from None
    if requirement.url is not None:
        raise InvalidValue("M103", requirement=text, reason="it has an address")
    if requirement.marker is not None:
        raise InvalidValue("M103", requirement=text, reason="it has an environment marker")
    return Requirement(
        module_name(requirement.name),
        {module_name(extra) for extra in requirement.extras},
        requirement.specifier,
    )


_QUOTED = lazy_pattern(r"""(['"])(.*)\1""")
_ONE_VERSION = lazy_pattern(r"([\w.-]+?)\s*[=:/ ]\s*v?(\d[\w.]*)")


def _slip(text: str) -> str | None:
    """Return what is probably wrong with a requirement that cannot be read; None if unknown."""
    if re.match(r"[.~/\\]|[A-Za-z]:[\\/]", text):
        return "it is a path, and modules come from a registry: build and publish it, and name it"
    quoted, one = _QUOTED.fullmatch(text.strip()), _ONE_VERSION.fullmatch(text.strip())
    meant = text.replace("=>", ">=").replace("=<", "<=")
    if quoted is not None:
        meant = quoted[2]
    elif one is None and "/" in text:
        return "a module is named without an owner or an address; --registry names its registry"
    elif one is not None:
        meant = f"{one[1]}=={one[2]}"
    elif meant == text:
        meant = re.sub(r"(?<=[\w*])\s*(?=[<>=!~]=?\s*\d)", ",", text).replace(",", "", 1)
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        Requirement(meant)
    except InvalidRequirement:
        return None
    return f"did you mean '{meant}'?"


class ReadRequirement:
    """A requirement of an index line: parsed once per text, shared, immutable."""

    __slots__ = ("extras", "name", "specifier")

    def __init__(self, name: ModuleName, extras: tuple[str, ...], specifier: SpecifierSet) -> None:
        self.name = name
        self.extras = extras
        """Sorted."""
        self.specifier = specifier
        """The versions it allows; equal texts give the same object."""


_NAME = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_BOUND = r"(?:(?:[<>=!]=|[<>])[0-9]+(?:\.[0-9]+)*|~=[0-9]+(?:\.[0-9]+)+)"
_BOUNDS = rf"(?:{_BOUND}(?:,{_BOUND})*)?"
_PLAIN_LINES = lazy_pattern(rf"(?:{_NAME}{_BOUNDS}\n)*", re.ASCII)
"""Lines of the commonest spelling: a name in normal form, and bounds that are plain versions."""
_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-"


def _plain_parts(text: str) -> tuple[str, str] | None:
    """Return name and bounds of a requirement of the commonest spelling; None if it is another."""
    if len(text) > 1000 or "\n" in text or _PLAIN_LINES.fullmatch(f"{text}\n") is None:
        return None
    bounds = text.lstrip(_NAME_CHARACTERS)
    name = text[: len(text) - len(bounds)]
    return (name, bounds) if len(name) <= 100 else None


def check_requirements(texts: Collection[str]) -> None:
    """Check that requirements can be read: most of an index never are.

    Raises:
        InvalidValue: See `parse_requirement`.
    """
    lines = set(texts)
    together = "\n".join([*lines, ""])
    plain = together.count("\n") == len(lines) and max(map(len, lines), default=0) < 100
    if not plain or _PLAIN_LINES.fullmatch(together) is None:
        for text in texts:
            read_requirement(text)


@lru_cache(maxsize=1 << 17)
def read_requirement(text: str) -> ReadRequirement:
    """Parse a requirement as `parse_requirement` does; cached, for the many of a registry's index.

    Raises:
        InvalidValue: See `parse_requirement`.
    """
    if (plain := _plain_parts(text)) is not None:
        return ReadRequirement(ModuleName(plain[0]), (), _shared_specifier(plain[1]))
    requirement = parse_requirement(text)
    return ReadRequirement(
        ModuleName(requirement.name),
        tuple(sorted(requirement.extras)),
        _shared_specifier(str(requirement.specifier)),
    )


@lru_cache(maxsize=1 << 16)
def _shared_specifier(bounds: str) -> SpecifierSet:
    return SpecifierSet(bounds)


def _expand_at(text: str) -> str:
    match = _AT.match(text)
    if match is None or "://" in text:
        return text
    name, sign, version = match["name"], match["rest"], match["version"]
    if version == "latest" and not sign:
        return name
    try:
        parsed = Version(version)
    except InvalidVersion:
        raise InvalidValue(
            "M103", requirement=text, reason=f"{version!r} is not a version"
        ) from None
    if sign == "^":
        return name + caret(parsed)
    if sign == "~":
        return f"{name}~={parsed}" if len(parsed.release) > 1 else name + caret(parsed)
    return f"{name}=={parsed}"


def parse_specifier(text: str) -> SpecifierSet:
    """Return the version specifier of a manifest; ``"*"`` means any version.

    Raises:
        InvalidValue: `text` is not a specifier by PEP 440.
    """
    if text.strip() == "*":
        return SpecifierSet()
    if text.startswith("^"):
        return SpecifierSet(caret(parse_version(text[1:].strip())))
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        raise InvalidValue(
            "M103", requirement=text, reason="it is not a version specifier"
        ) from None


def requirement_text(name: str, extras: set[str] | frozenset[str], specifier: SpecifierSet) -> str:
    """Return the normal spelling of a requirement.

    >>> requirement_text("a", {"y", "x"}, SpecifierSet("<2,>=1"))
    'a[x,y]>=1,<2'
    """
    shown = f"[{','.join(sorted(extras))}]" if extras else ""
    return f"{name}{shown}{specifier_text(specifier)}"


_OPERATORS = ("===", "==", "~=", ">=", ">", "<=", "<", "!=")


def specifier_text(specifier: SpecifierSet) -> str:
    """Return the normal spelling of a specifier: lower bounds before upper ones.

    >>> specifier_text(SpecifierSet("<2,>=1"))
    '>=1,<2'
    """
    ordered = sorted(specifier, key=lambda item: (_OPERATORS.index(item.operator), item.version))
    return ",".join(map(str, ordered))


def listed(
    names: Collection[str], most: int = 3, *, key: Callable[[str], Version] | None = None
) -> str:
    """Return the first names of a collection in order, and how many more there are.

    They are ordered by text, or by the version that ``key`` gives.
    """
    first = ", ".join(sorted(names, key=key)[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"
