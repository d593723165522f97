"""An issuer of OpenID Connect on this machine, for tests."""

from __future__ import annotations

import json
import threading
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey


def new_key(kind: str = "EC", kid: str = "one") -> Any:
    """Return a key with its private part."""
    if kind == "RSA":
        return RSAKey.generate_key(2048, {"kid": kid})
    if kind == "OKP":
        return OKPKey.generate_key("Ed25519", {"kid": kid})
    return ECKey.generate_key("P-256", {"kid": kid})


class LocalIssuer:
    """An issuer, whose document, keys and tokens tests may change."""

    def __init__(self) -> None:
        self.keys = [new_key()]
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        """Path to the status, headers and body that are sent in place of the right ones."""
        self.document: dict[str, Any] = {}
        self.forms: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.id_token: str = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def signed(
        self, claims: dict[str, Any] | None = None, *, key: Any = None, header: Any = None
    ) -> str:
        """Return a token with claims, beside those that each token has; None takes one away."""
        key = key or self.keys[0]
        moment = int(time.time())
        algorithm = {"EC": "ES256", "RSA": "RS256", "OKP": "Ed25519"}[key.key_type]
        whole = {"iss": self.url, "iat": moment, "exp": moment + 300, **(claims or {})}
        given = {name: value for name, value in whole.items() if value is not None}
        top = {"alg": algorithm, "kid": key.kid, **(header or {})}
        return jwt.encode(
            {name: value for name, value in top.items() if value is not None},
            given,
            key,
            algorithms=[str(top["alg"])],
        )

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return what is sent for a path."""
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            found = {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
            }
            return 200, {}, json.dumps(found | self.document).encode()
        if path == "/keys":
            return 200, {}, json.dumps(KeySet(self.keys).as_dict(private=False)).encode()
        if path == "/token":
            return 200, {}, json.dumps({"id_token": self.id_token, "token_type": "x"}).encode()
        return 404, {}, b""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                status, headers, body = issuer.answer(self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
                issuer.forms.append({name: one[0] for name, one in parse_qs(sent).items()})
                issuer.headers.append(dict(self.headers.items()))
                self.do_GET()

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def challenge_of(verifier: str) -> str:
    """Return the challenge of PKCE for a verifier."""
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")
