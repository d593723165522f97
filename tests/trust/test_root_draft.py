"""A root that is signed by turns: what was signed is what is published, or nothing is."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from modpkg.trust.root_draft import RootDraft, read_draft
from modpkg.trust.root_metadata import new_root
from modpkg.trust.trusted_metadata import TrustedMetadata
from tests.raising import raises
from tests.trust.signed_registry import key

UNTIL = datetime(2100, 1, 1, tzinfo=timezone.utc)


def drafted(version: int, *people: int, threshold: int = 2) -> RootDraft:
    keys = [key(number).public for number in people]
    return RootDraft(new_root(version, keys, threshold, key(9).public, UNTIL))


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (1, 1, 2, 3), (3, 2, 1)])
def test_it_is_the_root_that_one_machine_would_have_signed(order: tuple[int, ...]) -> None:
    draft = drafted(1, 1, 2, 3)
    for number in order:
        draft = read_draft(draft.signed_with([key(number)]).data(), "root.json")
    draft.check_enough("here", None)
    assert TrustedMetadata("here", draft.data(is_whole=True), None).root == draft.root


def test_a_stranger_signs_nothing() -> None:
    draft = drafted(1, 1, 2).signed_with([key(1), key(5)])
    with raises("M568", match="--root-key"):
        draft.check_enough("here", None)
    whole = json.loads(draft.signed_with([key(2)]).data(is_whole=True))
    assert len(whole["signatures"]) == 2


def test_those_of_the_root_before_sign_too() -> None:
    before = drafted(1, 1, 2).root
    draft = drafted(2, 2, 3).signed_with([key(2), key(3)])
    with raises("M568", match="--sign-with"):
        draft.check_enough("here", before)
    draft = read_draft(draft.signed_with([key(1)]).data(), "root.json")
    draft.check_enough("here", before)
    assert len(json.loads(draft.data(before, is_whole=True))["signatures"]) == 3


def test_what_was_changed_after_it_was_signed_is_refused() -> None:
    document = json.loads(drafted(1, 1, 2).signed_with([key(1)]).data())
    document["signed"]["roles"]["root"]["threshold"] = 1
    with raises("M598", match="after key:"):
        read_draft(json.dumps(document).encode(), "root.json")
