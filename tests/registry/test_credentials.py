"""Credentials of object stores: found where their own tools find them, reported where missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modpkg.registry.credentials import store_options
from modpkg.registry.http_errors import request_error
from modpkg.registry.reader import Registry
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.servers import serve

KEYS = "aws_access_key_id = {0}\naws_secret_access_key = {0}-secret\n"


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without credentials."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user" / ".aws").mkdir(parents=True)
    return tmp_path / "user"


def test_a_profile_signs_requests(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_collection(tmp_path / "bucket" / "models", "lib")
    (user / ".aws" / "credentials").write_text(
        f"[default]\n{KEYS.format('AKONE')}[work]\n{KEYS.format('AKTWO')}aws_session_token = T\n"
    )
    (user / ".aws" / "config").write_text("[profile work]\nregion = eu-west-9\n")
    with serve(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT", server.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        assert Registry("s3://bucket/models").index("lib")
        monkeypatch.setenv("AWS_PROFILE", "work")
        assert Registry("s3://bucket/models").index("lib")
        first, second = (seen.headers for seen in (server.seen[0], server.seen[-1]))
    assert "Credential=AKONE/" in first["authorization"]
    assert "Credential=AKTWO/" in second["authorization"]
    assert "/eu-west-9/s3/" in second["authorization"]
    assert second["x-amz-security-token"] == "T"


def test_the_environment_comes_first(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user / ".aws" / "credentials").write_text(f"[default]\n{KEYS.format('AK')}")
    assert store_options("s3://b")["access_key_id"] == "AK"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert store_options("s3://b") == {}
    assert store_options("https://models.example") == {}


def test_other_places(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"[p]\n{KEYS.format('AK')}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_DEFAULT_PROFILE", "p")
    assert store_options("s3://b")["access_key_id"] == "AK"
    monkeypatch.setenv("AWS_PROFILE", "c")
    (user / ".aws" / "config").write_text(f"[profile c]\nregion = r\n{KEYS.format('CK')}")
    assert store_options("s3://b")["access_key_id"] == "CK"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("[profile other]\n", "no profile 'work'"),
        ("[profile work]\nsso_session = s\n", "gets them by sso_session.*export-credentials"),
        (f"[profile work]\nrole_arn = r\n{KEYS.format('K')}", "gets them by role_arn"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told(
    user: Path, monkeypatch: pytest.MonkeyPatch, config: str, sentence: str
) -> None:
    (user / ".aws" / "config").write_text(config)
    monkeypatch.setenv("AWS_PROFILE", "work")
    with raises("M320", match=sentence):
        Registry("s3://bucket").index("lib")


def test_azure_as_its_tool(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises("M320", match="needs credentials, and none were found; set AZURE_STORAGE_ACC"):
        Registry("az://container").index("lib")
    (user / ".azure").mkdir()
    (user / ".azure" / "azureProfile.json").write_text("{}")
    assert store_options("az://c") == {"use_azure_cli": True}
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "a")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "k")
    assert store_options("az://c") == {"account_name": "a", "account_key": "k"}


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("s3://b", "set AWS_ACCESS_KEY_ID"),
        ("gs://b", "gcloud auth application-default login"),
        ("az://b", "az login"),
    ],
)
def test_a_missing_credential_is_called_that(url: str, remedy: str) -> None:
    """obstore asks the metadata service last, and tells of that only."""
    text = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token: 403"
    error = request_error(text, url, "registry.json")
    assert error.code == "M320"
    assert remedy in str(error)
    text = "Client error with status code: 403 Forbidden"
    assert "config.toml" not in str(request_error(text, url, "registry.json"))


@pytest.mark.parametrize(
    ("url", "body", "sentence"),
    [
        ("az://c/p", "<Code>ContainerNotFound</Code>", "there is no container 'c'; create it"),
        ("abfs://c@a.dfs.x", "<Code>ContainerNotFound</Code>", "there is no container 'c'"),
        (
            "az://c/p",
            "<Code>AuthenticationFailed</Code><AuthenticationErrorDetail>Signature not valid in "
            "the specified time frame: Start [x] - Expiry [y]</AuthenticationErrorDetail>",
            "the credentials have expired",
        ),
        (
            "az://c/p",
            "<Code>AuthenticationFailed</Code><AuthenticationErrorDetail>Request date header too "
            "old: 'x'</AuthenticationErrorDetail>",
            "the clock of this machine is off; set it",
        ),
        ("az://c/p", "<Code>AuthenticationFailed</Code>", "not valid there; set others (AZURE_…)"),
        (
            "gs://b/p",
            '{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}',
            "the credentials have expired",
        ),
        (
            "gs://b/p",
            "<Code>AuthenticationRequired</Code>",
            "not valid there; set others (GOOGLE_…)",
        ),
        (
            "s3://b/p",
            "<Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; "
            "expecting 'eu-west-1'</Message>",
            "in the region eu-west-1; set AWS_REGION to eu-west-1",
        ),
    ],
)
def test_each_cloud_says_it_in_its_own_way(url: str, body: str, sentence: str) -> None:
    text = f"Server returned non-2xx status code: 403 Forbidden: {body}"
    error = request_error(text, url, "registry.json")
    assert error.code == "M849"
    assert sentence in str(error)
