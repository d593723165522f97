"""The errors that a caller can catch; their sentences are in `modpkg.core.messages`, by code."""

from __future__ import annotations

from typing import Any

from modpkg.core.messages import MESSAGES
from modpkg.core.printable import bounded, in_sentence

_OF_LINES = ("explanation", "facts")
"""Values of several lines, composed here; in all others a line break is not ours."""
_REPORTED = "reported"
"""The one value of an error whose sentence came from a server."""


class ModpkgError(Exception):
    """Base of all errors that are shown to people: exit status 1, no traceback.

    Attributes:
        code: Key of its sentence in `MESSAGES`; it keeps its meaning from release to release.
        values: What the sentence was filled in with, for ``--json`` and for tests.
    """

    def __init__(self, code: str, **values: Any) -> None:
        self.code = code
        self.values = values
        shown = {key: in_sentence(v, lines=key in _OF_LINES) for key, v in values.items()}
        sentence = MESSAGES[code].format(**shown)
        # a hint that asks ("did you mean …?") has ended the sentence already
        super().__init__(bounded(sentence[:-1] if sentence.endswith("?.") else sentence))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.values.get(_REPORTED):
            return reported_error, (self.code, str(self))
        return _restored, (type(self), self.code, self.values)


def _restored(kind: type[ModpkgError], code: str, values: dict[str, Any]) -> ModpkgError:
    return kind(code, **values)


class InvalidValue(ModpkgError):
    """A name, version, requirement, digest, path or licence is not well-formed."""


class ManifestError(ModpkgError):
    """A manifest is missing, cannot be read, or is of another kind than the command needs."""


class ReleaseError(ModpkgError):
    """A module cannot be built, or a release cannot be used."""


class PackError(ReleaseError):
    """A file is not a sound safetensors file."""


class RecordError(ReleaseError):
    """A record (of a release, an index, a report …) does not follow its format."""


class RegistryError(ModpkgError):
    """A registry cannot be used."""


class NotFound(RegistryError):
    """A registry, a module or a release does not exist."""


class RegistryUnreachable(RegistryError):
    """A registry did not answer, or refused to."""


class IntegrityError(RegistryError):
    """Bytes are missing, or are not those that their digest names."""


class PublishError(RegistryError):
    """A release cannot be published."""


class ResolutionImpossible(ModpkgError):
    """No set of versions satisfies all requirements."""


class LockError(ModpkgError):
    """A lock file is missing, malformed, out of date, or no longer valid."""


class InstallError(ModpkgError):
    """An environment cannot be made or changed."""


class EnvironmentDamaged(InstallError):
    """Files of an environment changed since they were installed."""


class ComposeError(ModpkgError):
    """A model cannot be composed exactly."""


class RunError(ModpkgError):
    """An installed model cannot be loaded or run."""


class MissingExtra(RunError):
    """A Python package that is needed is not installed."""


class TestError(ModpkgError):
    """Tests of a module cannot be run, or a report cannot be used."""

    __test__ = False  # pytest: not a class of tests


class TestAborted(TestError):
    """A test did not end in time, or ended its process."""


class PatchError(ModpkgError):
    """A patch or a merge cannot be made or applied."""


class LicenseError(ModpkgError):
    """The licence policy of a project forbids an install."""


class BisectError(ModpkgError):
    """A search for the change that broke a command cannot go on."""


class ConversionError(ModpkgError):
    """Something cannot be imported or exported."""


class AccessRefused(ModpkgError):
    """A server does not let this caller do what was asked."""


class TrustError(ModpkgError):
    """A key, a signature, or who has signed is not what it has to be."""


class UsageError(ModpkgError):
    """A command was used wrongly: exit status 2."""


