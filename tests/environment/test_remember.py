"""Which registry is asked, what remembers it, and what the messages say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.core.names import parse_requirement
from modpkg.environment.install import apply_install
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.project import find_project
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.manifest.edit import set_registry
from modpkg.registry.location import default_location
from modpkg.registry.opening import writable_place
from modpkg.resolve.lock import Lock, read_lock
from tests.command import modpkg, refused
from tests.modules import publish_collection
from tests.raising import raises

APP = '[app]\nname = "shop"\n'


@pytest.fixture
def one(tmp_path: Path) -> Path:
    publish_collection(tmp_path / "one", "lib", "1.0")
    return tmp_path / "one"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    publish_collection(tmp_path / "two", "mid", "1.0")
    publish_collection(tmp_path / "two", "lib", "2.0")
    return tmp_path / "two"


def configure(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)


def install(*requirements: str, registry: str | Path | None = None) -> str:
    """Install as the command does, and return the manifest's text."""
    request = InstallRequest(add=[parse_requirement(text) for text in requirements], remember=True)
    named = None if registry is None else str(registry)
    workspace = Workspace(find_project(), options=RegistryOptions(named))
    with workspace.environment.exclusive():
        apply_install(plan_install(workspace, request))
    return workspace.project.text()


def locked() -> Lock:
    lock = read_lock(find_project().lock_path)
    assert lock is not None
    return lock


def registries() -> dict[str, str]:
    """Return the registry of each locked module."""
    return {module.name: module.registry for module in locked().module}


def test_the_first_registry_is_the_default_and_the_next_an_alias(one: Path, two: Path) -> None:
    Path("modpkg.toml").write_text(APP)
    text = install("lib", registry="../one")
    assert text == APP + '\n[dependencies]\nlib = ">=1.0"\n\n[registries]\ndefault = "../one"\n'
    text = install("mid", registry=two)
    assert f'[registries]\ndefault = "../one"\ntwo = "{two}"\n' in text
    assert 'mid = { version = ">=1.0", registry = "two" }' in text
    assert registries() == {"lib": "one", "mid": "two"}
    assert install() == install("mid", registry=two) == text
    # A dependency moves when it is asked for from elsewhere, and keeps its bound.
    assert 'lib = { version = ">=1.0", registry = "two" }' in install("lib", registry=two)
    assert registries() == {"lib": "two", "mid": "two"}
    explicit = 'lib = { version = ">=1.0", registry = "default" }'  # "two" has it as well
    assert explicit in install("lib", registry="../one")
    assert registries() == {"lib": "one", "mid": "two"}


