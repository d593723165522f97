"""Adapters on the architectures of transformers, built small: composed, exported, and PEFT's.

usage: python -m benchmarks.architectures [--only NAME ...] [--again] [--seconds N] [--work FOLDER]

Every architecture that transformers can build from a shrunken config is saved, an adapter of each
kind is trained at random and saved by PEFT, and both are imported, built, published, composed and
loaded; every parameter of the result is compared with that of PEFT's merged model. The adapter is
exported and loaded by PEFT, and compared again. Then the same with the names that the adapter's
layers have on disk, where those differ. An architecture runs in a process of its own, with a time
limit, and its results are kept in FOLDER, so that a run that was stopped goes on. Writes
benchmarks/results/architectures.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import re
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import described

RESULTS = Path(__file__).parent / "results" / "architectures.md"
WORK = Path(__file__).parents[1] / "build" / "architectures"
TOLERANCE = 1e-5
MAX_ELEMENTS = 6_000_000
"""Larger models could not be shrunk."""

_SIZES: tuple[tuple[str, Any], ...] = (
    (r"^vocab_size|_vocab_size$|^n_vocab$|^vocab_size_per_layer_input$", 99),
    (r"^(num_|n_)?(key_value_heads|kv_heads|num_kv_heads|head_kv)$|num_key_value_heads$", 2),
    (r"^(num_|n_)?(attention_|attn_)?heads?$|num_attention_heads$|attention_heads$|^n_head$", 4),
    (r"linear_num_(key|value)_heads$", 2),
    (r"linear_(key|value)_head_dim$", 8),
    (r"mamba_n_heads$|^mamba_num_heads$", 8),
    (r"mamba_d_head$|mamba_head_dim$", 8),
    (r"mamba_d_state$|ssm_state_size$|^state_size$", 4),
    (r"head_dim$|^d_kv$|^head_size$|^v_head_dim$|qk_nope_head_dim$", 8),
    (r"qk_rope_head_dim$|^rotary_dim$", 4),
    (r"(kv|q)_lora_rank$", 8),
    (r"num_hidden_layers$|num_layers$|^n_layers?$|_layers$|num_blocks$", 2),
    (r"num_(local_|routed_)?experts$|^n_routed_experts$|moe_num_experts$", 4),
    (r"experts_per_tok(en)?$|^top_k_experts$|moe_k$|^moe_topk$|^num_experts_per_token$", 2),
    (r"^n_shared_experts$|num_shared_experts$", 1),
    (r"^n_group$|^topk_group$", 1),
    (r"moe_intermediate_size|expert_intermediate_size$|expert_ffn_hidden_size$", 24),
    (r"intermediate_size$|ffn_dim$|^d_ff$|^n_inner$|mlp_dim$|ffn_hidden_size$|^hidden_dim$", 48),
    (r"hidden_size$|^d_model$|^n_embd$|embed_dim$|^dim$|word_embed_proj_dim$|embedding_size$", 32),
    (r"_hidden_dim$|hidden_channels$|projection_dim$|^embed_dim_|_dim$", 32),
    (r"max_(position|source|target)_embeddings?|max_(source_|target_)?positions$|max_seq_len", 64),
    (r"^n_positions$|^n_ctx$|^max_length$", 64),
    (r"^image_size$|^img_size$|^input_size$", 32),
    (r"^patch_size$", 8),
    (r"sliding_window$|^attention_window$|local_window_size$|attention_chunk_size$", 16),
    (r"^num_labels$", 3),
    (r"(token|bos|eos|pad|sep|cls|unk)_(token_)?id$|_token_index$|start_token_id$", 1),
)
_SIZES_COMPILED = [(re.compile(pattern), value) for pattern, value in _SIZES]
_CLASSES = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING_NAMES",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
"""The mappings of transformers that name an architecture's class; the first that has it counts."""


