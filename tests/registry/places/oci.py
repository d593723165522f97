"""Docker's registry, open or with logins, and skopeo, another client of OCI registries.

With ``auth="token"`` the registry sends clients to a server of tokens here, which gives what
https://distribution.github.io/distribution/spec/auth/token/ describes: a signed JWT for a scope.
"""

from __future__ import annotations

import base64
import datetime
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from tests.registry.places.store import LoopbackServer, stop
from tests.registry.places.unpacked import find_program

USER, SECRET = "writer", "secret-of-tests"
_HASHED = f"{USER}:$2b$04$abcdefghijklmnopqrstuuCrW5kKW/8jRvN/doHKUAcVT7zHBgz4i"


class DockerRegistry(LoopbackServer):
    """The registry of the CNCF's project Distribution, in one process."""

    name = "docker-registry"
    path = "/v2/"

    def __init__(self, auth: dict[str, object], certificate: Path | None = None) -> None:
        super().__init__()
        self._auth = auth
        self._tls = {} if certificate is None else {"certificate": certificate, "key": certificate}
        self.output = Path()

    def repository(self, name: str) -> str:
        """The address of a repository, without a tag."""
        return f"oci://127.0.0.1:{self.port}/{name}"

    def start(self, folder: Path, owner: int) -> list[int]:
        config = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {
                "addr": f"127.0.0.1:{self.port}",
                "tls": {key: str(path) for key, path in self._tls.items()},
            },
            **({"auth": self._auth} if self._auth else {}),
        }
        (folder / "config.yml").write_text(json.dumps(config))
        self.output = folder / "output.txt"
        program, variables = find_program("docker-registry", "oci")
        command = [program, "serve", folder / "config.yml"]
        return [self.run(command, folder, owner, variables)]

    def count(self, *methods: str) -> int:
        """Return how many requests there were with these methods."""
        text = self.output.read_text(errors="replace")
        return sum(text.count(f'"{method} /v2/') for method in methods)

    def writes(self) -> int:
        """Return how many requests there were that send something."""
        return self.count("POST", "PATCH", "PUT")


@contextmanager
def docker_registry(
    folder: Path, auth: str = "", certificate: Path | None = None
) -> Iterator[DockerRegistry]:
    """Run Docker's registry: open, or where ``auth`` is "basic" or "token", with a login.

    With a ``certificate`` it speaks TLS.
    """
    folder.mkdir(parents=True)
    if auth == "token":
        with _tokens(folder) as tokens:
            registry = DockerRegistry({"token": tokens}, certificate)
            with _running(folder, registry) as running:
                yield running
        return
    if auth == "basic":
        (folder / "users").write_text(_HASHED + "\n")
    users = {"htpasswd": {"realm": "tests", "path": str(folder / "users")}}
    with _running(folder, DockerRegistry(users if auth else {}, certificate)) as running:
        yield running


@contextmanager
def _running(folder: Path, registry: DockerRegistry) -> Iterator[DockerRegistry]:
    groups = registry.start(folder, os.getpid())
    try:
        registry.await_answer(folder, groups)
        yield registry
    finally:
        stop(groups)


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def _tokens(folder: Path) -> Iterator[dict[str, str]]:
    """Serve tokens, and yield what the registry has to know."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    bundle = folder / "tokens.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    chain = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()

    def signed(claims: dict[str, object]) -> str:
        head = {"typ": "JWT", "alg": "ES256", "x5c": [chain]}
        text = ".".join(_url64(json.dumps(part).encode()) for part in (head, claims))
        r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_url64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            pair = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
            known = self.headers.get("Authorization") == f"Basic {pair}"
            if "Authorization" in self.headers and not known:
                self.send_error(401)
                return
            access = [
                {"type": kind, "name": name, "actions": actions.split(",") if known else []}
                for kind, name, actions in (scope.split(":") for scope in asked["scope"])
            ]
            moment = int(time.time())
            claims = {
                "iss": "tests",
                "aud": asked["service"][0],
                "sub": USER if known else "",
                "exp": moment + 300,
                "nbf": moment - 60,
                "iat": moment,
                "jti": os.urandom(8).hex(),
                "access": access,
            }
            body = json.dumps({"token": signed(claims)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "realm": f"http://127.0.0.1:{server.server_address[1]}/token",
            "service": "registry-of-tests",
            "issuer": "tests",
            "rootcertbundle": str(bundle),
        }
    finally:
        server.shutdown()
        server.server_close()


def skopeo_pull(registry: DockerRegistry, reference: str, folder: Path) -> Path:
    """Let skopeo copy an artifact, and return a folder with its files under their paths."""
    program, variables = find_program("skopeo", "oci")
    pulled = folder / "pulled"
    folder.mkdir()
    done = subprocess.run(
        [program, "--insecure-policy", "copy", "--src-tls-verify=false",
         f"docker://127.0.0.1:{registry.port}/{reference}", f"dir:{pulled}"],
        env=os.environ | variables | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for layer in json.loads((pulled / "manifest.json").read_text())["layers"]:
        target = folder / "model" / layer["annotations"]["org.opencontainers.image.title"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pulled / layer["digest"].removeprefix("sha256:"), target)
    return folder / "model"
