"""Sockets that are opened while models of each architecture of transformers are loaded and run.

usage: python -m benchmarks.sockets [--only NAME ...] [--again] [--seconds N] [--work FOLDER]

Every architecture that transformers can build from a shrunken config is saved by transformers; then
modpkg loads it and runs it on numbers, in a process that the kernel ends when it opens a socket of
any kind, and in which transformers may ask a hub. An architecture that cannot be made small is
built by modpkg without weights, from its default config: that runs all of its constructors. What
cannot be built either is named with the reason. Writes benchmarks/results/sockets.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.architectures import names, small_model
from benchmarks.machine import described
from tests.hostile.socket_filter import no_sockets

RESULTS = Path(__file__).parent / "results" / "sockets.md"
WORK = Path(__file__).parents[1] / "build" / "sockets"
OUTCOMES = {
    "run": "loaded and run, and no socket was opened",
    "loaded": "loaded, and no socket was opened; it does not run on numbers of this kind",
    "built": "built without weights, and no socket was opened",
    "refused": "refused by modpkg",
    "impossible": "cannot be built from a default config",
    "socket": "**opened a socket**",
}


def one(name: str) -> tuple[str, str]:
    """Return the outcome for one architecture, and what is to be said of it."""
    import huggingface_hub
    import torch
    import transformers
    from safetensors.torch import load_file

    from modpkg.core.errors import ModpkgError
    from modpkg.runtime.load import build_model

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        try:
            small = small_model(name)
            small.save_pretrained(folder)
            tensors: dict[str, Any] = {}
            for file in folder.glob("*.safetensors"):
                tensors |= load_file(file)
        except Exception as error:
            return _without_weights(name, _reason(error))
        huggingface_hub.constants.HF_HUB_OFFLINE = False
        if not no_sockets():
            raise SystemExit("this machine's kernel has no filter of system calls")
        try:
            model = build_model(name, folder, tensors)
        except ModpkgError as error:
            return "refused", f"{error.code}: {error}"
        try:
            with torch.inference_mode():
                model(**_inputs(model))
        except Exception as error:
            return "loaded", _reason(error)
    return "run", ""


def _inputs(model: Any) -> dict[str, Any]:
    """Return some numbers for a model's main input."""
    import torch

    main = str(getattr(model, "main_input_name", "input_ids"))
    config = model.config.get_text_config()
    vision = getattr(model.config, "vision_config", model.config)
    if main == "pixel_values":
        size = getattr(vision, "image_size", 32)
        high, wide = size if isinstance(size, list | tuple) else (size, size)
        return {main: torch.randn(1, getattr(vision, "num_channels", 3), high, wide)}
    if main == "input_values":
        return {main: torch.randn(1, 4000)}
    if main == "input_features":
        width = getattr(config, "num_mel_bins", None) or getattr(config, "input_channels", 80)
        return {main: torch.randn(1, width, getattr(config, "max_source_positions", 32) * 2)}
    ids = torch.ones(1, 4, dtype=torch.long)
    return {main: ids} | (
        {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
    )


def _without_weights(name: str, why: str) -> tuple[str, str]:
    """Build an architecture from its default config, without weights."""
    import huggingface_hub
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from benchmarks.architectures import _CLASSES
    from modpkg.core.errors import ModpkgError
    from modpkg.runtime.architecture import class_of_config
    from modpkg.runtime.meta_model import meta_model

    try:
        found = [
            mapped for each in _CLASSES if (mapped := getattr(modeling_auto, each, {}).get(name))
        ]
        classes = [each if isinstance(each, str) else each[0] for each in found]
        kind = CONFIG_MAPPING[name]
        whole = (each for each in classes if getattr(transformers, each).config_class is kind)
        cls = next(whole, classes[0])  # the first may be of a part: the text model of another
        values = json.loads(kind().to_json_string(use_diff=False))
    except Exception as error:
        return "impossible", f"{why}; its default config: {_reason(error)}"
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    if not no_sockets():
        raise SystemExit("this machine's kernel has no filter of system calls")
    try:
        if meta_model(name, {**values, "architectures": [cls]}, 10**6) is not None:
            return "built", f"not small: {why}"
        _, config = class_of_config(name, {**values, "architectures": [cls]})
        import torch

        with torch.device("meta"):
            getattr(transformers, cls)(config)
    except ModpkgError as error:
        return "refused", f"{error.code}: {error}"
    except Exception as error:
        return "impossible", f"not small: {why}; not without weights: {_reason(error)}"
    return "built", f"not small: {why}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def _child(name: str, path: Path) -> None:
    path.write_text(json.dumps(one(name)))


def run_one(name: str, path: Path, seconds: int) -> tuple[str, str]:
    """Run one architecture in a process of its own, with a time limit; keep its outcome."""
    path.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, path))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        found = ("impossible", f"it took over {seconds} s")
    elif process.exitcode == -signal.SIGSYS:
        found = ("socket", "")
    elif process.exitcode:
        found = ("impossible", f"its process ended with status {process.exitcode}")
    else:
        outcome, why = json.loads(path.read_text())
        return outcome, why
    path.write_text(json.dumps(found))
    return found


def plain(why: str) -> str:
    """Return a reason that can stand between backquotes."""
    return why.replace("`", "'")


def page(results: dict[str, tuple[str, str]], total: int) -> str:
    """Return the page of all results."""
    lines = [
        "# Sockets of each architecture of transformers",
        "",
        f"`python -m benchmarks.sockets`; {described()}; transformers {version('transformers')}.",
        "",
        f"{len(results)} of {total} architectures. Each was saved small by transformers, then "
        "loaded and run by modpkg in a process that the kernel ends at the first socket of any "
        "kind, where transformers may ask a hub. What cannot be made small was built by modpkg "
        "from its default config, without weights.",
        "",
        "| outcome | architectures |",
        "|---|---:|",
    ]
    for key, what in OUTCOMES.items():
        lines.append(f"| {what} | {sum(found == key for found, _ in results.values())} |")
    for key, what in OUTCOMES.items():
        chosen = {name: why for name, (found, why) in sorted(results.items()) if found == key}
        if not chosen:
            continue
        lines += ["", f"## {what[0].upper()}{what[1:]}".replace("**", ""), ""]
        if key == "run":
            lines.append(", ".join(chosen) + ".")
        else:
            lines += [
                f"- {name}{f': `{plain(why)}`' if why else ''}" for name, why in chosen.items()
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is left, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--work", type=Path, default=WORK)
    given = parser.parse_args()
    import torch  # noqa: F401
    import transformers.modeling_utils  # noqa: F401

    import modpkg.runtime.load  # noqa: F401

    every, begun = names(), time.perf_counter()
    for number, name in enumerate(given.only or every, start=1):
        path = given.work / f"{name}.json"
        if given.again or not path.exists():
            outcome, why = run_one(name, path, given.seconds)
            print(
                f"{number} {name}: {outcome} {why} {time.perf_counter() - begun:.0f} s", flush=True
            )
    results = {
        name: tuple(json.loads(path.read_text()))
        for name in every
        if (path := given.work / f"{name}.json").exists()
    }
    RESULTS.write_text(page(results, len(every)))


if __name__ == "__main__":
    main()
