"""Licences of a resolution: listed, and refused where the manifest says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import modpkg, modpkg_json, refused
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


def test_nothing_is_refused_without_a_policy(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "Apache-2.0", "LicenseRef-Llama-3")
    modules = modpkg_json("install", "--dry-run")["licenses"]["modules"]
    assert {m["name"]: (m["license"], m["verdict"]) for m in modules} == {
        "talker": ("MIT", "accepted"),
        "tiny": ("Apache-2.0", "accepted"),
        "tiny-lora": ("LicenseRef-Llama-3", "accepted"),
    }
    assert "licen" not in modpkg("install").stderr


def test_a_refusal_names_the_module_and_the_chain_of_requirements(
    app: Path, tmp_path: Path
) -> None:
    talker(tmp_path, "Apache-2.0", "CC-BY-NC-4.0")
    write(app, '[licenses]\nallow = ["MIT", "apache-2.0"]\n')
    message = refused("install", "--dry-run")
    assert "error[M770]" in message
    assert "modpkg.toml:4 (talker -> tiny-lora): tiny-lora 1.0 is under CC-BY-NC-4.0" in message
    assert "CC-BY-NC-4.0 is not among the allowed licences" in message
    write(app, '[licenses]\ndeny = ["CC-BY-NC-4.0"]\n')
    assert "CC-BY-NC-4.0 is denied" in refused("install")
    write(
        app, '[licenses]\ndeny = ["CC-BY-NC-4.0"]\nexceptions = { tiny-lora = ["CC-BY-NC-4.0"] }\n'
    )
    assert modpkg("install").stderr.count("licence") == 0
    done = modpkg("licenses", "--json")
    verdicts = {m["name"]: m["verdict"] for m in json.loads(done.stdout)["modules"]}
    assert verdicts == {"talker": "accepted", "tiny": "accepted", "tiny-lora": "excepted"}


def test_one_accepted_alternative_suffices(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "Apache-2.0", "GPL-2.0-only OR MIT")
    write(app, '[licenses]\nallow = ["MIT", "Apache-2.0"]\n')
    modpkg("install")


def test_licenses_lists_them_without_weights(app: Path, tmp_path: Path) -> None:
    talker(tmp_path, "Apache-2.0", "CC-BY-ND-4.0")
    assert "error[M411]" in refused("licenses")
    modpkg("lock")
    done = modpkg("licenses", check=False)
    assert done.returncode == 0
    assert "tiny-lora  1.0      CC-BY-ND-4.0  accepted" in done.stdout
    write(app, '[licenses]\ndeny = ["CC-BY-ND-4.0"]\n')
    done = modpkg("licenses", check=False)
    assert (done.returncode, "refused (CC-BY-ND-4.0 is denied)" in done.stdout) == (1, True)


def test_a_licence_of_ones_own_name_can_be_allowed_denied_and_excepted(
    app: Path, tmp_path: Path
) -> None:
    talker(tmp_path, "Apache-2.0", "LicenseRef-Llama-3", "MIT AND LicenseRef-unknown")

    def verdicts(policy: str) -> dict[str, str]:
        write(app, f"[licenses]\n{policy}\n")
        modpkg("lock")
        done = modpkg("licenses", "--json", check=False)
        return {m["name"]: m["verdict"] for m in json.loads(done.stdout)["modules"]}

    allowed = 'allow = ["MIT", "Apache-2.0", "licenseref-Llama-3", "LicenseRef-unknown"]'
    assert set(verdicts(allowed).values()) == {"accepted"}
    assert "licen" not in modpkg("install").stderr
    assert verdicts('deny = ["LicenseRef-Llama-3"]')["tiny-lora"] == "refused"
    excepted = 'allow = ["MIT", "Apache-2.0"]\nexceptions = { tiny-lora = ["LicenseRef-Llama-3"] }'
    found = verdicts(excepted)
    assert (found["tiny-lora"], found["talker"]) == ("excepted", "refused")
