"""Signed folders of models, as OpenSSF Model Signing 1.0 defines them.

``model.sig`` is a Sigstore bundle with an in-toto statement of the SHA-256 of every file, and
``model_signing verify key`` accepts it (https://github.com/sigstore/model-transparency). That tool
knows ECDSA keys only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from modpkg.core.all_cores import on_all_cores
from modpkg.core.digests import digest_file
from modpkg.core.errors import TrustError
from modpkg.core.files import write_atomically
from modpkg.core.records import canonical_json
from modpkg.trust.bundle import Signer, sign_statement
from modpkg.trust.statement import InTotoStatement, InTotoSubject

SIGNATURE = "model.sig"
PREDICATE = "https://model_signing/signature/v1.0"
_IGNORED = (SIGNATURE, ".git", ".gitattributes", ".github", ".gitignore")
"""What its verifier leaves out too, as it is used without options."""


def sign_folder(folder: Path, signer: Signer) -> Path:
    """Write the signature of a folder's files into it, and return its path.

    Raises:
        TrustError: The key is none that the form allows, or cannot sign.
    """
    check_form(signer)
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in _IGNORED
    ]
    digests = on_all_cores(digest_file, files, lambda path: path.stat().st_size)
    statement = model_statement(
        folder.resolve().name,
        {
            PurePosixPath(path.relative_to(folder).as_posix()): digest.removeprefix("sha256:")
            for path, digest in zip(files, digests, strict=True)
        },
    )
    target = folder / SIGNATURE
    hint = hashlib.sha256(signer.public.pem()).hexdigest()
    write_atomically(target, sign_statement(statement, signer, hint=hint))
    return target


def check_form(signer: Signer) -> None:
    """Check that the form has signatures of a key, before anything is written for it.

    Raises:
        TrustError: It has none.
    """
    if signer.public.algorithm != "ecdsa-p256":
        reason = (
            "Model Signing needs one of ECDSA P-256; 'modpkg key new NAME --algorithm ecdsa-p256'"
        )
        raise TrustError("M547", what="An Ed25519 key", reason=f"{reason} makes one")


def model_statement(name: str, files: dict[PurePosixPath, str]) -> bytes:
    """Return the statement about a model's files, by their paths: the hex of each SHA-256.

    The subject's digest is the one of the digests one after the other, in the order of the paths.
    """
    ordered = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": list(_IGNORED),
        },
        "resources": [
            {"name": str(path), "algorithm": "sha256", "digest": digest} for path, digest in ordered
        ],
    }
    subject = InTotoSubject(name, {"sha256": root})
    return canonical_json(
        InTotoStatement(subject=[subject], predicate_type=PREDICATE, predicate=predicate)
    )
