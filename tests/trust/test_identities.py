"""Releases signed by an identity of OpenID Connect: a CI job, without a key."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from msgspec import structs

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.core.records import IndexLine
from modpkg.server.sent_bundles import check_bundle
from modpkg.trust import ambient, sigstore_bundle
from modpkg.trust.ambient import AmbientIdentity
from modpkg.trust.bundle import verify_bundle
from modpkg.trust.statement import is_about
from tests.cli.test_everywhere import run
from tests.modules import write_module
from tests.raising import raises
from tests.trust.local_sigstore import GITHUB, LocalSigstore, github_job, token_of
from tests.trust.test_bundle import RELEASE, edited, statement
from tests.trust.test_signed_releases import Capture, app, keys, release, signers

__all__ = ["app", "keys"]
ACME = f"oidc:{GITHUB} repo=acme/models owner-id=9919 workflow=.github/workflows/release.yml"


@pytest.fixture(scope="module")
def sigstore() -> Iterator[LocalSigstore]:
    made = LocalSigstore()
    server = made.serve()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def trusted(sigstore: LocalSigstore, home: Path) -> LocalSigstore:
    """The authority, which config.toml names."""
    trust(home, sigstore.trust_config())
    return sigstore


def trust(home: Path, document: Any) -> None:
    home.mkdir(exist_ok=True)
    path = home / "trust.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    (home / "config.toml").write_text(f'[sigstore]\ntrust-config = "{path}"\n')


@pytest.fixture
def job(trusted: LocalSigstore, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this process a CI job with these claims."""

    def become(**claims: str) -> None:
        monkeypatch.setenv("SIGSTORE_ID_TOKEN", token_of(github_job(**claims)))

    return become


def test_a_job_signs_what_is_verified_by_the_authority(trusted: LocalSigstore) -> None:
    signed = verify_bundle(trusted.bundle(statement(), github_job()))
    path = ".github/workflows/release.yml@refs/tags/v1.0"
    subject = f"subject=https://github.com/acme/models/{path}"
    assert str(signed.signer) == f"{ACME} ref=refs/tags/v1.0 {subject}"
    assert is_about(signed.statement, "words", "1.0", RELEASE)  # type: ignore[arg-type]
    assert not is_about(signed.statement, "other", "1.0", RELEASE)  # type: ignore[arg-type]
    person = {"iss": "https://accounts.google.com", "email": "ada@acme.example"}
    signed = verify_bundle(trusted.bundle(statement(), person))
    assert str(signed.signer) == "oidc:https://accounts.google.com subject=ada@acme.example"
    gitlab = github_job("acme/models", "/.gitlab-ci.yml", "refs/heads/a@b", "https://gitlab.com")
    text = str(verify_bundle(trusted.bundle(statement(), gitlab)).signer)
    assert " repo=acme/models owner-id=9919 workflow=.gitlab-ci.yml ref=refs/heads/a@b " in text


def test_a_trusted_root_alone_verifies(sigstore: LocalSigstore, home: Path) -> None:
    trust(home, sigstore.trusted_root())
    assert verify_bundle(sigstore.bundle(statement(), github_job()))


def test_a_certificate_holds_for_what_was_logged_in_its_time(trusted: LocalSigstore) -> None:
    start = trusted.now - timedelta(days=900)
    assert verify_bundle(trusted.bundle(statement(), github_job(), start=start))
    for late in (timedelta(minutes=10), timedelta(days=900), timedelta(minutes=-5)):
        data = trusted.bundle(statement(), github_job(), start=start, logged_after=late)
        with raises("M541", match="was not valid when the log took its entry"):
            verify_bundle(data)


def entry_of(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)["verificationMaterial"]["tlogEntries"][0]
    return found


