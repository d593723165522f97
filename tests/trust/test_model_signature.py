"""Signed folders: the verifier of OpenSSF Model Signing accepts ours, and no changed ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modpkg.trust.model_signature import sign_folder
from modpkg.trust.private_key import PrivateKey, new_key, read_key
from tests.raising import raises


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    new_key(tmp_path / "key.pem", "ecdsa-p256", None)
    made = read_key(tmp_path / "key.pem", lambda: "")
    (tmp_path / "key.pub").write_bytes(made.public.pem())
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with files whose order by parts is not that of their texts."""
    folder = tmp_path / "model"
    for name in ("a/b.bin", "a.json", "a-b/c", "config.json", "weights/one.safetensors", ".hidden"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def verified(folder: Path) -> bool:
    """Return whether the other tool verifies a folder, with the key beside it."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    command += ["--signature", str(folder / "model.sig")]
    command += ["--public_key", str(folder.parent / "key.pub")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def test_the_other_tool_verifies_a_folder(model: Path, key: PrivateKey) -> None:
    assert sign_folder(model, key) == model / "model.sig"
    assert verified(model)
    assert sign_folder(model, key).exists()  # once more: the signature is none of the files
    assert verified(model)


@pytest.mark.parametrize("change", ["bytes", "more", "less", "key"])
def test_the_other_tool_refuses_a_changed_folder(
    model: Path, key: PrivateKey, change: str, tmp_path: Path
) -> None:
    sign_folder(model, key)
    if change == "bytes":
        (model / "config.json").write_text("other")
    elif change == "more":
        (model / "more.json").write_text("{}")
    elif change == "less":
        (model / "a.json").unlink()
    else:
        other = new_key(tmp_path / "other.pem", "ecdsa-p256", None)
        (tmp_path / "key.pub").write_bytes(other.pem())
    assert not verified(model)


def test_the_form_has_no_ed25519(model: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "ed.pem", "ed25519", None)
    with raises("M547", match="ecdsa-p256"):
        sign_folder(model, read_key(tmp_path / "ed.pem", lambda: ""))
    assert not (model / "model.sig").exists()
