"""``diff``: how far two sets of weights are apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modpkg.cli.options import project_options
from modpkg.cli.output import TerminalProgress, faint, good, print_json, say, strong, table
from modpkg.core.files import shown, write_atomically
from modpkg.core.home import store_folder
from modpkg.store.store import Store

if TYPE_CHECKING:
    from modpkg.community.diff.tensors import Difference, PartDifference, TensorDifference


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--all", "every", is_flag=True, help="List every tensor that differs.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the difference by layer."
)
@project_options
def diff_command(
    before: str,
    after: str,
    every: bool,
    svg: Path | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Show how far the weights of B are from those of A, tensor by tensor.

    A and B are each a release (NAME==VERSION), an installed model (NAME, or NAME@3 for how
    generation 3 has it), or a folder with *.safetensors.

    Change is |B - A| / |A|, in Euclidean norms. Values are the share of elements whose bits differ.
    """
    from modpkg.community.diff.svg import picture
    from modpkg.community.diff.tensors import by_part, difference
    from modpkg.community.modules.reference import find_view

    store = Store(store_folder())
    with TerminalProgress() as progress:
        one, two = (
            find_view(text, store, progress, user=user, registry=registry, offline=offline)
            for text in (before, after)
        )
        refs = [view.refs() for view in (one, two)]
        progress.stage("Comparing")
        progress.total(
            sum(
                ref.length
                for name, ref in refs[1].items()
                if name in one.tensors and one.tensors[name].digest != ref.digest
            )
        )
        found = difference(refs[0], refs[1], progress.advance)
    if svg is not None:
        write_atomically(svg, picture(found, f"{one.label} to {two.label}").encode())
    if as_json:
        print_json(_document(one.label, two.label, found))
        return
    _summary(one.label, two.label, found)
    if every:
        _tensors([tensor for tensor in found.tensors if tensor.status != "same"])
    else:
        _parts([row for row in by_part(found) if row.touched])
    if svg is not None:
        say(f"\n{good('Wrote')} {shown(svg)}.")


def _summary(one: str, two: str, found: Difference) -> None:
    say(f"{strong(one)} to {strong(two)}")
    counts = [
        f"{count} {status}"
        for status in ("same", "changed", "reshaped", "added", "removed")
        if (count := found.count(status))
    ]
    say(f"  tensors  {', '.join(counts) or 'none on either side'}")
    if found.changed:
        share = found.changed / found.elements
        say(f"  values   {found.changed} of {found.elements} changed ({_percent(share)})")
        say(f"  change   {found.relative:.3g} of the changed tensors' norm")


def _parts(rows: list[PartDifference]) -> None:
    if not rows:
        return
    say()
    table(
        [
            [
                row.part,
                f"{row.touched} of {row.tensors}",
                _percent(row.changed / row.elements) if row.elements else "-",
                f"{row.relative:.3g}",
            ]
            for row in rows
        ],
        ["Part", "Tensors", "Values", "Change"],
    )
    say(faint("\nBy tensor: --all. As a picture by layer: --svg FILE."))


def _tensors(tensors: list[TensorDifference]) -> None:
    if not tensors:
        return
    say()
    rows = []
    for tensor in tensors:
        measured = tensor.status == "changed"
        kind = f"{tensor.dtype} {list(tensor.shape)}"
        if tensor.shape_before is not None:
            kind = f"{list(tensor.shape_before)} -> {kind}"
        elif tensor.dtype_before is not None:
            kind = f"{tensor.dtype_before} -> {kind}"
        rows.append(
            [
                tensor.name,
                tensor.status,
                kind,
                _percent(tensor.changed / tensor.elements) if measured else "-",
                f"{tensor.relative:.3g}" if measured else "-",
                f"{tensor.largest:.3g}" if measured else "-",
            ]
        )
    table(rows, ["Tensor", "Status", "Type", "Values", "Change", "Largest"])


def _percent(share: float) -> str:
    """Return a share for people; nothing that differs is shown as nothing, or as all.

    >>> _percent(0.0), _percent(0.00001), _percent(0.99999), _percent(1.0)
    ('0 %', '<0.1 %', '>99.9 %', '100 %')
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    if share < 0.001:
        return "<0.1 %"
    return ">99.9 %" if share > 0.999 else f"{share * 100:.1f} %"


def _document(one: str, two: str, found: Difference) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if value < float("inf") else None

    return {
        "a": one,
        "b": two,
        "elements": found.elements,
        "changed": found.changed,
        "distance": finite(found.distance),
        "relative": finite(found.relative),
        "tensors": [
            {
                "name": tensor.name,
                "status": tensor.status,
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "dtype_before": tensor.dtype_before,
                "shape_before": tensor.shape_before,
                "elements": tensor.elements,
                "changed": tensor.changed,
                "norm": finite(tensor.norm),
                "distance": finite(tensor.distance),
                "largest": finite(tensor.largest),
                "relative": finite(tensor.relative),
            }
            for tensor in found.tensors
        ],
    }
