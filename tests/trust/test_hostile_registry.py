"""A registry that holds every online key, but no publisher's: it can't replace what is signed.

It writes its own files as it likes, and has a key of its own. ``ada`` alone has published
``words``; whatever the registry does, no command locks or installs a release of that name that she
has not signed, nor an older one than is locked.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli

from modpkg.cli import main
from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.records import canonical_json
from modpkg.environment.generations import Environment
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.signature_files import signatures_path, successors_path
from modpkg.trust.bundle import sign_statement
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.private_key import PrivateKey, key_path, new_key, read_key
from modpkg.trust.root_metadata import name_root, new_root, signed_root, write_root
from modpkg.trust.statement import (
    InTotoStatement,
    InTotoSubject,
    keys_of_module,
    release_subject,
    succession_statement,
    yank_statement,
)
from tests.cli.test_everywhere import run
from tests.modules import write_module
from tests.registry.servers import Server, serve

Capture = pytest.CaptureFixture[str]
NAMES = ("ada", "bob", "mallory", "root", "online", "log")


def key(name: str) -> PrivateKey:
    return read_key(key_path(name), lambda: "")


class HostileRegistry:
    """The files of a registry, in the hands of somebody who is no publisher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def indexes(self) -> dict[str, bytes]:
        """Return the index files, by path."""
        return {f"index/{one.name}": one.read_bytes() for one in self.folder.glob("index/*.jsonl")}

    def log(self, before: dict[str, bytes]) -> None:
        """Write into the registry's log what has changed in the index."""
        log = LogWriter(FolderPlace(self.folder), key("log"))
        for path, data in self.indexes().items():
            log.note(path, before.get(path, b""), data)

    def sign_index(self) -> None:
        """Sign the index as it is, with the registry's own online key."""
        MetadataWriter(FolderPlace(self.folder), [key("online")]).sign_all(bits=2)

    def index(self, name: str = "words") -> Path:
        return self.folder / "index" / f"{name}.jsonl"

    def lines(self, name: str = "words") -> list[Any]:
        return [json.loads(line) for line in self.index(name).read_text().splitlines()]

    def write(self, lines: list[Any], name: str = "words") -> None:
        self.index(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        (self.folder / "modules.jsonl").unlink(missing_ok=True)

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest[7:9] / digest[7:]

    def signatures(self, release: str) -> Path:
        return self.folder / signatures_path(parse_digest(release))

    def forged(self, version: str, like: str = "words", **changes: Any) -> dict[str, Any]:
        """Add a release of ``words`` made from another one, and return its index line."""
        line = self.lines(like)[-1]
        record = json.loads(self.blob(line["release"]).read_bytes())
        changes = {"name": "words", "version": version, **changes}
        record |= changes
        record["manifest"]["module"] |= {"name": changes["name"], "version": version}
        data = canonical_json(record)
        release = str(digest_bytes(data))
        self.blob(release).parent.mkdir(parents=True, exist_ok=True)
        self.blob(release).write_bytes(data)
        return {**line, "release": release, **changes}

    def sign(self, line: dict[str, Any], by: str = "mallory", hint: str | None = None) -> None:
        """Sign a release, and let the bundle say whose signature it is."""
        digest = {"sha256": line["release"].removeprefix("sha256:")}
        subject = InTotoSubject(f"pkg:modpkg/{line['name']}@{line['version']}", digest)
        statement = InTotoStatement(
            subject=[subject], predicate_type="https://slsa.dev/provenance/v1"
        )
        bundle = sign_statement(canonical_json(statement), key(by), hint=hint)
        path = self.signatures(line["release"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle + b"\n")
        line["signed"] = True


def _other_version(hostile: HostileRegistry) -> None:
    hostile.write([*hostile.lines(), hostile.forged("1.2")])


def _signed_by_itself(hostile: HostileRegistry) -> None:
    line = hostile.forged("1.2")
    hostile.sign(line)
    hostile.write([*hostile.lines(), line])


def _in_the_name_of_ada(hostile: HostileRegistry) -> None:
    line = hostile.forged("1.2")
    hostile.sign(line, hint=str(key("ada").public))
    hostile.write([*hostile.lines(), line])


def _with_the_signatures_of_another_version(hostile: HostileRegistry) -> None:
    line = hostile.forged("1.2")
    path = hostile.signatures(line["release"])
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(hostile.signatures(hostile.lines()[-1]["release"]), path)
    hostile.write([*hostile.lines(), {**line, "signed": True}])


def _names_itself_the_successor(hostile: HostileRegistry) -> None:
    ada, mallory = key("ada"), key("mallory")
    statement = succession_statement(keys_of_module("words"), mallory.public, [])
    path = hostile.folder / successors_path("words")
    path.parent.mkdir(exist_ok=True)
    forged = [sign_statement(statement, mallory, hint=str(k.public)) for k in (ada, mallory)]
    path.write_bytes(b"\n".join(forged) + b"\n")
    _signed_by_itself(hostile)


def _a_successor_of_another_name(hostile: HostileRegistry) -> None:
    """What ada has said of ``other`` counts for ``words`` as little."""
    statement = succession_statement(keys_of_module("other"), key("mallory").public, [])
    path = hostile.folder / successors_path("words")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sign_statement(statement, key("ada")) + b"\n")
    _signed_by_itself(hostile)


def _other_bytes(hostile: HostileRegistry) -> None:
    """The record of what is locked is another, under the same digest."""
    line = hostile.forged("1.1", summary="changed")
    hostile.blob(hostile.lines()[-1]["release"]).write_bytes(
        hostile.blob(line["release"]).read_bytes()
    )


def _another_release_of_the_version(hostile: HostileRegistry) -> None:
    hostile.write([hostile.lines()[0], hostile.forged("1.1", summary="changed")])


def _in_another_spelling(hostile: HostileRegistry) -> None:
    hostile.write([hostile.lines()[0], hostile.forged("1.1.0", summary="changed")])


def _older(hostile: HostileRegistry) -> None:
    hostile.write(hostile.lines()[:1])


def _older_under_a_newer_version(hostile: HostileRegistry) -> None:
    first, second = hostile.lines()
    hostile.write([second, first | {"version": "1.2"}])


def _of_another_module(hostile: HostileRegistry) -> None:
    """What ada has signed as ``other`` is no release of ``words``."""
    line = hostile.lines("other")[0] | {"name": "words", "version": "1.2"}
    hostile.write([*hostile.lines(), line])


def _requires_another(hostile: HostileRegistry) -> None:
    """The index says that ada's release requires a module of the registry's own."""
    first, second = hostile.lines()
    hostile.write([first, second | {"requires": ["evil"]}])


def _asked_for_by_another(hostile: HostileRegistry) -> None:
    """A module that nobody has signed asks for a version that ada has not released."""
    line = hostile.forged("2.0")
    hostile.write([*hostile.lines(), line])
    newer = hostile.forged("1.1", "evil", name="evil", requires=["words==2.0"])
    hostile.write([*hostile.lines("evil"), newer], "evil")


def _asks_for_an_older_one(hostile: HostileRegistry, **changes: Any) -> dict[str, Any]:
    """A module that nobody has signed takes back its own version, and requires ada's older one."""
    (first,) = hostile.lines("evil")
    newer = hostile.forged("1.1", "evil", name="evil", requires=["words==1.0"])
    hostile.write([first | (changes or {"yanked": "bad"}), newer], "evil")
    return newer


def _asks_since_the_first_needs_another_modpkg(hostile: HostileRegistry) -> None:
    _asks_for_an_older_one(hostile, requires_modpkg=">=99")


def _asks_and_signs_that_itself(hostile: HostileRegistry) -> None:
    line = _asks_for_an_older_one(hostile)
    hostile.sign(line)
    hostile.write([hostile.lines("evil")[0], line], "evil")


def _asks_and_hides_the_newer_one(hostile: HostileRegistry) -> None:
    _asks_for_an_older_one(hostile)
    _older(hostile)


def _asks_by_a_third(hostile: HostileRegistry) -> None:
    (first,) = hostile.lines("evil")
    between = hostile.forged("1.0", "evil", name="between", requires=["words==1.0"])
    hostile.write([between], "between")
    newer = hostile.forged("1.1", "evil", name="evil", requires=["between"])
    hostile.write([first | {"yanked": "bad"}, newer], "evil")


def _yanks_and_adds(hostile: HostileRegistry) -> None:
    first, second = hostile.lines()
    hostile.write([first, second | {"yanked": "bad"}, hostile.forged("1.2")])


def _yanks(hostile: HostileRegistry) -> None:
    first, second = hostile.lines()
    hostile.write([first, second | {"yanked": "bad"}])


def _removes(hostile: HostileRegistry) -> None:
    first, second = hostile.lines()
    hostile.write([first, second | {"yanked": "bad", "removed": "bad"}])


def _says_that_it_needs_another_modpkg(hostile: HostileRegistry) -> None:
    first, second = hostile.lines()
    hostile.write([first, second | {"requires_modpkg": ">=99"}])


def _says_that_it_fits_nothing(hostile: HostileRegistry) -> None:
    first, second = hostile.lines()
    hostile.write([first, second | {"requires": ["evil>=9"]}])


def said_of(line: dict[str, Any], reason: str | None, number: int, by: str = "ada") -> bytes:
    """Return what a key says of whether a release is yanked, as a line of signatures."""
    release = parse_digest(line["release"])
    statement = yank_statement(line["name"], line["version"], release, reason, number)
    return sign_statement(statement, key(by)) + b"\n"


def _yanks_and_signs(hostile: HostileRegistry) -> None:
    """It signs itself, and has what ada says of another version, and of another module."""
    _yanks(hostile)
    first, second = hostile.lines()
    (other,) = hostile.lines("other")
    with open(hostile.signatures(second["release"]), "ab") as file:
        file.write(said_of(second, "bad", 9, "mallory"))
        file.write(said_of(first, "bad", 1) + said_of(other, "bad", 1))


def _yanks_again(hostile: HostileRegistry) -> None:
    """What ada has taken back counts no more, in whatever order it lies there."""
    _yanks(hostile)
    second = hostile.lines()[1]
    with open(hostile.signatures(second["release"]), "ab") as file:
        file.write(said_of(second, None, 2) + said_of(second, "bad", 1))


def _a_candidate(hostile: HostileRegistry) -> None:
    line = hostile.forged("1.2")
    folder = hostile.folder / "candidates"
    folder.mkdir(exist_ok=True)
    said = {"number": 1, "line": line, "message": "x", "by": "ada", "status": "open"}
    (folder / "words.jsonl").write_text(json.dumps({**said, "at": "2026-01-01T00:00:00Z"}) + "\n")


def _calls_itself_another(hostile: HostileRegistry) -> None:
    info = json.loads((hostile.folder / "registry.json").read_text())
    (hostile.folder / "registry.json").write_text(json.dumps(info | {"name": "mine"}))
    _other_version(hostile)


def _hides_all_signatures(hostile: HostileRegistry) -> None:
    shutil.rmtree(hostile.folder / "signatures")
    lines = [{k: v for k, v in line.items() if k != "signed"} for line in hostile.lines()]
    hostile.write([*lines, hostile.forged("1.2")])


ATTACKS: dict[str, tuple[Callable[[HostileRegistry], object], str]] = {
    "another version, by nobody": (_other_version, "M544"),
    "another version, by itself": (_signed_by_itself, "M544"),
    "another version, in ada's name": (_in_the_name_of_ada, "M544"),
    "with another version's signatures": (_with_the_signatures_of_another_version, "M544"),
    "a successor that it names": (_names_itself_the_successor, "M544"),
    "a successor of another name": (_a_successor_of_another_name, "M544"),
    "other bytes": (_other_bytes, "M305"),
    "another release of the version": (_another_release_of_the_version, "M416"),
    "the same in another spelling": (_in_another_spelling, "M416"),
    "an older version": (_older, "M416"),
    "an older one as a newer": (_older_under_a_newer_version, "M544"),
    "a release of another module": (_of_another_module, "M544"),
    "requirements it has not": (_requires_another, "M310"),
    "another module asks for it": (_asked_for_by_another, "M544"),
    "another asks for an older one": (_asks_for_an_older_one, "M416"),
    "it asks by another modpkg": (_asks_since_the_first_needs_another_modpkg, "M416"),
    "it asks, and signs that": (_asks_and_signs_that_itself, "M416"),
    "it asks, and hides the newer": (_asks_and_hides_the_newer_one, "M416"),
    "a third one asks for it": (_asks_by_a_third, "M416"),
    "yanked, and another": (_yanks_and_adds, "M544"),
    "yanked": (_yanks, "M416"),
    "yanked by its own signature": (_yanks_and_signs, "M416"),
    "yanked by what was undone": (_yanks_again, "M416"),
    "removed": (_removes, "M416"),
    "of another modpkg": (_says_that_it_needs_another_modpkg, "M416"),
    "of what is not there": (_says_that_it_fits_nothing, "M416"),
    "a candidate": (_a_candidate, ""),
    "another name of its own": (_calls_itself_another, "M416"),
    "no signatures at all": (_hides_all_signatures, "M544"),
}
COMMANDS = (
    ("install",),
    ("lock",),
    ("install", "--frozen"),
    ("add", "other"),
    ("update",),
    ("lock", "--upgrade"),
    ("update", "words"),
    ("install", "words>=1.1"),
    ("install", "--candidate", "words#1"),
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with keys and a signed registry, and an app that has locked and installed."""
    place = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODPKG_HOME", str(place / "home"))
        patch.setenv("NO_COLOR", "1")
        for name in NAMES:
            new_key(key_path(name), "ed25519", None)
        for name, version, signed in (
            ("words", "1.0", True),
            ("words", "1.1", True),
            ("other", "1.0", True),
            ("evil", "1.0", False),
        ):
            folder = write_module(place / "projects" / f"{name}-{version}", name, version)
            assert _quiet("build", str(folder)) == 0
            sign = ["--sign", "ada"] if signed else []
            to = ["--registry", str(place / "models")]
            assert _quiet("publish", str(folder), *to, *sign) == 0
        signed = FolderPlace(shutil.copytree(place / "models", place / "signed"))
        LogWriter(signed, key("log")).begin("models.example/log", signed)
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(365)
        root = new_root(1, [key("root").public], 1, key("online").public, until)
        data = signed_root(root, [key("root")], None)
        write_root(signed, data, None)
        name_root(signed, data)
        HostileRegistry(place / "signed").sign_index()
    return place


def _quiet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    return int(left.value.code or 0)


class Victim:
    """An app on a machine of its own, and what it has of ``words``."""

    def __init__(self, app: Path, ada: str, released: set[str]) -> None:
        self.app, self.ada, self.released = app, ada, released

    def check(self, command: tuple[str, ...], version: str = "1.1") -> None:
        """Check that what is locked and installed is ada's, and this version of it."""
        lock = tomli.loads((self.app / "modpkg.lock").read_text())
        for module in lock["module"]:
            if module["name"] == "words":
                assert module["release"] in self.released, command
                assert module["signer"] == self.ada, command
                assert module["version"] == version, command
        environment = Environment(self.app / ".modpkg")
        for state in environment.ever_installed():
            assert state.name != "words" or state.release in self.released, command


@pytest.fixture
def server(
    kept: Path, tmp_path: Path, home: Path, request: pytest.FixtureRequest
) -> Iterator[Server]:
    shutil.copytree(kept / getattr(request, "param", "models"), tmp_path / "models")
    shutil.copytree(kept / "home" / "keys", home / "keys")
    with serve(tmp_path / "models") as running:
        yield running


@pytest.fixture
def hostile(server: Server) -> HostileRegistry:
    return HostileRegistry(server.folder)


@pytest.fixture
def victim(
    server: Server,
    hostile: HostileRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> Victim:
    app = tmp_path / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text(
        f'[app]\nname = "app"\n[registries]\ndefault = "{server.url}"\n'
        '[dependencies]\nwords = "*"\nevil = "*"\n'
    )
    monkeypatch.chdir(app)
    status, _, err = run(capfd, "install")
    assert status == 0, err
    released = {line["release"] for line in hostile.lines()}
    return Victim(app, str(key("ada").public), released)


@pytest.mark.parametrize("server", ["models", "signed"], indirect=True)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_command_takes_another_release(
    attack: str,
    server: Server,
    victim: Victim,
    hostile: HostileRegistry,
    home: Path,
    capfd: Capture,
) -> None:
    """Also where the index is signed and there is a log: the registry has the keys of both."""
    attacks, code = ATTACKS[attack]
    before = hostile.indexes()
    attacks(hostile)
    is_signed = (hostile.folder / "tuf").exists()
    if is_signed:
        hostile.log(before)
        hostile.sign_index()
    if attack == "other bytes":  # what a store has is verified already, and nobody is asked for it
        shutil.rmtree(home / "store")
        shutil.rmtree(victim.app / ".modpkg")
        (victim.app / ".modpkg").mkdir()
    manifest = (victim.app / "modpkg.toml").read_bytes()
    said = ""
    for command in COMMANDS[-5:] if is_signed else COMMANDS:
        (victim.app / "modpkg.toml").write_bytes(manifest)
        status, _, err = run(capfd, *command)
        assert status in (0, 1), err
        said += f"{' '.join(command)}: {err or status}\n"
        victim.check(command)
    assert code in said, said


def test_a_number_out_of_reach_takes_no_signed_name(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """What is locked is another digest; of a name that nobody has signed, an update takes it."""
    before = (victim.app / "modpkg.lock").read_bytes()
    hostile.write([*hostile.lines(), hostile.forged("9999")])
    hostile.write([*hostile.lines("evil"), hostile.forged("9999", "evil", name="evil")], "evil")
    for command in ("install", "lock"):
        assert run(capfd, command)[0] == 0
        assert (victim.app / "modpkg.lock").read_bytes() == before
    assert "M544" in run(capfd, "update")[2]
    assert (victim.app / "modpkg.lock").read_bytes() == before
    assert run(capfd, "update", "evil")[0] == 0
    victim.check(("update", "evil"))
    assert b'"9999"' in (victim.app / "modpkg.lock").read_bytes()


def test_a_name_that_was_dropped_and_comes_back_keeps_its_signer(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """The registry owns ``evil``, by which alone the app has ``words``."""
    manifest = (victim.app / "modpkg.toml").read_text().replace('words = "*"\n', "")
    (victim.app / "modpkg.toml").write_text(manifest)
    (first,) = hostile.lines("evil")
    second = hostile.forged("1.1", "evil", name="evil", requires=["words"])
    hostile.write([first, second], "evil")
    assert run(capfd, "install", "--upgrade")[0] == 0
    victim.check(("install", "--upgrade"))
    third = hostile.forged("1.2", "evil", name="evil", requires=[])
    hostile.write([first, second, third], "evil")
    assert run(capfd, "install", "--upgrade")[0] == 0
    assert "words" not in (victim.app / "modpkg.lock").read_text()
    hostile.write(
        [first, second, third, hostile.forged("1.3", "evil", name="evil", requires=["words"])],
        "evil",
    )
    hostile.write([*hostile.lines(), hostile.forged("1.2")])
    status, _, err = run(capfd, "install", "--upgrade")
    assert (status, "error[M544]" in err, "words 1.1 was installed" in err) == (1, True, True)


def test_what_the_user_asks_for_and_what_ada_signs_goes_back(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """The manifest, whoever accepts it, and a release whose signer is in the lock already."""
    lock, manifest = victim.app / "modpkg.lock", victim.app / "modpkg.toml"
    was, text = lock.read_bytes(), manifest.read_text()
    line = _asks_for_an_older_one(hostile)
    status, _, err = run(capfd, "update")
    assert (status, "evil 1.1 requires words==1.0" in err) == (1, True), err
    assert run(capfd, "update", "--accept-changed", "words")[0] == 0
    victim.check(("update",), "1.0")
    lock.write_bytes(was)
    manifest.write_text(text.replace('words = "*"', 'words = "<1.1"'))
    assert run(capfd, "update")[0] == 0
    victim.check(("update",), "1.0")
    lock.write_bytes(was)
    manifest.write_text(text)
    hostile.sign(line, "ada")
    hostile.write([hostile.lines("evil")[0], line], "evil")
    assert run(capfd, "update")[0] == 0
    victim.check(("update",), "1.0")


@pytest.mark.parametrize("is_named", [False, True])
def test_who_uses_it_decides_about_a_yank_that_is_not_signed(
    is_named: bool, victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """It may be malware that the registry's administrator has found, or an attack."""
    if is_named:
        with open(victim.app / "modpkg.toml", "a") as file:
            file.write(f'[trust]\n"words" = "{victim.ada}"\n')
    _yanks(hostile)
    status, _, err = run(capfd, "update")
    assert (status, err.count("error[M416]")) == (1, 1)
    for said in ("words 1.1", "yanked: bad", victim.ada, "--accept-changed words"):
        assert said in err
    status, out, _ = run(capfd, "update", "--accept-changed", "words")
    assert (status, "words 1.1 -> 1.0" in out) == (0, True)
    victim.check(("update",), "1.0")


def test_what_ada_yanks_is_left_without_a_question(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """So it is with who follows her; a key that was succeeded yanks nothing more."""
    second = hostile.lines()[1]
    signatures = hostile.signatures(second["release"])
    before = signatures.read_bytes()
    lock = victim.app / "modpkg.lock"
    was = lock.read_bytes()
    _yanks(hostile)
    signatures.write_bytes(before + said_of(second, "bad", 1))
    status, out, err = run(capfd, "update")
    assert (status, "words 1.1 -> 1.0" in out) == (0, True), err
    victim.check(("update",), "1.0")
    named = ("--from", "ada", "--to", str(key("bob").public), "--registry", str(hostile.folder))
    assert run(capfd, "key", "succeed", "words", *named)[0] == 0
    lock.write_bytes(was)
    assert "error[M416]" in run(capfd, "update")[2]
    signatures.write_bytes(before + said_of(second, "bad", 1) + said_of(second, "bad", 2, "bob"))
    assert run(capfd, "update")[0] == 0
    victim.check(("update",), "1.0")


def test_a_release_that_changed_is_accepted_with_its_signer_in_sight(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    _another_release_of_the_version(hostile)
    err = run(capfd, "update")[2]
    for said in ("error[M416]", victim.ada, "is signed by nobody"):
        assert said in err
    status, _, err = run(capfd, "update", "--accept-changed", "words")
    assert (status, "is signed by nobody, which was accepted" in err) == (0, True)


def test_without_a_lock_and_after_it_was_installed(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    _signed_by_itself(hostile)
    (victim.app / "modpkg.lock").unlink()
    status, _, err = run(capfd, "install")
    assert (status, "error[M544]" in err, "words 1.1 was installed" in err) == (1, True, True)
    assert run(capfd, "install", "--accept-changed", "words")[0] == 0


def test_a_project_that_names_the_signer_needs_no_first_use(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """Nothing is locked or installed; the registry hides that anything is signed."""
    _hides_all_signatures(hostile)
    (victim.app / "modpkg.lock").unlink()
    shutil.rmtree(victim.app / ".modpkg")
    with open(victim.app / "modpkg.toml", "a") as file:
        file.write(f'[trust]\n"words" = "{victim.ada}"\n')
    for command in (("install",), ("lock", "--upgrade"), ("add", "words")):
        status, _, err = run(capfd, *command)
        assert (status, "error[M543]" in err) == (1, True), err
    assert not (victim.app / "modpkg.lock").exists()


@pytest.mark.parametrize("where", ["manifest", "config", "option"])
def test_its_own_modules_take_no_name_of_another_registry(
    where: str,
    victim: Victim,
    hostile: HostileRegistry,
    tmp_path: Path,
    home: Path,
    capfd: Capture,
) -> None:
    """A second registry that the project has is hostile too, and offers ``words`` as its own."""
    copied = shutil.copytree(hostile.folder, tmp_path / "second")
    second = HostileRegistry(copied)
    _signed_by_itself(second)
    (copied / "registry.json").write_text('{"spec": 1, "name": "second"}')
    options: tuple[str, ...] = ("--registry", str(copied)) if where == "option" else ()
    if where == "config":
        (home / "config.toml").write_text(f"[registries]\nsecond = '{copied}'\n")
    if where == "manifest":
        text = (victim.app / "modpkg.toml").read_text()
        named = f'[registries]\nsecond = "{copied}"\n'
        (victim.app / "modpkg.toml").write_text(text.replace("[registries]\n", named))
    for command in (("lock", "--upgrade"), ("update",), ("install", "--upgrade")):
        status, _, err = run(capfd, *command, *options)
        assert (status, "error[M416]" in err) == ((1, True) if options else (0, False)), err
        victim.check(command)
    (victim.app / "modpkg.lock").unlink()  # nothing says any more which of both is meant
    if not options:
        assert "error[M319]" in run(capfd, "lock")[2]


@pytest.fixture
def retired(victim: Victim, hostile: HostileRegistry, capfd: Capture) -> HostileRegistry:
    """The registry after ada has named bob; it has ada's key, and signs 9.0 with it."""
    named = ("--from", "ada", "--to", str(key("bob").public), "--registry", str(hostile.folder))
    status, _, err = run(capfd, "key", "succeed", "words", *named)
    assert status == 0, err
    line = hostile.forged("9.0")
    hostile.sign(line, "ada")
    hostile.write([*hostile.lines(), line])
    return hostile


def names_another(hostile: HostileRegistry, name: str, releases: list[InTotoSubject]) -> None:
    """Let ada's key name another successor, or the same one with other releases."""
    statement = succession_statement(keys_of_module("words"), key(name).public, releases)
    with open(hostile.folder / successors_path("words"), "ab") as file:
        file.write(sign_statement(statement, key("ada")) + b"\n")


def _names_bob_again(hostile: HostileRegistry) -> None:
    """The thief says that ada had signed all that there is."""
    lines = hostile.lines()
    names_another(hostile, "bob", [subject_of(line) for line in lines])


def _names_itself(hostile: HostileRegistry) -> None:
    names_another(hostile, "mallory", [subject_of(line) for line in hostile.lines()])


def _says_another_form(hostile: HostileRegistry) -> None:
    """A succession without a list of releases names none."""
    path = hostile.folder / successors_path("words")
    bob = str(key("bob").public)
    digest = {"sha256": digest_bytes(bob.encode()).removeprefix("sha256:")}
    statement = InTotoStatement(
        subject=[InTotoSubject("pkg:modpkg/words", digest)],
        predicate_type="urn:modpkg:succession:v1",
        predicate={"successor": bob},
    )
    path.write_bytes(sign_statement(canonical_json(statement), key("ada")) + b"\n")


def _signs_with_its_own_key_too(hostile: HostileRegistry) -> None:
    line = hostile.lines()[-1]
    path = hostile.signatures(line["release"])
    before = path.read_bytes()
    hostile.sign(line, "mallory")
    path.write_bytes(path.read_bytes() + before)


def subject_of(line: dict[str, Any]) -> InTotoSubject:
    return release_subject(line["name"], line["version"], parse_digest(line["release"]))


@pytest.mark.parametrize(
    "attack",
    [None, _names_bob_again, _names_itself, _says_another_form, _signs_with_its_own_key_too],
)
def test_a_retired_key_signs_no_new_release(
    attack: Callable[[HostileRegistry], None] | None,
    victim: Victim,
    retired: HostileRegistry,
    capfd: Capture,
) -> None:
    """Who has locked a release of ada's, who installs for the first time, and who names her."""
    if attack is not None:
        attack(retired)
    manifest = (victim.app / "modpkg.toml").read_bytes()
    for command in (("update",), ("lock", "--upgrade"), ("install", "words>=1.1", "--upgrade")):
        status, _, err = run(capfd, *command)
        assert (status, "error[M571]" in err, "words 9.0" in err) == (1, True, True), err
        assert (victim.ada in err and str(key("bob").public) in err) or attack is _names_itself
        (victim.app / "modpkg.toml").write_bytes(manifest)
        victim.check(command)
    (victim.app / "modpkg.lock").unlink()
    shutil.rmtree(victim.app / ".modpkg")  # a new machine
    rule = f'[trust]\n"words" = "{victim.ada}"\n'.encode()
    for text in (manifest, manifest + rule):
        (victim.app / "modpkg.toml").write_bytes(text)
        for command in (("lock",), ("install",)):
            status, _, err = run(capfd, *command)
            assert (status, "error[M571]" in err) == (1, True), err
            assert not (victim.app / "modpkg.lock").exists()
    (victim.app / "modpkg.toml").write_bytes(manifest)
    if attack is None:
        assert run(capfd, "install", "words!=9.0")[0] == 0
        victim.check(("install",))
        (victim.app / "modpkg.toml").write_bytes(manifest)
        status, _, err = run(capfd, "update", "--accept-changed", "words")
        assert (status, "which was accepted" in err) == (0, True)
        assert run(capfd, "install")[0] == 0
        assert "flawed[M571] words 9.0" in run(capfd, "verify")[1]
        (victim.app / "modpkg.lock").unlink()
        shutil.rmtree(victim.app / ".modpkg")
        remedy = run(capfd, "lock")[2].split(" it with ")[1].partition(",")[0].split()
        assert run(capfd, "lock", *remedy)[0] == 0


def test_who_has_locked_what_a_stolen_key_signed_is_warned(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """The thief was first; ada then names bob, and what she has signed herself."""
    honest = [subject_of(line) for line in hostile.lines()]
    line = hostile.forged("9.0")
    hostile.sign(line, "ada")
    hostile.write([*hostile.lines(), line])
    assert run(capfd, "install", "--upgrade")[0] == 0
    assert "evil" in run(capfd, "verify")[1]
    hostile.folder.joinpath("successors").mkdir(exist_ok=True)
    names_another(hostile, "bob", honest)
    status, out, _ = run(capfd, "verify")
    assert (status, "flawed[M571] words 9.0" in out, str(key("bob").public) in out) == (
        1,
        True,
        True,
    )
    hidden = run(capfd, "update", "evil")  # the index does not say so
    assert (hidden[0], "words 9.0" in hidden[2]) == (0, False)
    hostile.write([one | {"succeeded": True} for one in hostile.lines()])
    for command in (("update", "evil"), ("lock",)):
        lock = (victim.app / "modpkg.lock").read_bytes()
        status, _, err = run(capfd, *command)
        assert (status, "words 9.0" in err, str(key("bob").public) in err) == (0, True, True), err
        assert (victim.app / "modpkg.lock").read_bytes() == lock
    named = hostile.folder / successors_path("words")
    statement = named.read_bytes()
    named.unlink()
    status, _, err = run(capfd, "update", "evil")
    assert (status, "shows no such statement" in err) == (0, True), err
    named.write_bytes(statement)
    second = hostile.signatures(line["release"])
    before = second.read_bytes()
    hostile.sign(line, "bob")  # who follows stands by it
    second.write_bytes(before + second.read_bytes())
    assert run(capfd, "verify")[0] == 0
    assert "words 9.0" not in run(capfd, "update", "evil")[2]


def test_of_two_successors_none_counts(
    victim: Victim, retired: HostileRegistry, capfd: Capture
) -> None:
    _names_itself(retired)
    for name in ("mallory", "bob"):
        line = retired.forged("9.1")
        retired.sign(line, name)
        retired.write([*retired.lines()[:2], line])
        status, _, err = run(capfd, "update")
        assert (status, "error[M544]" in err, "several successors" in err) == (1, True, True), err
        victim.check(("update",))


OF_A_MIRROR = {
    "another version, by itself": "error[M544]",
    "other bytes": "skipping the mirror",
    "an older version": "error[M416]",
}


@pytest.mark.parametrize("attack", OF_A_MIRROR)
def test_a_mirror_replaces_nothing_that_is_signed(
    attack: str,
    victim: Victim,
    server: Server,
    hostile: HostileRegistry,
    tmp_path: Path,
    home: Path,
    capfd: Capture,
) -> None:
    """The registry itself is as it was."""
    copied = shutil.copytree(hostile.folder, tmp_path / "mirror")
    ATTACKS[attack][0](HostileRegistry(copied))
    (copied / "modules.jsonl").write_text("")  # else the registry's own says that nothing changed
    mirrors = f'[registry."{server.url}"]\nmirrors = ["file://{copied}"]\n'
    (home / "config.toml").write_text(mirrors)
    if attack == "other bytes":
        shutil.rmtree(home / "store")
        shutil.rmtree(victim.app / ".modpkg")
    said = ""
    for command in (("install",), ("install", "--upgrade"), ("update", "words")):
        said += run(capfd, *command)[2]
        victim.check(command)
    assert OF_A_MIRROR[attack] in said