def test_a_bundle_that_no_authority_stands_for_counts_for_nothing(trusted: LocalSigstore) -> None:
    good = trusted.bundle(statement(), github_job())
    entry = entry_of(good)
    stranger = LocalSigstore()
    same_logs = LocalSigstore()  # another authority, whose certificates the same logs have
    same_logs.ct_key, same_logs.log_key = trusted.ct_key, trusted.log_key
    other_ct = LocalSigstore()
    other_ct.root, other_ct.root_key, other_ct.log_key = (
        trusted.root,
        trusted.root_key,
        trusted.log_key,
    )
    other_log = LocalSigstore()
    other_log.root, other_log.root_key, other_log.ct_key = (
        trusted.root,
        trusted.root_key,
        trusted.ct_key,
    )

    def with_entry(**changes: Any) -> bytes:
        material = json.loads(good)["verificationMaterial"]
        material["tlogEntries"] = [{**entry, **changes}]
        return edited(good, "verificationMaterial", value=material)

    promise = {"signedEntryTimestamp": base64.b64encode(b"0" * 70).decode()}
    changed = {**entry["inclusionProof"], "hashes": [base64.b64encode(b"1" * 32).decode()]}
    payload = base64.b64encode(statement("other")).decode()
    elsewhere = entry_of(trusted.bundle(statement("other"), github_job()))
    two = json.loads(good)["verificationMaterial"] | {"tlogEntries": [entry, entry]}
    keyed = json.loads(good)["verificationMaterial"] | {"publicKey": {"hint": "key:ed25519:AA"}}
    dns = x509.DNSName("acme.example")
    cases = {
        "no trusted authority": [
            stranger.bundle(statement(), github_job()),
            same_logs.bundle(statement(), github_job()),
        ],
        "no trusted certificate log": [
            trusted.bundle(statement(), github_job(), sct=False),
            other_ct.bundle(statement(), github_job()),
        ],
        "not one of a trusted transparency log": [
            other_log.bundle(statement(), github_job()),
            with_entry(inclusionPromise=promise),
            with_entry(inclusionProof=changed),
            with_entry(canonicalizedBody="%"),
            with_entry(integratedTime=str(int(entry["integratedTime"]) + 1)),
        ],
        "not one of its certificate's key": [
            edited(good, "dsseEnvelope", "payload", value=payload),
        ],
        "is of something else": [with_entry(**elsewhere)],
        "has a certificate too": [edited(good, "verificationMaterial", value=keyed)],
        "malformed": [edited(good, "verificationMaterial", "certificate", value=5)[:-1]],
        "other names than Fulcio's": [trusted.bundle(statement(), github_job(), subject=dns)],
        "issuer or identity out of bounds": [
            trusted.bundle(statement(), github_job(issuer="http://evil.example")),
            trusted.bundle(statement(), github_job(repo="a" * 401)),
        ],
        "Sigstore's client refuses it": [
            edited(good, "verificationMaterial", "certificate", value=5),
            edited(good, "verificationMaterial", "certificate", "rawBytes", value="AAAA"),
            edited(good, "verificationMaterial", "tlogEntries", value=[]),
            edited(good, "verificationMaterial", value=two),
            with_entry(inclusionPromise=None),
            with_entry(integratedTime="9" * 30),
            edited(good, "verificationMaterial", value={}),
        ],
    }
    assert verify_bundle(good)
    for reason, bundles in cases.items():
        for data in bundles:
            with raises("M541", match=reason):
                print(reason, verify_bundle(data))


def test_what_cannot_be_trusted_is_said(sigstore: LocalSigstore, home: Path) -> None:
    data = sigstore.bundle(statement(), github_job())
    root = sigstore.trusted_root()
    for document in ("", "{", "[" * 100_000, "7", {}, {**root, "tlogs": []}, {**root, "tlogs": 1}):
        trust(home, document)
        with raises("M591", match="trust.json cannot be used .*trust-config"):
            print(document, verify_bundle(data))
    (home / "trust.json").unlink()
    with raises("M591", match="No such file"):
        verify_bundle(data)
    (home / "config.toml").write_text('[sigstore]\ntrust-config = "trust.json"\n')
    with raises("M110", match="no absolute path"):
        verify_bundle(data)