def test_a_subfolder_writes_a_path_relative_to_the_manifest(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("modpkg.toml").write_text(APP)
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    assert 'default = "../one"' in install("lib", registry="../../one")


def test_what_is_no_registry_is_not_written(one: Path, tmp_path: Path) -> None:
    Path("modpkg.toml").write_text(APP)
    with raises("M301", match=r"nothing \(from --registry\): it has no registry.json; .*name "):
        install("lib", registry=tmp_path / "nothing")
    with raises("M304", match=r"'nolib' in the registry .*one \(from --registry\)"):
        install("nolib", registry=one)
    assert Path("modpkg.toml").read_text() == APP


def test_without_names_only_a_default_is_written(one: Path, two: Path) -> None:
    Path("modpkg.toml").write_text(APP + '[dependencies]\nlib = "*"\n')
    assert f'default = "{two}"' in install(registry=two)
    assert registries() == {"lib": "two"}
    before = find_project().text()
    assert install(registry=one) == before


def test_what_is_locked_from_elsewhere_stays_there(home: Path, two: Path) -> None:
    publish_collection(home / "registry", "top", "1.0")
    Path("modpkg.toml").write_text(APP)
    assert "registries" not in install("top")
    text = install("mid", registry=two)
    assert f'two = "{two}"' in text
    assert "default" not in text
    assert registries() == {"top": "registry", "mid": "two"}


def test_config_names_a_default_and_aliases(home: Path, one: Path, two: Path) -> None:
    configure(home, f'[registries]\ndefault = "{one}"\nacme = "{two}"\n')
    Path("modpkg.toml").write_text(APP)
    with raises("M319", match=r"lib is asked for .* both .*one \(.* and .*two \(from 'acme'"):
        install("lib")
    text = install("lib", registry="default")
    assert f'[registries]\ndefault = "{one}"\n' in text
    text = install("mid", registry="acme")
    assert f'acme = "{two}"\n' in text
    assert 'mid = { version = ">=1.0", registry = "acme" }' in text
    before = find_project().lock_path.read_bytes()
    (home / "config.toml").unlink()  # another machine
    find_project().lock_path.unlink()
    install()
    assert find_project().lock_path.read_bytes() == before


def test_who_named_the_default(
    home: Path, one: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("modpkg.toml").write_text(APP)

    def origin(option: str | None = None) -> tuple[str, str]:
        location = default_location(find_project().parse(), option)
        return Path(location.address).name, location.origin

    assert origin() == ("registry", "modpkg's own folder, since nothing names a registry")
    configure(home, f'[registries]\ndefault = "{one}"\nacme = "{two}"\n')
    assert origin() == ("one", f"from 'default' under [registries] of {home / 'config.toml'}")
    Path("modpkg.toml").write_text(APP + '[registries]\ndefault = "../two"\n')
    assert origin() == ("two", "from 'default' under [registries] of modpkg.toml")
    monkeypatch.setenv("MODPKG_REGISTRY", str(one))
    assert origin() == ("one", "from MODPKG_REGISTRY")
    assert origin("acme") == (
        "two",
        f"--registry acme, from 'acme' under [registries] of {home / 'config.toml'}",
    )
    assert writable_place(None, "acme").folder == two
    Path("acme").mkdir()
    with raises("M318", match=r"write --registry \./acme for the folder"):
        origin("acme")
    assert origin("./acme") == ("acme", "from --registry")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('a = "models"', "neither a URL nor an absolute path"),
        ('a = "ftp://x"', "not an address"),
        ('a = "https://u:p@x"', "a user or a password in it"),
        ('"a b" = "https://x"', "M107|alias"),
        ("a = 1", "has to be"),
    ],
)
def test_a_wrong_alias_is_told(home: Path, line: str, reason: str) -> None:
    configure(home, f"[registries]\n{line}\n")
    Path("modpkg.toml").write_text(APP)
    with raises("M110", match=reason):
        install("lib")