def shrunken(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with its sizes replaced by small ones."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result[key] = shrunken(value) if key.endswith("config") else value
        elif key in ("layer_types", "mlp_layer_types", "layers_block_type") and value:
            result[key] = [value[0], value[-1]]
        elif key in ("out_features", "out_indices", "stage_names"):
            continue
        elif key == "attention_types":
            result[key] = [[["global", "local"], 1]]
        elif isinstance(value, int) and not isinstance(value, bool):
            small = next((new for pattern, new in _SIZES_COMPILED if pattern.search(key)), value)
            result[key] = min(value, small) if value > 0 else value
        else:
            result[key] = value
    return result


def names() -> list[str]:
    """Return the architectures of transformers, PEFT's default targets first."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    from transformers.models.auto import modeling_auto

    mapped = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    known: dict[str, None] = dict.fromkeys(mapped)
    for mapping in _CLASSES:
        known |= dict.fromkeys(getattr(modeling_auto, mapping, {}))
    return list(known)


def small_model(name: str) -> Any:
    """Return a small model of an architecture, or raise what transformers raises."""
    import torch
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    classes = [getattr(modeling_auto, mapping, {}).get(name) for mapping in _CLASSES]
    flat = (
        each
        for found in classes
        if found
        for each in ((found,) if isinstance(found, str) else found)
    )
    cls = getattr(transformers, next(flat))
    values = shrunken(kind().to_dict())
    values = {key: value for key, value in values.items() if key != "transformers_version"}
    config = kind.from_dict(values)
    if not hasattr(config, "pad_token_id"):
        config.pad_token_id = 1
    config.tie_word_embeddings = zlib.crc32(name.encode()) % 2 == 0
    with torch.device("meta"):
        elements = sum(parameter.numel() for parameter in cls(config).parameters())
    if elements > MAX_ELEMENTS:
        raise ValueError(f"it still has {elements:,} parameters")
    torch.manual_seed(1)
    model = cls(config).eval()
    with torch.no_grad():  # norms and biases begin as ones and zeros, which hide mistakes
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter += 0.05 * torch.randn_like(parameter)
    return model


def configs(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the kinds of adapter that a model can have, with PEFT's config of each."""
    import peft
    import torch

    plain: dict[str, Any] = {"r": 2, "lora_alpha": 3, "init_lora_weights": True}
    yield "linear", peft.LoraConfig(**plain, target_modules="all-linear")
    experts = {
        ".".join(name.split(".")[-2:])
        for name, parameter in model.named_parameters()
        if parameter.ndim == 3 and name.split(".")[-2:-1] == ["experts"]
    }
    if experts:
        yield (
            "experts",
            peft.LoraConfig(**plain, target_modules=[], target_parameters=sorted(experts)),
        )
    modules = dict(model.named_modules())
    inside = [path for path, each in modules.items() if type(each) is torch.nn.Linear]
    first = sorted(inside)[len(inside) // 2] if inside else None
    try:
        embedding = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        embedding = None
    path = next((path for path, each in modules.items() if each is embedding), None)
    if path and first and isinstance(embedding, torch.nn.Embedding):
        yield "saved", peft.LoraConfig(**plain, target_modules=[first], modules_to_save=[path])
    heads = ("lm_head", "score", "classifier", "cls", "head", "qa_outputs", "proj_out")
    head = next((each for each in heads if each in modules and each not in (first, path)), None)
    if head and first:
        yield "head", peft.LoraConfig(**plain, target_modules=[first], modules_to_save=[head])


def shake(model: Any) -> None:
    """Move every trainable parameter, so that nothing is left as it was initialised."""
    import torch

    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def difference(got: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Return the first parameter that differs, with how much; None if none does."""
    if missing := sorted(wanted.keys() ^ got.keys()):
        return f"{missing[0]} is on one side only"
    for name, value in wanted.items():
        if value.shape != got[name].shape:
            return f"{name} has shape {list(got[name].shape)}, not {list(value.shape)}"
        if value.is_floating_point() and value.numel():
            error = float((got[name].double() - value.double()).abs().max())
            scale = float(value.double().abs().max()) or 1.0
            if not error <= TOLERANCE * scale:
                return f"{name} is off by {error / scale:.2g}"
    return None


def installed(folder: Path, registry: Path, name: str) -> Any:
    """Build and publish a project; return it as a module on this machine."""
    from modpkg.community.modules.memory import memory_of
    from modpkg.core.digests import parse_digest
    from modpkg.core.installed import InstalledModule, TensorRef
    from modpkg.core.tree import BlobTree
    from modpkg.manifest.read import read_manifest
    from modpkg.registry.base import find_base
    from modpkg.registry.reader import Registry
    from modpkg.registry.writer import RegistryWriter
    from modpkg.release.build import acts_on_base, build

    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    base, reader = None, Registry(str(registry))
    if acts_on_base(manifest):
        base = find_base(manifest, {d.name: reader for d in manifest.dependencies}, None)
    built = build(
        manifest, manifest.module, folder / "dist", base=base, deltas=False, memory=memory_of
    )
    RegistryWriter(registry).publish(Registry(str(folder / "dist")), built.line)
    tree, record = BlobTree(registry), built.record
    return InstalledModule(
        name=name,
        version=record.version,
        kind=record.kind,
        release=built.line.release,
        record=record,
        tensors={
            tensor: TensorRef(
                file=str(tree.path(parse_digest(entry.pack))),
                offset=entry.offset,
                length=entry.length,
                dtype=entry.dtype,
                shape=list(entry.shape),
                digest=entry.digest,
            )
            for tensor, entry in record.tensors.items()
        },
        files={path: tree.path(parse_digest(entry.digest)) for path, entry in record.files.items()},
    )


def composed_model(base: Any, adapter: Any, folder: Path, *, untied: bool = False) -> Any:
    """Compose and load; ``untied`` says that the recipe gives tied tensors values of their own."""
    from modpkg.compose.executor import compose
    from modpkg.compose.mapping import map_tensors
    from modpkg.compose.plan import plan
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Compose, Step
    from modpkg.runtime.load import build_model

    recipe = Compose(
        base=ModuleName("base"),
        steps=(Step(op="lora", module=ModuleName("adapter"), scale=1.0),),
        tie_word_embeddings=False if untied else None,
    )
    composition = plan("model", "1.0", recipe, {"base": base, "adapter": adapter})
    composed = compose(composition, folder / "store", threads=1)
    (folder / "config.json").write_text(json.dumps(composed.config))
    return build_model("model", folder, map_tensors(composed.tensors.items()))


def composed_state(
    base: Any, adapter: Any, folder: Path, *, untied: bool = False
) -> Mapping[str, Any]:
    """Compose and load; return the parameters of the model."""
    return dict(composed_model(base, adapter, folder, untied=untied).state_dict())


def without_ties(model: Any) -> Any:
    """Return a model with every parameter a tensor of its own, whatever its config says."""
    import torch

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                own = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                module._parameters[name] = own
    return model


def header_of(folder: Path) -> dict[str, Any]:
    """Return the types of the tensors in a folder, by name."""
    from modpkg.core.packs import read_pack_header

    return {k: v for f in folder.glob("*.safetensors") for k, v in read_pack_header(f).items()}


def disk_names(layout: Any, adapter: Path, out: Path) -> bool:
    """Write the adapter with the names that its layers have on disk; return whether any differs."""
    import shutil

    from safetensors.torch import load_file, save_file

    on_disk = {
        name.removesuffix(".weight"): parameter.pieces[0].tensor.removesuffix(".weight")
        for name, parameter in layout.tensors.items()
        if len(parameter.pieces) == 1
        and parameter.pieces[0].stop is None
        and not parameter.transposed
        and name.endswith(".weight") == parameter.pieces[0].tensor.endswith(".weight")
    }
    tensors, differs, targets = {}, False, set()
    for name, value in load_file(adapter / "adapter_model.safetensors").items():
        path = name.removeprefix("base_model.model.")
        for memory, disk in on_disk.items():
            if path.startswith(memory + ".") and memory != disk:
                path, differs = disk + path[len(memory) :], True
                break
        tensors["base_model.model." + path] = value
        targets.add(path.partition(".lora_")[0])
    shutil.copytree(adapter, out)
    config = json.loads((out / "adapter_config.json").read_text())
    if isinstance(saved := config["modules_to_save"], list):
        config["modules_to_save"] = [on_disk.get(path, path) for path in saved]
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(targets)
    (out / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return differs


def loads_itself(fresh: Callable[[], Any], adapter: Path, wanted: Mapping[str, Any]) -> bool:
    """Return whether PEFT loads an adapter as it was when PEFT saved it."""
    import peft

    try:
        again = peft.PeftModel.from_pretrained(fresh(), str(adapter)).merge_and_unload()
    except Exception:
        return False
    return difference(dict(again.state_dict()), wanted) is None


def run_architecture(name: str) -> list[dict[str, str]]:
    """Return the outcome of every case of one architecture."""
    import peft
    import torch
    import transformers

    from modpkg.core.errors import ComposeError, ModpkgError
    from modpkg.interop.hf import import_hf
    from modpkg.interop.peft import export_peft, import_peft
    from modpkg.runtime.memory_layout import layout_of

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    try:
        model = small_model(name)
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [{"case": "-", "outcome": "not built", "why": text[:160]}]
    results = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        cls, registry = type(model), folder / "registry"

        def fresh() -> Any:
            return cls.from_pretrained(folder / "base", dtype=torch.float32).eval()

        def outcome(case: str, what: str, why: str = "") -> None:
            results.append({"case": case, "outcome": what, "why": why[:300], "class": cls.__name__})

        try:
            model.save_pretrained(folder / "base")
            before = dict(fresh().state_dict())
            if (gap := difference(before, dict(model.state_dict()))) is not None:
                raise ValueError(f"transformers itself does not load what it saved: {gap}")
            kinds = list(configs(model))
        except Exception as error:
            outcome("-", "not built", f"{type(error).__name__}: {' '.join(str(error).split())}")
            return results
        try:
            config = json.loads((folder / "base" / "config.json").read_text())
            layout = layout_of("base", config, header_of(folder / "base"))
            assert layout is not None
            import_hf(folder / "base", folder / "base-project", "base", "1.0", license="MIT")
            base = installed(folder / "base-project", registry, "base")
        except ModpkgError as error:
            outcome("base", "refused", f"{error.code}: {error}")
            return results
        for kind, config in kinds:
            own = folder / kind
            try:
                with_base = fresh()
                wrapped = peft.get_peft_model(with_base, config).eval()
                shake(wrapped)
                wrapped.save_pretrained(own / "memory")
                wanted = dict(wrapped.merge_and_unload().state_dict())
            except Exception as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())}"
                outcome(kind, "PEFT cannot", why)
                continue
            if difference(wanted, before) is None:
                outcome(kind, "PEFT cannot", "the adapter changes nothing")
                continue
            spellings = ["memory"]
            if disk_names(layout, own / "memory", own / "disk"):
                spellings.append("disk")
            for spelling in spellings:
                case = f"{kind}, {spelling} names"
                work = own / f"{spelling}-work"
                try:
                    import_peft(
                        own / spelling,
                        work / "project",
                        f"{kind}-{spelling}",
                        "1.0",
                        base="base",
                        license="MIT",
                    )
                    adapter = installed(work / "project", registry, "adapter")
                    prepared, expected, untied = fresh, wanted, False
                    try:
                        got = composed_state(base, adapter, work)
                    except ComposeError as error:
                        if "tie_word_embeddings = false" not in str(error):
                            raise
                        untied = True
                        got = composed_state(base, adapter, work, untied=True)

                        def prepared() -> Any:
                            return without_ties(fresh())

                        tuned = peft.PeftModel.from_pretrained(prepared(), str(own / "memory"))
                        expected = dict(tuned.merge_and_unload().state_dict())
                    if (gap := difference(got, expected)) is not None:
                        outcome(case, "wrong", f"composed: {gap}")
                        continue
                except ModpkgError as error:
                    outcome(case, "refused", f"{error.code}: {error}")
                    continue
                try:
                    export_peft(adapter, work / "export", rename=layout.rename)
                except ModpkgError as error:
                    outcome(case, "refused", f"export: {error.code}: {error}")
                    continue
                try:
                    again = peft.PeftModel.from_pretrained(prepared(), str(work / "export"))
                    exported = dict(again.merge_and_unload().state_dict())
                    gap = difference(exported, expected)
                except Exception as error:
                    gap = f"{type(error).__name__}: {' '.join(str(error).split())}"
                if gap is None:
                    outcome(case, "equal, untied" if untied else "equal")
                elif not loads_itself(prepared, own / "memory", expected):
                    why = "composed it is equal; PEFT does not load the adapter that it saved"
                    outcome(case, "PEFT cannot", why)
                else:
                    outcome(case, "wrong", f"exported: {gap}")
    return results


def _child(name: str, path: Path) -> None:
    """Run one architecture in a process of its own and write its outcomes."""
    path.write_text(json.dumps(run_architecture(name), indent=1) + "\n")


def run_one(name: str, path: Path, seconds: int) -> None:
    """Run one architecture, with a time limit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, path))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        what, why = "not run", f"it took over {seconds} s"
    elif process.exitcode:
        what, why = "wrong", f"it ended with status {process.exitcode}"
    else:
        return
    path.write_text(json.dumps([{"case": "-", "outcome": what, "why": why}]) + "\n")


def run_all(wanted: list[str], work: Path, seconds: int, *, again: bool) -> None:
    """Run architectures one after the other, keeping the outcome of each."""
    for number, name in enumerate(wanted, start=1):
        path = work / f"{name}.json"
        if path.exists() and not again:
            continue
        begun = time.perf_counter()
        run_one(name, path, seconds)
        counts = collections.Counter(each["outcome"] for each in json.loads(path.read_text()))
        taken = time.perf_counter() - begun
        print(f"{number}/{len(wanted)} {name} {dict(counts)} {taken:.0f} s", flush=True)


def page(work: Path, wanted: list[str]) -> str:
    """Return the page of all results so far."""
    results = {
        name: json.loads(path.read_text())
        for name in wanted
        if (path := work / f"{name}.json").exists()
    }
    built = {n: r for n, r in results.items() if r[0]["outcome"] not in ("not built", "not run")}
    cases = [(name, each) for name, found in built.items() for each in found]
    counts = collections.Counter(each["outcome"] for _, each in cases)
    lines = [
        "# Adapters on the architectures of transformers",
        "",
        f"`python -m benchmarks.architectures`; {described()}; transformers "
        f"{version('transformers')}, PEFT {version('peft')}, torch {version('torch')}.",
        "",
        f"Of {len(wanted)} architectures, {len(results)} were tried and {len(built)} could be "
        "built small, saved and loaded again by transformers. On each: LoRA on all linear layers, "
        "LoRA on the parameters of experts, a saved embedding and a saved head, the last two "
        "beside a LoRA; as PEFT saves them, with names in memory, and again with the names that "
        "the layers have on disk, where those differ. *Equal*: every parameter of the composed "
        "and loaded model is that of PEFT's merged model (to 1e-5 of its largest value), and so "
        "is every parameter after exporting the adapter and loading it in PEFT. An adapter of only "
        "one of several tied tensors is composed in a recipe that unties them, and compared with "
        "PEFT's on a model whose parameters were made separate.",
        "",
        "| outcome | cases |",
        "|---|---:|",
    ]
    lines += [
        f"| {label} | {counts.get(key, 0)} |"
        for label, key in (
            ("equal", "equal"),
            ("equal, in a recipe with `tie_word_embeddings = false`", "equal, untied"),
            ("refused, with a reason", "refused"),
            ("wrong", "wrong"),
            ("PEFT itself cannot do it", "PEFT cannot"),
        )
    ]
    for title, key in (("Wrong", "wrong"), ("Refused", "refused")):
        found = [(name, each) for name, each in cases if each["outcome"] == key]
        lines += ["", f"## {title}", ""]
        lines += [f"- {name}, {each['case']}: {_cell(each['why'])}" for name, each in found]
        if not found:
            lines.append("None.")
    lines += [
        "",
        "## By architecture",
        "",
        "| architecture | class | equal | else |",
        "|---|---|---|---|",
    ]
    for name, found in built.items():
        equal = ", ".join(
            each["case"] + each["outcome"].removeprefix("equal").replace(",", "")
            for each in found
            if each["outcome"].startswith("equal")
        )
        other = "; ".join(
            f"{each['case']}: {each['outcome']}"
            for each in found
            if not each["outcome"].startswith("equal")
        )
        lines.append(f"| {name} | {found[0].get('class', '')} | {equal} | {other} |")
    left = {n: r[0]["why"] for n, r in results.items() if n not in built}
    lines += ["", "## Not built small", "", f"{len(left)}: {', '.join(sorted(left))}."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def main() -> None:
    """Run what is left, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--work", type=Path, default=WORK)
    given = parser.parse_args()
    every = names()
    run_all(given.only or every, given.work, given.seconds, again=given.again)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(page(given.work, every))


if __name__ == "__main__":
    main()