def test_a_clock_that_is_years_off_verifies_nothing(sigstore: LocalSigstore, home: Path) -> None:
    """To a clock that is behind, the authority's keys are of the future."""
    trust(home, sigstore.trusted_root(since=sigstore.now + timedelta(days=900)))
    with raises("M591", match="clock of this machine"):
        verify_bundle(sigstore.bundle(statement(), github_job()))


def test_the_public_sigstore_is_asked_for_nothing(
    home: Path, tmp_path: Path, sigstore: LocalSigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file, its root is what is here: no socket, and nothing on standard error."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    sigstore_bundle._verifier.cache_clear()
    with raises("M541", match="no trusted authority"):
        verify_bundle(sigstore.bundle(statement(), github_job()))
    sigstore_bundle._verifier.cache_clear()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with raises("M591", match="Sigstore's own trust config"):
        verify_bundle(sigstore.bundle(statement(), github_job()))


def test_the_lock_records_the_job_and_holds_to_it(
    app: Path, tmp_path: Path, job: Callable[..., None], capfd: Capture
) -> None:
    job()
    release(capfd, tmp_path, "1.0", "oidc")
    status, _, err = run(capfd, "lock")
    assert (status, signers(app)) == (0, {"words": ACME}), err
    job(ref="refs/tags/v1.1")
    release(capfd, tmp_path, "1.1", "oidc")
    assert run(capfd, "update")[0] == 0
    assert signers(app) == {"words": ACME}
    assert run(capfd, "install")[0] == 0
    status, out, err = run(capfd, "verify", "--json")
    assert status == 0, err
    (module,) = json.loads(out)["modules"]
    assert module["signer"] == ACME
    assert [one.startswith(f"{ACME} ref=refs/tags/v1.1 ") for one in module["signatures"]] == [True]
    before = (app / "modpkg.lock").read_bytes()
    others: tuple[dict[str, str], ...] = (
        {"repo": "evil/models"},
        {"owner": "10001"},  # who took the name of one that left
        {"workflow": ".github/workflows/test.yml"},
        {"issuer": "https://gitlab.com"},
    )
    for number, claims in enumerate(others, 2):
        job(**claims)
        release(capfd, tmp_path, f"1.{number}", "oidc")
        status, _, err = run(capfd, "update")
        assert (status, "error[M544]" in err, ACME in err) == (1, True, True)
        assert next(iter(claims.values())) in err
        assert (app / "modpkg.lock").read_bytes() == before
    release(capfd, tmp_path, "1.9")
    assert "is signed by nobody" in run(capfd, "update")[2]
    assert (app / "modpkg.lock").read_bytes() == before


def test_the_manifest_says_which_job_has_to_sign(
    app: Path, tmp_path: Path, job: Callable[..., None], keys: dict[str, str], capfd: Capture
) -> None:
    job(ref="refs/heads/main")
    release(capfd, tmp_path, "1.0", "oidc")
    wanted = f"oidc:{GITHUB} repo=acme/models"
    assert run(capfd, "trust", "add", "words", f"{wanted} ref=refs/tags/v1")[0] == 0
    status, _, err = run(capfd, "lock")
    assert (status, "error[M543]" in err) == (1, True)
    assert "ref=refs/heads/main" in err  # what makes the difference
    manifest = app / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace(" ref=refs/tags/v1", ""))
    assert run(capfd, "lock")[0] == 0
    assert signers(app) == {"words": wanted}
    assert run(capfd, "lock", "--check")[0] == 0
    assert "error[M590]" in run(capfd, "trust", "add", "a", f"oidc:{GITHUB}")[2]
    manifest.write_text(manifest.read_text().replace(wanted, f"oidc:{GITHUB}"))
    assert "is no signer" in run(capfd, "lock")[2]