def test_the_variable_is_not_written(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("modpkg.toml").write_text(APP)
    monkeypatch.setenv("MODPKG_REGISTRY", str(one))
    assert "registries" not in install("lib")


def test_the_commands_say_where_they_looked(home: Path, one: Path, two: Path) -> None:
    Path("modpkg.toml").write_text(APP)
    assert "(modpkg's own folder, since nothing names a registry)" in refused("install", "lib")
    modpkg("install", "lib", "--registry", one)
    modpkg("install", "--registry", one)
    modpkg("update")
    assert "from 'default' under [registries] of modpkg.toml" in refused("install", "mid")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[registries]\na = "b"\n'),
        (APP, APP + '\n[registries]\na = "b"\n'),
        ("registries = {}\n", 'registries = { a = "b" }\n'),
        ('[registries]\nx = "y" # z\n', '[registries]\nx = "y" # z\na = "b"\n'),
        ('registries.x = "y"\n', 'registries.x = "y"\nregistries.a = "b"\n'),
        (
            '[tool.modpkg.app]\nname = "x"\n',
            '[tool.modpkg.app]\nname = "x"\n\n[tool.modpkg.registries]\na = "b"\n',
        ),
    ],
)
def test_an_alias_is_added_in_every_form(before: str, after: str) -> None:
    assert set_registry(before, "a", "b") == after


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A registry in which ``lora`` requires ``base``, and ``base`` requires ``core``."""
    publish_collection(tmp_path / "acme", "core", "3.0")
    publish_collection(tmp_path / "acme", "base", "1.0", {"core": "*"})
    publish_collection(tmp_path / "acme", "lora", "1.0", {"base": ">=1"})
    return tmp_path / "acme"


def test_the_user_environment_has_a_registry_for_each_name(
    home: Path, acme: Path, one: Path
) -> None:
    text = install("lora", registry=acme)
    assert f'acme = "{acme}"' in text
    assert "default" not in text
    install("lib", registry=one)
    publish_collection(home / "registry", "own", "1.0")
    install("own")
    mixed = {"lora": "acme", "base": "acme", "core": "acme", "lib": "one", "own": "registry"}
    assert registries() == mixed
    publish_collection(acme, "lora", "1.1", {"base": ">=1"})
    modpkg("update")
    assert registries() == mixed
    assert locked().find("lora").version == "1.1"  # type: ignore[union-attr]


def test_what_a_dependency_requires_comes_from_its_registry(
    home: Path, acme: Path, one: Path
) -> None:
    """Where it has the name; from the default registry else."""
    publish_collection(acme, "lora", "1.1", {"base": "*", "lib": "*"})
    publish_collection(home / "registry", "base", "9.0")
    publish_collection(home / "registry", "lib", "9.0")
    Path("modpkg.toml").write_text(
        f'{APP}[registries]\nacme = "{acme}"\n[dependencies]\n'
        'lora = { version = "*", registry = "acme" }\n'
    )
    install()
    expected = {"lora": "acme", "base": "acme", "core": "acme", "lib": "registry"}
    assert registries() == expected
    assert modpkg("vendor", "copy").returncode == 0
    assert {path.name for path in Path("copy").iterdir()} >= {"acme", "registry"}
    with raises("M319", match="base is asked for without a registry, and both .*registry .*acme "):
        install("base")
    text = install("base", registry="default")  # said otherwise
    assert 'base = { version = ">=9.0", registry = "default" }' in text
    assert registries() == {"lora": "acme", "base": "registry", "lib": "registry"}


def test_a_lock_keeps_the_registry_that_it_has(home: Path, acme: Path) -> None:
    """Of an older modpkg, where what a dependency requires came from the default registry."""
    publish_collection(home / "registry", "base", "9.0")
    base = 'base = { version = "*", registry = "default" }\n'
    text = (
        f'{APP}[registries]\nacme = "{acme}"\n[dependencies]\n'
        f'lora = {{ version = "*", registry = "acme" }}\n{base}'
    )
    Path("modpkg.toml").write_text(text)
    install()
    lock = find_project().lock_path
    lock.write_text(lock.read_text().replace('    "base",\n', ""))
    Path("modpkg.toml").write_text(text.replace(base, ""))
    modpkg("install", "--frozen")
    modpkg("lock")
    assert registries() == {"lora": "acme", "base": "registry"}
    assert "M416" in refused("lock", "--upgrade")
    modpkg("lock", "--upgrade", "--accept-changed", "base")
    assert registries() == {"lora": "acme", "base": "acme", "core": "acme"}


def test_a_name_of_two_registries_is_not_guessed(home: Path, acme: Path, one: Path) -> None:
    publish_collection(home / "registry", "core", "1.0")
    publish_collection(home / "registry", "top", "1.0", {"core": "*"})
    Path("modpkg.toml").write_text(
        f'{APP}[registries]\nacme = "{acme}"\n[dependencies]\ntop = "*"\n'
        'lora = { version = "*", registry = "acme" }\n'
    )
    text = Path("modpkg.toml").read_text()
    for remedy, version in (("--registry acme", "3.0"), ("--registry default", "1.0")):
        Path("modpkg.toml").write_text(text)
        command = f"modpkg install core {remedy}".strip()
        with raises("M319", match=f"core is required by top, .* and by base, .*'{command}'"):
            install()
        modpkg(*command.split()[1:])
        assert locked().find("core").version == version  # type: ignore[union-attr]
        find_project().lock_path.unlink()


def test_a_lock_that_others_could_not_use_is_told(home: Path, one: Path) -> None:
    configure(home, f'[registries]\ndefault = "{one}"\n')
    Path("modpkg.toml").write_text(APP + '[dependencies]\nlib = "*"\n')
    assert "only your config.toml has" in modpkg("lock").stderr
    Path("modpkg.toml").write_text(
        APP + '[registries]\ndefault = "../one"\n[dependencies]\nlib = "*"\n'
    )
    assert "config.toml" not in modpkg("lock").stderr
    assert "config.toml" not in modpkg("install", "--user", "lib").stderr
