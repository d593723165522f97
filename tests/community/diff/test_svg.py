"""The diff_svg is an SVG with a square for each tensor."""

from __future__ import annotations

from xml.etree import ElementTree

from modpkg.community.diff.svg import diff_svg
from modpkg.community.diff.tensors import Status, TensorDiff, WeightsDiff

SVG = "{http://www.w3.org/2000/svg}"


def tensor(name: str, status: Status = "changed", distance: float = 1.0) -> TensorDiff:
    return TensorDiff(
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
    found = WeightsDiff(
        (
            tensor("embed.weight", "same"),
            tensor("h.0.w<&>", distance=0.001),
            tensor("h.1.w<&>", distance=0.1),
            tensor("h.2.w<&>", "added"),
        )
    )
    colours = squares(diff_svg(found, 'a "b" & <c>'))
    assert colours == {
        "embed.weight": "#e8e8e8",
        "h.0.w<&>": "#c6dbef",
        "h.1.w<&>": "#08306b",
        "h.2.w<&>": "#f2c14e",
    }


def test_nothing_to_draw_and_a_single_value_are_drawn_too() -> None:
    assert squares(diff_svg(WeightsDiff(()), "nothing")) == {}
    assert squares(diff_svg(WeightsDiff((tensor("w"),)), "one")) == {"w": "#08306b"}
