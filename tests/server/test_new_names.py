"""Names of new modules: none that can be taken for another's."""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar.testing import TestClient

from modpkg.core.look_alike import NEEDED, skeleton
from modpkg.server.clock import now
from modpkg.server.file_answers import ServerApp
from modpkg.server.new_names import check_free_name, check_new_name, needed_names
from modpkg.server.state import Server
from modpkg.server.tables import DownloadCount, Module
from tests.modules import publish_collection, write_module
from tests.raising import raises
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built


@pytest.mark.parametrize(
    "name", ["wordIist", "word-list", "word_1ist", "vvord-list", "w0rd.list", "WORDLIST"]
)
def test_a_name_that_can_be_taken_for_another_is_refused(name: str) -> None:
    if name == "WORDLIST":
        assert check_new_name(name, ["wordlist"], []) == "wordlist"  # it is that name
        return
    for confirmed in (False, True):
        with raises("M444", match="wordlist"):
            check_new_name(name, ["other", "wordlist"], [], confirmed)


def test_rn_is_drawn_as_m() -> None:
    assert skeleton("barnum") == skeleton("bamurn")
    assert skeleton("words") != skeleton("wards")


@pytest.mark.parametrize("name", ["wrods", "word", "wordss", "warts-words", "wards", "swords"])
def test_a_typing_error_of_a_popular_name_has_to_be_confirmed(name: str) -> None:
    if name == "warts-words":
        assert check_new_name(name, [], ["words"]) == name
        return
    with raises("M445", match="words"):
        check_new_name(name, [], ["words"])
    assert check_new_name(name, [], ["words"], confirmed=True) == name


def test_short_names_are_near_to_all_others_and_are_not_asked_about() -> None:
    assert check_new_name("abc", [], ["abd"]) == "abc"


def test_names_are_compared_with_the_modules_of_the_server(server: Server) -> None:
    with server.database.begin() as db:
        day = now().date().isoformat()
        db.add_all(
            [
                Module(name="wordlist", created=now()),
                Module(name="sentences", created=now()),
                Module(name="secrets-of-us", created=now(), is_private=True),
                DownloadCount(module="sentences", version="1.0", day=day, count=7),
                DownloadCount(module="secrets-of-us", version="1.0", day=day, count=9),
            ]
        )
        db.flush()
        with raises("M444", match="wordlist"):
            check_free_name(db, "word-list")
        with raises("M445", match="sentences"):
            check_free_name(db, "sentence")
        assert check_free_name(db, "secret-of-us") == "secret-of-us"
        assert check_free_name(db, "sentence", confirmed=True) == "sentence"


def test_what_many_modules_need_is_popular(
    server: Server, client: TestClient[ServerApp], tmp_path: Path
) -> None:
    ada = Publisher(client, token_for(server, "ada"))
    publish_collection(tmp_path / "registry", "sentences")
    for number in range(NEEDED):
        assert needed_names(server) == []
        name = f"needy-{number}"
        needy = write_module(tmp_path / name, name, requires={"sentences": ">=1", "gone": ">=1"})
        ada.publish(*built(needy, server.place))
    assert needed_names(server) == ["sentences"]
    near = built(write_module(tmp_path / "near", "sentence"), server.place)
    refused = ada.declare(*near)
    assert (refused.status_code, refused.json()["code"]) == (409, "M445")
    assert ada.declare(*near, confirm_name=True).status_code == 200