def test_a_key_names_a_job_as_its_successor(
    app: Path, tmp_path: Path, job: Callable[..., None], keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    assert run(capfd, "lock")[0] == 0
    new = f"oidc:{GITHUB} repo=acme/models"
    status, _, err = run(capfd, "key", "succeed", "words", "--from", "ada", "--to", new)
    assert status == 0, err
    job()
    release(capfd, tmp_path, "1.1", "oidc")
    assert run(capfd, "update")[0] == 0
    assert signers(app) == {"words": new}


def test_a_job_names_its_successor(
    app: Path, tmp_path: Path, job: Callable[..., None], keys: dict[str, str], capfd: Capture
) -> None:
    job()
    release(capfd, tmp_path, "1.0", "oidc")
    assert run(capfd, "lock")[0] == 0
    named = ("key", "succeed", "words", "--to", keys["ada"], "--from")
    status, _, err = run(capfd, *named, ACME.replace("release.yml", "test.yml"))
    assert (status, "error[M547]" in err) == (1, True), err
    job(ref="refs/heads/main")
    status, _, err = run(capfd, *named, ACME)
    assert status == 0, err
    (app / "modpkg.lock").unlink()
    assert run(capfd, "lock")[0] == 0  # it names 1.0
    assert signers(app) == {"words": ACME}
    job(ref="refs/tags/v1.1")
    release(capfd, tmp_path, "1.1", "oidc")
    status, _, err = run(capfd, "update")
    assert (status, "error[M571]" in err, keys["ada"] in err) == (1, True, True)
    release(capfd, tmp_path, "1.2", "ada")
    assert run(capfd, "update")[0] == 0
    assert signers(app) == {"words": keys["ada"]}
    assert "error[M572]" in run(capfd, *named, f"oidc:{GITHUB} repo=acme/models")[2]


def test_a_bundle_of_another_release_counts_for_nothing(
    app: Path, home: Path, tmp_path: Path, job: Callable[..., None], capfd: Capture
) -> None:
    job()
    release(capfd, tmp_path, "1.0", "oidc")
    release(capfd, tmp_path, "1.0", "oidc", "other")
    files = sorted((home / "registry" / "signatures").rglob("*.jsonl"))
    one, two = (path.read_bytes() for path in files)
    files[0].write_bytes(two)
    files[1].write_bytes(one)
    status, _, err = run(capfd, "lock", "--require-signed")
    assert (status, "error[M545]" in err, "it is of pkg:modpkg/other@1.0" in err) == (1, True, True)
    assert not (app / "modpkg.lock").exists()


def without_sigstore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take Sigstore's client away from this process."""
    sigstore_bundle._verifier.cache_clear()
    monkeypatch.setitem(sys.modules, "sigstore", None)


def test_without_sigstore_the_sentence_names_the_extra(
    app: Path,
    tmp_path: Path,
    job: Callable[..., None],
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job()
    release(capfd, tmp_path, "1.0", "oidc")
    assert run(capfd, "lock")[0] == 0
    release(capfd, tmp_path, "1.1", "oidc")
    before = (app / "modpkg.lock").read_bytes()
    without_sigstore(monkeypatch)
    status, _, err = run(capfd, "update")
    assert (status, "error[M703]" in err, "modpkg[sigstore]" in err) == (1, True, True)
    assert (app / "modpkg.lock").read_bytes() == before
    (app / "modpkg.lock").unlink()
    assert "error[M703]" in run(capfd, "lock", "--require-signed")[2]
    status, _, err = run(capfd, "lock")  # who asks for no signer gets none, and learns why
    assert (status, signers(app)) == (0, {"words": ""})
    assert "words 1.1 is locked without a signer" in err
    assert "modpkg[sigstore]" in err


def never(*_: object, **__: object) -> None:
    raise AssertionError("nobody should be asked")


def stale(*_: object, **__: object) -> None:
    from sigstore.errors import TUFError

    raise TUFError("Failed to refresh TUF metadata")


def test_a_job_that_cannot_sign_publishes_nothing(
    home: Path,
    tmp_path: Path,
    trusted: LocalSigstore,
    job: Callable[..., None],
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_module(tmp_path / "words", "words", "1.0")
    assert run(capfd, "build", str(folder))[0] == 0

    def refused() -> str:
        status, _, err = run(capfd, "publish", str(folder), "--sign", "oidc")
        assert (status, "error[M547]" in err) == (1, True), err
        assert not (home / "registry" / "index").exists()
        return err

    for variable in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)
    assert "id-token: write" in refused()
    for token in ("words", token_of(github_job(), exp=5), token_of(github_job(), aud="other")):
        monkeypatch.setenv("SIGSTORE_ID_TOKEN", token)
        with monkeypatch.context() as alone:  # nobody is asked anything before
            alone.setattr(ambient, "client_config", never)
            assert "its token is malformed" in refused()
    job()
    with monkeypatch.context() as alone:
        alone.setattr(ambient, "client_config", stale)
        assert "trust-config under [sigstore]" in refused()
    monkeypatch.setattr(trusted, "refusal", (403, b'{"message": "no"}'))
    assert "403" in refused()
    monkeypatch.setattr(trusted, "refusal", None)
    trust(home, trusted.trusted_root())
    with raises("M591", match="signing needs a client trust config"):
        AmbientIdentity().sign_statement(statement())
    trust(home, trusted.trust_config())
    monkeypatch.setattr(trusted, "log_key", trusted.root_key)  # a log that promises falsely
    with raises("M541", match="not one of a trusted transparency log"):
        AmbientIdentity().sign_statement(statement())


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes requests, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("service", ["/api/v2/signingCert", "/api/v1/log/entries"])
def test_a_sigstore_that_never_answers_is_waited_for_a_while(
    service: str,
    home: Path,
    silent: str,
    trusted: LocalSigstore,
    job: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "IDENTITY_SECONDS", 1)
    job()
    config = json.loads(json.dumps(trusted.trust_config()))
    kind = "caUrls" if service == "/api/v2/signingCert" else "rekorTlogUrls"
    for one in config["signingConfig"][kind]:
        one["url"] = silent
    trust(home, config)
    with raises("M547", match="not answered"):
        AmbientIdentity().sign_statement(statement())


def test_a_ci_that_never_gives_a_token_is_waited_for_a_while(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "IDENTITY_SECONDS", 1)
    monkeypatch.delenv("SIGSTORE_ID_TOKEN", raising=False)
    ends = threading.Event()
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: ends.wait(300) and None)
    with raises("M547", match="not answered"):
        AmbientIdentity()
    ends.set()


def test_a_server_takes_a_bundle_of_its_release_alone(
    trusted: LocalSigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = trusted.bundle(statement(), github_job()).decode()
    line = IndexLine(name="words", version="1.0", kind="model", release=RELEASE)
    check_bundle(bundle, line)
    with raises("M541", match="not one of words 1.1"):
        check_bundle(bundle, structs.replace(line, version="1.1"))
    without_sigstore(monkeypatch)
    with raises("M541", match="this server lacks"):
        check_bundle(bundle, line)


def test_a_trial_run_leaves_nothing_in_the_log(
    tmp_path: Path, trusted: LocalSigstore, job: Callable[..., None], capfd: Capture
) -> None:
    job()
    folder = write_module(tmp_path / "words", "words", "1.0")
    assert run(capfd, "build", str(folder))[0] == 0
    asked = len(trusted.seen)
    assert run(capfd, "publish", str(folder), "--sign", "oidc", "--dry-run")[0] == 0
    assert len(trusted.seen) == asked


def test_every_mutation_of_a_bundle_is_refused_or_says_the_same(trusted: LocalSigstore) -> None:
    """Whatever a stranger changes, no parser's own error comes out."""
    good = trusted.bundle(statement(), github_job())
    signed, refused = verify_bundle(good), 0
    for position in range(0, len(good), 41):
        for byte in (b"", b"0", b'"', b"\xff"):
            data = good[:position] + byte + good[position + 1 :]
            try:
                assert verify_bundle(data) == signed
            except TrustError:
                refused += 1
    assert refused > 300
