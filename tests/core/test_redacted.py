"""Addresses are shown without what only their owner is meant to have."""

from __future__ import annotations

import time

import pytest

from modpkg.core.errors import NotFound
from modpkg.core.redacted import is_token, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:pw@models.example/r", "https://***@models.example/r"),
        ("https://tok@models.example/r", "https://***@models.example/r"),
        ("https://u:p/w@models.example/r", "https://***@models.example/r"),
        ("https://u:p?w@models.example/r", "https://***?***"),
        ("u:pw@models.example/r", "***@models.example/r"),
        ("https://h/r?sig=a%2Fb&se=2026", "https://h/r?sig=***&se=***"),
        ("https://h/r?abc#d", "https://h/r?***#***"),
        (f"hf://o/Model4You2Use99@{'0a' * 20}", f"hf://o/Model4You2Use99@{'0a' * 20}"),
        ("hf://o/hf_0123456789abcdef", "hf://o/***"),
        (f"oci://h:50/o/chat@sha256:{'0a' * 32}", f"oci://h:50/o/chat@sha256:{'0a' * 32}"),
        ("oci://me:pw@h/chat:1", "oci://***@h/chat:1"),
        ("s3://b/r?X-Amz-Signature=0a", "s3://b/r?X-Amz-Signature=***"),
        ("https://h/t/x1/acme", "https://h/t/***/acme"),
        ("https://h/ghp_0123456789abcdef/r", "https://h/***/r"),
        ("https://h/0a1b2c3d4e5f60718293/r", "https://h/***/r"),
        ("https://h/my%2Dsecret%2D42/r", "https://h/***/r"),
        (
            "at 'https://h/r?a=b'.x, (https://h/t/y).",
            "at 'https://h/r?a=***'.x, (https://h/t/***).",
        ),
    ],
)
def test_secrets_of_an_address_are_left_out(text: str, shown: str) -> None:
    assert redacted(text) == shown
    error = NotFound("M301", url=text, remedy="")
    assert str(error).startswith(f"There is no registry at {shown}")


@pytest.mark.parametrize(
    "text",
    [
        "https://models.example:8443/acme/v2.",
        "http://[::1]:80/r",
        "abfs://container@account.dfs.core.windows.net/r",
        "s3://models-2026/team-a/Llama-3.2-1B-Instruct-Q4_K_M",
        f"https://h/r/blobs/sha256/ab/{'ab' * 32}",
        "file:///home/t/x?y",
        "/home/u/models@2:1",
        "llama3:8b@latest",
        "summarizer[news]@^2.1",
    ],
)
def test_addresses_without_secrets_and_other_text_stay(text: str) -> None:
    assert redacted(text) == text


def test_what_looks_like_a_token() -> None:
    assert is_token("eyJhbGciOiJIUzI1NiJ9")
    assert is_token("a1b2c3d4-e5f6-7890-abcd-ef1234567890")
    assert not is_token("sentence-transformers-2026-01-01")


@pytest.mark.parametrize("text", ["https://" * 20_000, "a:" * 50_000, "'https://h?a=b'," * 5_000])
def test_long_texts_end(text: str) -> None:
    begun = time.process_time()
    redacted(text)
    assert time.process_time() - begun < 60
