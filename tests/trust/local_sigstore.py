"""A Sigstore of our own on this machine, for tests: an authority, a certificate log, and a Rekor.

It makes what the public one makes, by the formats of RFC 5280, RFC 6962 and Rekor's version 1, so
that Sigstore's own client verifies it by the trust config that it writes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from modpkg.trust.bundle import MEDIA_TYPE, PAYLOAD_TYPE, signed_bytes

GITHUB = "https://token.actions.githubusercontent.com"
_ARC = "1.3.6.1.4.1.57264.1"
_SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ORIGIN = "rekor.test - 1"


def github_job(
    repo: str = "acme/models",
    workflow: str = ".github/workflows/release.yml",
    ref: str = "refs/tags/v1.0",
    issuer: str = GITHUB,
    owner: str = "9919",
) -> dict[str, str]:
    """Return the claims of a job of GitHub Actions, as far as Fulcio reads them."""
    return {
        "iss": issuer,
        "sub": f"repo:{repo}:ref:{ref}",
        "repository": repo,
        "repository_owner_id": owner,
        "ref": ref,
        "workflow_ref": f"{repo}/{workflow}@{ref}",
    }


def token_of(claims: dict[str, str], **more: object) -> str:
    """Return an identity token for Sigstore; our Fulcio does not check its signature."""
    moment = int(time.time())
    whole = {"aud": "sigstore", "iat": moment, "exp": moment + 300, "sub": "me", **claims, **more}
    parts = (canonical({"alg": "ES256", "typ": "JWT"}), canonical(whole), b"a signature")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


class LocalSigstore:
    """An authority, whose services tests may ask for what no honest one gives."""

    def __init__(self) -> None:
        self.root_key, self.ct_key, self.log_key = new_key(), new_key(), new_key()
        self.now = datetime.now(timezone.utc).replace(microsecond=0)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
        public = self.root_key.public_key()
        self.root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=3650))
            .not_valid_after(self.now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.root_key, SHA256())
        )
        self.url = "https://sigstore.test"
        self.seen: list[str] = []
        self.refusal: tuple[int, bytes] | None = None

    def certificate(
        self,
        key: Any,
        claims: dict[str, str],
        *,
        start: datetime | None = None,
        sct: bool = True,
        subject: x509.GeneralName | None = None,
    ) -> x509.Certificate:
        """Return a certificate of ten minutes, as Fulcio makes it for a token's claims.

        Without a ``start``, it is valid since a minute ago, however long the tests take.
        """
        start = start or datetime.now(timezone.utc).replace(microsecond=0) - timedelta(minutes=1)
        extensions = {8: claims["iss"]}
        if "repository" in claims:
            host = "https://github.com" if claims["iss"] == GITHUB else claims["iss"]
            uri = f"{host}/{claims['workflow_ref']}"
            extensions |= {12: f"{host}/{claims['repository']}", 14: claims["ref"]}
            extensions |= {17: claims["repository_owner_id"], 18: uri}
            named: x509.GeneralName = x509.UniformResourceIdentifier(uri)
        else:
            named = x509.RFC822Name(claims["email"])
        public = self.root_key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(minutes=10))
            .add_extension(_usage(), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([subject or named]), critical=True)
        )
        for number, text in extensions.items():
            value = x509.UnrecognizedExtension(
                ObjectIdentifier(f"{_ARC}.{number}"), asn1.encode_der(text)
            )
            builder = builder.add_extension(value, critical=False)
        if not sct:
            return builder.sign(self.root_key, SHA256())
        bare = builder.sign(self.root_key, SHA256()).tbs_certificate_bytes
        moment = int(start.timestamp() * 1000)
        entry = hashlib.sha256(spki(self.root_key)).digest() + len(bare).to_bytes(3, "big") + bare
        signed = struct.pack("!BBQH", 0, 0, moment, 1) + entry + b"\0\0"
        signature = self.ct_key.sign(signed, ec.ECDSA(SHA256()))
        one = b"\0" + hashlib.sha256(spki(self.ct_key)).digest()
        one += struct.pack("!QHBBH", moment, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(one) + 2, len(one)) + one
        value = x509.UnrecognizedExtension(_SCT_LIST, asn1.encode_der(listed))
        return builder.add_extension(value, critical=False).sign(self.root_key, SHA256())

    def logged(
        self, certificate: x509.Certificate, payload: bytes, signature: bytes, moment: datetime
    ) -> dict[str, Any]:
        """Return Rekor's answer to an envelope that it has taken, the second of two entries."""
        body = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": "00" * 32},
                "payloadHash": {
                    "algorithm": "sha256",
                    "value": hashlib.sha256(payload).hexdigest(),
                },
                "signatures": [
                    {
                        "signature": b64encode(signature).decode(),
                        "verifier": b64encode(pem(certificate)).decode(),
                    }
                ],
            },
        }
        content = canonical(body)
        other = hashlib.sha256(b"\0another entry").digest()
        root = hashlib.sha256(b"\1" + other + hashlib.sha256(b"\0" + content).digest()).digest()
        log = hashlib.sha256(spki(self.log_key)).digest()
        note = f"{_ORIGIN}\n2\n{b64encode(root).decode()}\n"
        mark = b64encode(log[:4] + self._log_signature(note.encode())).decode()
        promised = {
            "body": b64encode(content).decode(),
            "integratedTime": int(moment.timestamp()),
            "logID": log.hex(),
            "logIndex": 1,
        }
        return {
            **promised,
            "verification": {
                "inclusionProof": {
                    "logIndex": 1,
                    "rootHash": root.hex(),
                    "treeSize": 2,
                    "hashes": [other.hex()],
                    "checkpoint": f"{note}\n— rekor.test {mark}\n",
                },
                "signedEntryTimestamp": b64encode(
                    self._log_signature(canonical(promised))
                ).decode(),
            },
        }

    def _log_signature(self, data: bytes) -> bytes:
        return self.log_key.sign(data, ec.ECDSA(SHA256()))

    def bundle(
        self,
        payload: bytes,
        claims: dict[str, str],
        *,
        logged_after: timedelta = timedelta(0),
        **certificate: Any,
    ) -> bytes:
        """Return a signed statement, without asking any service."""
        key = new_key()
        made = self.certificate(key.public_key(), claims, **certificate)
        signature = key.sign(signed_bytes(payload), ec.ECDSA(SHA256()))
        moment = made.not_valid_before_utc + timedelta(minutes=1) + logged_after
        entry = self.logged(made, payload, signature, moment)
        proof = entry["verification"]["inclusionProof"]
        document = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "certificate": {"rawBytes": b64encode(made.public_bytes(Encoding.DER)).decode()},
                "tlogEntries": [
                    {
                        "logIndex": "1",
                        "logId": {"keyId": b64encode(bytes.fromhex(entry["logID"])).decode()},
                        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
                        "integratedTime": str(entry["integratedTime"]),
                        "inclusionPromise": {
                            "signedEntryTimestamp": entry["verification"]["signedEntryTimestamp"]
                        },
                        "inclusionProof": {
                            "logIndex": "1",
                            "treeSize": "2",
                            "rootHash": b64encode(bytes.fromhex(proof["rootHash"])).decode(),
                            "hashes": [
                                b64encode(bytes.fromhex(one)).decode() for one in proof["hashes"]
                            ],
                            "checkpoint": {"envelope": proof["checkpoint"]},
                        },
                        "canonicalizedBody": entry["body"],
                    }
                ],
            },
            "dsseEnvelope": {
                "payload": b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": b64encode(signature).decode()}],
            },
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def trusted_root(self, since: datetime | None = None) -> dict[str, Any]:
        """Return the document of what is trusted."""
        start = (since or self.now - timedelta(days=3650)).isoformat().replace("+00:00", "Z")

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64encode(spki(key)).decode(),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": {"start": start},
                },
                "logId": {"keyId": b64encode(hashlib.sha256(spki(key)).digest()).decode()},
            }

        raw = b64encode(self.root.public_bytes(Encoding.DER)).decode()
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.log_key)],
            "ctlogs": [log(self.ct_key)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "test", "commonName": "an authority"},
                    "uri": self.url,
                    "certChain": {"certificates": [{"rawBytes": raw}]},
                    "validFor": {"start": start},
                }
            ],
            "timestampAuthorities": [],
        }

    def trust_config(self) -> dict[str, Any]:
        """Return the document of what is trusted and who is asked to sign."""
        service = {
            "url": self.url,
            "majorApiVersion": 1,
            "validFor": {"start": "2020-01-01T00:00:00Z"},
            "operator": "test",
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.trusted_root(),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [],
                "rekorTlogUrls": [service],
                "tsaUrls": [],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaConfig": {"selector": "ANY"},
            },
        }

    def serve(self) -> ThreadingHTTPServer:
        """Answer Fulcio's and Rekor's requests on this machine, and return the server."""
        sigstore = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sigstore.seen.append(self.path)
                if sigstore.refusal is not None:
                    status, body = sigstore.refusal
                elif self.path == "/api/v2/signingCert":
                    status, body = 200, sigstore._issued(sent, self.headers["Authorization"])
                else:
                    status, body = 201, sigstore._entry(sent)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        return server

    def _issued(self, sent: dict[str, str], authorization: str) -> bytes:
        part = authorization.removeprefix("Bearer ").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        request = x509.load_pem_x509_csr(base64.b64decode(sent["certificateSigningRequest"]))
        made = self.certificate(request.public_key(), claims)
        chain = {"certificates": [pem(made).decode(), pem(self.root).decode()]}
        return json.dumps({"signedCertificateEmbeddedSct": {"chain": chain}}).encode()

    def _entry(self, sent: dict[str, Any]) -> bytes:
        content = sent["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        certificate = x509.load_pem_x509_certificate(base64.b64decode(content["verifiers"][0]))
        payload = base64.b64decode(envelope["payload"])
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
        return json.dumps(
            {"one": self.logged(certificate, payload, signature, datetime.now(timezone.utc))}
        ).encode()


def canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
