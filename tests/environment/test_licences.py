"""Licences over a composition: told before an install, refused where the manifest says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.environment.licence_facts import _FACTS, ANY, Terms, terms_of
from tests.command import modpkg, modpkg_json, refused
from tests.manifest.strategies import steady
from tests.modules import publish as publish_plain
from tests.tiny import publish, write_adapter, write_base, write_model


def licensed(project: Path, license: str) -> Path:
    path = project / "modpkg.toml"
    path.write_text(path.read_text().replace('license = "MIT"', f'license = "{license}"'))
    return project


def talker(tmp_path: Path, base: str, lora: str, own: str = "MIT") -> Path:
    """Publish a model of a base and an adapter with these licences."""
    registry = tmp_path / "registry"
    publish(licensed(write_base(tmp_path / "tiny"), base), registry)
    publish(licensed(write_adapter(tmp_path / "lora"), lora), registry)
    publish_plain(licensed(write_model(tmp_path / "talker"), own), registry)
    return registry


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "registry"))
    folder = tmp_path / "app"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write(folder)
    return folder


def write(app: Path, policy: str = "") -> None:
    text = f'[app]\nname = "app"\n[dependencies]\ntalker = "*"\n{policy}'
    (app / "modpkg.toml").write_text(text)


def test_what_does_not_go_together_is_told_before_an_install(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "Apache-2.0", "GPL-2.0-only")
    said = "talker: the licences of tiny (Apache-2.0), tiny-lora (GPL-2.0-only) do not go together"
    assert said in modpkg("install", "--dry-run").stdout
    planned = modpkg_json("install", "--dry-run")["licenses"]
    assert planned["combinations"][0]["status"] == "incompatible"
    assert planned["combinations"][0]["modules"] == ["tiny", "tiny-lora"]
    write(app, '[licenses]\nconflicts = "refuse"\n')
    told = refused("install")
    assert "error[M771]" in told
    assert "modpkg.toml:4: talker is not installed: the licences of" in told
    assert "modpkg.toml:5)" in told
    assert "error[M503]" in refused("list")
    assert not (app / "modpkg.lock").exists()
    write(
        app,
        '[licenses]\nconflicts = "refuse"\n[licenses.exceptions]\ntiny-lora = ["GPL-2.0-only"]\n',
    )
    assert modpkg("install").stderr.count("licences") == 0
    write(app)
    assert said in modpkg("install").stderr


def test_what_nobody_knows_is_said(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "LicenseRef-Llama-3", "MIT")
    said = modpkg("install").stderr
    assert "is not known: there are no facts on LicenseRef-Llama-3" in said
    write(app, '[licenses]\nunknown = "refuse"\n')
    assert "error[M771]" in refused("install")


def test_a_policy_names_the_module_and_the_way_to_it(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "Apache-2.0", "CC-BY-NC-4.0")
    write(app, '[licenses]\nallow = ["MIT", "apache-2.0"]\n')
    told = refused("install", "--dry-run")
    assert "error[M770]" in told
    assert "modpkg.toml:4 (talker -> tiny-lora): tiny-lora 1.0 is under CC-BY-NC-4.0" in told
    assert "CC-BY-NC-4.0 is not among those allowed" in told
    write(app, '[licenses]\ndeny = ["CC-BY-NC-4.0"]\n')
    assert "CC-BY-NC-4.0 is denied" in refused("install")
    write(
        app, '[licenses]\ndeny = ["CC-BY-NC-4.0"]\nexceptions = { tiny-lora = ["CC-BY-NC-4.0"] }\n'
    )
    assert modpkg("install").stderr.count("licence") == 0
    done = modpkg("licenses", "--json")
    verdicts = {m["name"]: m["verdict"] for m in json.loads(done.stdout)["modules"]}
    assert verdicts == {"talker": "accepted", "tiny": "accepted", "tiny-lora": "excepted"}


def test_one_of_several_licences_will_do(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "Apache-2.0", "GPL-2.0-only OR MIT")
    write(app, '[licenses]\nallow = ["MIT", "Apache-2.0"]\nconflicts = "refuse"\n')
    modpkg("install")


def test_licenses_lists_them_without_weights(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "Apache-2.0", "CC-BY-ND-4.0")
    assert "error[M411]" in refused("licenses")
    modpkg("lock")
    done = modpkg("licenses", check=False)
    assert done.returncode == 0
    assert "tiny-lora  1.0      CC-BY-ND-4.0  accepted" in done.stdout
    assert "tiny-lora (CC-BY-ND-4.0) may not be given on once it is composed" in done.stdout
    write(app, '[licenses]\ndeny = ["CC-BY-ND-4.0"]\n')
    done = modpkg("licenses", check=False)
    assert (done.returncode, "refused (CC-BY-ND-4.0 is denied)" in done.stdout) == (1, True)


PAIRS = [
    ("MIT", "GPL-3.0-only", True),
    ("Apache-2.0", "GPL-2.0-only", False),
    ("Apache-2.0", "GPL-2.0-or-later", True),
    ("GPL-2.0-only", "GPL-3.0-or-later", False),
    ("GPL-3.0-only", "AGPL-3.0-only", True),
    ("LGPL-3.0-only", "GPL-2.0-only", False),
    ("MPL-2.0", "GPL-2.0-only", True),
    ("CC-BY-4.0", "GPL-2.0-only", True),
    ("CC-BY-SA-4.0", "GPL-3.0-or-later", True),
    ("CC-BY-SA-4.0", "CC-BY-NC-4.0", False),
    ("CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", False),
    ("CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", True),
    ("CC-BY-NC-4.0", "MIT", True),
    ("CC-BY-NC-4.0", "GPL-3.0-only", False),
    ("CC-BY-ND-4.0", "MIT", False),
    ("EPL-2.0", "GPL-3.0-only", False),
    ("BSD-4-Clause", "GPL-2.0-only", False),
    ("MIT", "LicenseRef-own", None),
    ("EPL-2.0", "MPL-2.0", None),
    ("CC-BY-NC-4.0", "LGPL-3.0-only", None),
    ("CC-BY-ND-4.0", "LicenseRef-own", False),
]
"""What the sources say: together, not together, or nothing."""


@pytest.mark.parametrize(("one", "two", "together"), PAIRS)
def test_the_table_says_what_its_sources_say(one: str, two: str, together: bool | None) -> None:
    both = terms_of(one) & terms_of(two)
    said = True if both.known else None if both.possible else False
    assert said is together


licences = st.sampled_from([*_FACTS, "LicenseRef-own", "GPL-2.0-only WITH Classpath-exception-2.0"])


@given(st.lists(licences, min_size=1, max_size=4), licences, st.randoms())
@steady
def test_more_parts_never_help_and_their_order_says_nothing(
    names: list[str], more: str, random: st.DrawFn
) -> None:
    def together(chosen: list[str]) -> Terms:
        found = ANY
        for name in chosen:
            found = found & terms_of(name)
        return found

    whole, larger = together(names), together([*names, more])
    assert larger.known <= whole.known <= whole.possible >= larger.possible
    shuffled = sorted(names)
    assert together(shuffled) == whole
