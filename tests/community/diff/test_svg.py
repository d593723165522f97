"""The picture is an SVG with a square for each tensor."""

from __future__ import annotations

from xml.etree import ElementTree

from modpkg.community.diff.svg import picture
from modpkg.community.diff.tensors import Difference, Status, TensorDifference

SVG = "{http://www.w3.org/2000/svg}"


def tensor(name: str, status: Status = "changed", distance: float = 1.0) -> TensorDifference:
    return TensorDifference(
        name=name,
        status=status,
        dtype="F32",
        shape=(2,),
        elements=2,
        changed=int(status == "changed"),
        norm=1.0,
        distance=distance if status == "changed" else 0.0,
    )


def squares(svg: str) -> dict[str, str]:
    """Return each square's colour by what its tooltip begins with."""
    found = {}
    for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and title.text:
            found[title.text.split(":")[0]] = rect.attrib["fill"]
    return found


def test_each_tensor_has_a_square_and_farther_is_darker() -> None:
    found = Difference(
        (
            tensor("embed.weight", "same"),
            tensor("h.0.w<&>", distance=0.001),
            tensor("h.1.w<&>", distance=0.1),
            tensor("h.2.w<&>", "added"),
        )
    )
    colours = squares(picture(found, 'a "b" & <c>'))
    assert colours == {
        "embed.weight": "#e8e8e8",
        "h.0.w<&>": "#c6dbef",
        "h.1.w<&>": "#08306b",
        "h.2.w<&>": "#f2c14e",
    }


def test_nothing_to_draw_and_a_single_value_are_drawn_too() -> None:
    assert squares(picture(Difference(()), "nothing")) == {}
    assert squares(picture(Difference((tensor("w"),)), "one")) == {"w": "#08306b"}