CLASSES: dict[str, type[ModpkgError]] = {
    **dict.fromkeys(
        ["M101", "M102", "M103", "M104", "M105", "M106", "M107", "M108", "M109", "M115", "M116"],
        InvalidValue,
    ),
    **dict.fromkeys(["M110", "M111", "M112", "M241", "M851"], ManifestError),
    **dict.fromkeys(["M430", "M431", "M432", "M433", "M434", "M437", "M442"], AccessRefused),
    "M484": AccessRefused,
    **dict.fromkeys(["M443", "M446", "M521", "M526"], AccessRefused),
    **dict.fromkeys(["M435", "M436", "M438", "M475"], InvalidValue),
    **dict.fromkeys(["M439", "M441"], NotFound),
    **dict.fromkeys(["M440", "M444", "M445", "M448", "M449"], PublishError),
    "M447": RegistryUnreachable,
    "M450": NotFound,
    **dict.fromkeys(["M451", "M452", "M453", "M454", "M455", "M456", "M457", "M458"], PublishError),
    "M520": RegistryUnreachable,
    **dict.fromkeys(["M522", "M525"], RegistryError),
    **dict.fromkeys(
        ["M540", "M541", "M542", "M543", "M544", "M545", "M547", "M548", "M549"], TrustError
    ),
    **dict.fromkeys(["M571", "M572", "M573", "M574", "M575", "M578", "M579", "M598"], TrustError),
    **dict.fromkeys(["M596", "M597"], TrustError),
    **dict.fromkeys(["M474", "M590", "M591", "M595"], TrustError),
    **dict.fromkeys([f"M56{digit}" for digit in range(10)], TrustError),
    **dict.fromkeys(
        ["M550", "M551", "M552", "M553", "M554", "M555", "M556", "M557", "M558", "M559"], TrustError
    ),
    **dict.fromkeys(
        [
            "M202",
            "M203",
            "M204",
            "M205",
            "M206",
            "M207",
            "M208",
            "M210",
            "M211",
            "M212",
            "M213",
            "M214",
            "M215",
            "M216",
            "M217",
            "M220",
            "M235",
            "M420",
            "M421",
            "M422",
            "M760",
            "M804",
            "M859",
        ],
        ReleaseError,
    ),
    **dict.fromkeys(["M201"], PackError),
    **dict.fromkeys(["M209", "M465", "M466"], RecordError),
    **dict.fromkeys(
        ["M303", "M315", "M316", "M318", "M319", "M327", "M328", "M806", "M855", "M860", "M879"],
        RegistryError,
    ),
    **dict.fromkeys(["M845", "M891", "M896", "M897"], RegistryError),
    **dict.fromkeys(["M473", "M486", "M870", "M871", "M872", "M873"], RegistryError),
    **dict.fromkeys(["M301", "M304", "M312", "M467", "M480", "M495", "M862"], NotFound),
    **dict.fromkeys(["M861", "M863"], RegistryUnreachable),
    **dict.fromkeys(
        ["M302", "M313", "M314", "M320", "M841", "M878", "M849", "M892"], RegistryUnreachable
    ),
    **dict.fromkeys(["M305", "M306", "M310", "M508", "M864"], IntegrityError),
    **dict.fromkeys(["M877", "M886", "M893"], IntegrityError),
    **dict.fromkeys(
        ["M307", "M309", "M311", "M317", "M329", "M535", "M546", "M576", "M577", "M593", "M599"],
        PublishError,
    ),
    **dict.fromkeys(["M481", "M482", "M483", "M761", "M887"], PublishError),
    **dict.fromkeys(["M846", "M847", "M848", "M867"], PublishError),
    **dict.fromkeys(["M468", "M469", "M470", "M471", "M472"], PublishError),
    **dict.fromkeys(["M401", "M403"], ResolutionImpossible),
    "M406": NotFound,
    **dict.fromkeys(
        ["M402", "M410", "M411", "M412", "M413", "M415", "M416", "M594", "M850"], LockError
    ),
    **dict.fromkeys(
        [
            "M414",
            "M501",
            "M502",
            "M503",
            "M504",
            "M505",
            "M507",
            "M509",
            "M510",
            "M511",
            "M512",
            "M514",
            "M517",
            "M728",
            "M840",
        ],
        InstallError,
    ),
    **dict.fromkeys(["M523", "M524", "M570", "M592", "M852", "M890"], InstallError),
    **dict.fromkeys(["M506"], EnvironmentDamaged),
    **dict.fromkeys(
        ["M601", "M602", "M603", "M604", "M605", "M606", "M607", "M608", "M609", "M620", "M621"],
        ComposeError,
    ),
    **dict.fromkeys(["M856", "M857", "M858", "M880"], ComposeError),
    **dict.fromkeys(
        [
            "M700",
            "M701",
            "M702",
            "M704",
            "M705",
            "M706",
            "M707",
            "M708",
            "M709",
            "M722",
            "M865",
            "M866",
        ],
        RunError,
    ),
    **dict.fromkeys(["M218", "M219", "M221", "M226", "M616", "M617"], ComposeError),
    **dict.fromkeys(["M724", "M725", "M726", "M727", "M745", "M746"], RunError),
    **dict.fromkeys(["M703", "M723", "M895"], MissingExtra),
    **dict.fromkeys(
        ["M710", "M711", "M712", "M713", "M714", "M715", "M716", "M719", "M720", "M721"], TestError
    ),
    **dict.fromkeys(["M717", "M718"], TestAborted),
    **dict.fromkeys(
        ["M730", "M731", "M732", "M733", "M734", "M735", "M736", "M740", "M741", "M742"], PatchError
    ),
    **dict.fromkeys(["M236", "M237", "M238", "M239"], PatchError),
    "M770": LicenseError,
    **dict.fromkeys(["M790", "M791", "M792", "M793", "M794", "M795", "M796", "M797"], BisectError),
    **dict.fromkeys(["M513", "M801", "M803", "M240", "M242", "M805"], ConversionError),
    **dict.fromkeys(["M459", "M901", "M902"], UsageError),
}
"""The class that is raised for each code."""


def reported_error(code: str, sentence: str) -> ModpkgError:
    """Return the error that a server answered with: of its code, in its sentence.

    Raises:
        KeyError: There is no such code.
    """
    kind = CLASSES[code]
    error = kind.__new__(kind)
    error.code, error.values = code, {_REPORTED: True}
    error.args = (bounded(str(in_sentence(sentence, lines=True))),)
    return error
