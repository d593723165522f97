"""Running a model's task, as its manifest declares it, on a text."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from msgspec import structs

from modpkg.compose.confinement import confined
from modpkg.compose.tokenizer import open_tokenizer
from modpkg.core.errors import RunError
from modpkg.core.installed import read_model
from modpkg.runtime.adapter_choice import AdapterChoice, shown
from modpkg.runtime.architecture import transformers_module
from modpkg.runtime.batches import classify, embed_texts, generate
from modpkg.runtime.live import LiveModel
from modpkg.runtime.load import load_model
from modpkg.runtime.pooling import embedder
from modpkg.runtime.prompt import Conversation, prepare
from modpkg.runtime.sampling import Sampling, StopFilter, generation_of
from modpkg.runtime.sentence_modules import EMBEDS
from modpkg.runtime.task_kinds import CLASSIFIES, KNOWN, WRITING, task_of_architecture
from modpkg.runtime.task_result import TaskResult

Stream = Callable[[str], None]


class Pipeline:
    """A loaded model with its tokenizer, to run its task as often as wanted.

    Calls of several threads run one after the other.

    >>> write = modpkg.pipeline("summarizer")  # doctest: +SKIP
    >>> write("A long text …").text  # doctest: +SKIP
    >>> [result.text for result in write(["One text", "another"])]  # doctest: +SKIP
    >>> for piece in write.stream("A long text …"):  # doctest: +SKIP
    ...     print(piece, end="", flush=True)
    """

    def __init__(
        self,
        model: Any,
        folder: Path,
        packs: Path,
        *,
        tokenizer: Any = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open a loaded model.

        Args:
            model: The model, from `load_model`, or a `LiveModel`.
            folder: The folder of the installed model, or of the first one of a live model.
            packs: The folder of its environment's packs.
            tokenizer: Its tokenizer, from `check_runs`; None to load it.
            warn: Called with each thing that a person should know about a result.

        Raises:
            RunError: The model has no task that is supported, or no tokenizer.
        """
        record = read_model(folder)
        self.name = record.name
        self.model = model
        architecture = model.model if isinstance(model, LiveModel) else model
        self.task: dict[str, Any] = dict(
            record.task or {"kind": inferred_task(record.name, architecture, folder)}
        )
        self.kind = str(self.task["kind"])
        self.tokenizer = check_runs(folder) if tokenizer is None else tokenizer
        if self.kind in WRITING:
            prepare(self.tokenizer, self.task)
        self.embed = embedder(record, folder, packs)
        if not _can(architecture, self.kind):
            reason = f"its task is {self.kind}, which a {type(architecture).__name__} cannot do"
            raise RunError("M704", name=self.name, reason=reason)
        self._warn = warn
        self._lock = threading.Lock()

    @overload
    def __call__(self, inputs: str, **options: Any) -> TaskResult: ...

    @overload
    def __call__(self, inputs: Sequence[Any], **options: Any) -> Any: ...

    def __call__(
        self,
        inputs: str | Sequence[Any],
        *,
        adapter: AdapterChoice | None = None,
        prompt_name: str | None = None,
        system: str | None = None,
        sampling: Sampling | None = None,
        **options: Any,
    ) -> Any:
        """Run the task on a text, a conversation, or a list of either.

        Args:
            inputs: A text; a conversation, which is a list of messages as
                ``{"role": "user", "content": "…"}``; or a list of texts or of conversations.
            adapter: For a live model, the adapters to use, as in `LiveModel.set_adapter`.
            prompt_name: For a model that embeds, one of its prompts, in place of its default one.
            system: The system message, in place of the task's.
            sampling: How text is generated; `options` are its fields, like ``temperature=0.7``.

        Returns:
            A `TaskResult`, or a list of them for a list of texts or conversations.

        Raises:
            RunError: An argument does not go with the model, or the model fails.
        """
        texts, many = _texts(inputs)
        sampling = sampling or Sampling(**options)
        results = self._run(texts, adapter, prompt_name, system, sampling, None)
        return results if many else results[0]

    def stream(
        self,
        inputs: str | Conversation,
        *,
        adapter: AdapterChoice | None = None,
        system: str | None = None,
        sampling: Sampling | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Yield the pieces of the generated text for one text or conversation; see `__call__`.

        Other calls wait until it ends or is closed.
        """
        texts, many = _texts(inputs)
        if many:
            raise RunError("M709", choice="A stream", reason="it is for one text at a time")
        if self.kind not in WRITING:
            reason = f"{self.name} does not generate text (its task is {self.kind})"
            raise RunError("M709", choice="A stream", reason=reason)
        sampling = sampling or Sampling(**options)
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        closed = threading.Event()

        def put(piece: str) -> None:
            if closed.is_set():
                raise _Closed
            pieces.put(piece)

        def generate() -> None:
            try:
                self._run(texts, adapter, None, system, sampling, put)
            except _Closed:
                pass
            except BaseException as error:  # raised again where the pieces are read
                pieces.put(error)
            pieces.put(None)

        thread = threading.Thread(target=generate, name="modpkg-stream", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            closed.set()
            thread.join()

    def _run(
        self,
        texts: Sequence[str | Conversation],
        adapter: AdapterChoice | None,
        prompt_name: str | None,
        system: str | None,
        sampling: Sampling,
        stream: Stream | None,
    ) -> list[TaskResult]:
        self._check(prompt_name, system, sampling, texts)
        task = self.task if system is None else {**self.task, "system": system}
        model, tokenizer, kind, warn = self.model, self.tokenizer, self.kind, self._warn
        with self._lock, self._adapted(adapter), torch.inference_mode(), confined():
            if kind in WRITING:
                how = generation_of(sampling, task, model.generation_config)
                streamer = _streamer(tokenizer, stream, how.stop)
                found = generate(
                    model, tokenizer, task, texts, how=how, warn=warn, streamer=streamer
                )
                return [TaskResult(kind, text=text, seed=how.seed) for text in found]
            plain = [text for text in texts if isinstance(text, str)]
            if kind == CLASSIFIES:
                rows = classify(model, tokenizer, task, plain, warn=warn)
                ranked = [sorted(row.items(), key=lambda pair: -pair[1]) for row in rows]
                return [TaskResult(kind, labels=labels) for labels in ranked]
            vectors = embed_texts(
                self.embed, model, tokenizer, task, plain, prompt_name=prompt_name, warn=warn
            )
            return [TaskResult(kind, embedding=vector.tolist()) for vector in vectors]

    def _check(
        self,
        prompt_name: str | None,
        system: str | None,
        sampling: Sampling,
        texts: Sequence[str | Conversation],
    ) -> None:
        """Check that the arguments go with the model's task."""
        if prompt_name is not None and self.kind != EMBEDS:
            raise RunError("M725", name=self.name, task=self.kind)
        if self.kind in WRITING:
            templated = getattr(self.tokenizer, "chat_template", None) is not None
            if system is not None and not (templated and self.task.get("chat") is not False):
                reason = f"{self.name} has no chat template that would take it"
                raise RunError("M709", choice="A system message", reason=reason)
            return
        chosen = [] if system is None else ["A system message"]
        chosen += [k for k, value in structs.asdict(sampling).items() if value not in (None, ())]
        chosen += ["A conversation"] * any(not isinstance(text, str) for text in texts)
        if chosen:
            reason = f"{self.name} does not generate text (its task is {self.kind})"
            raise RunError("M709", choice=chosen[0], reason=reason)

    @contextlib.contextmanager
    def _adapted(self, adapter: AdapterChoice | None) -> Iterator[None]:
        """Set adapters of a live model inside of the block."""
        if adapter is None:
            yield
            return
        if not isinstance(self.model, LiveModel):
            reason = f"{self.name} was not loaded with live=True"
            raise RunError("M709", choice=shown(adapter), reason=reason)
        before = self.model.active
        self.model.set_adapter(adapter)
        try:
            yield
        finally:
            self.model.set_adapter(before)


def _can(architecture: Any, kind: str) -> bool:
    """Return whether a model can do a task."""
    if kind in WRITING:
        return hasattr(architecture, "generation_config")
    return task_of_architecture(type(architecture).__name__, ()) in (None, kind)


class _Closed(Exception):
    """Nobody reads the stream any more."""


def _texts(inputs: Any) -> tuple[list[str | Conversation], bool]:
    """Return texts or conversations, and whether there may be several.

    Raises:
        RunError: They are neither.
    """
    if isinstance(inputs, str):
        return [inputs], False
    if not isinstance(inputs, Iterable):
        reason = "it is neither a text nor a list of texts or conversations"
        raise RunError("M709", choice=f"{inputs!r:.60}", reason=reason)
    items: list[Any] = list(inputs)
    if items and all(isinstance(item, Mapping) for item in items):
        return [_conversation(items)], False
    for place, item in enumerate(items):
        if not isinstance(item, str):
            items[place] = _conversation(item)
    return items, True


def _conversation(messages: Any) -> Conversation:
    fine = isinstance(messages, Sequence) and bool(messages)
    for message in messages if fine else ():
        keys = ("role", "content")
        fine = fine and isinstance(message, Mapping)
        fine = fine and all(isinstance(message.get(key), str) for key in keys)
    if not fine:
        reason = "it is neither a text nor a list of messages with 'role' and 'content'"
        raise RunError("M709", choice=f"{messages!r:.60}", reason=reason)
    return [dict(message) for message in messages]


def open_pipeline(
    folder: Path, packs: Path, *, warn: Callable[[str], None] = lambda message: None
) -> Pipeline:
    """Return an installed model, loaded to run its task; see `load_model` and `Pipeline`.

    A text longer than the model's context is truncated, and ``warn`` is called.

    Raises:
        RunError: The model cannot be loaded, has no tokenizer, or its task is not supported.
    """
    tokenizer = check_runs(folder)
    return Pipeline(load_model(folder, packs), folder, packs, tokenizer=tokenizer, warn=warn)


def check_runs(folder: Path) -> Any:
    """Return the tokenizer of an installed model, whose weights may not be composed yet.

    It takes no time beside composing and loading, which would be lost without it.

    Raises:
        RunError: The model has no tokenizer, or its task is not supported.
    """
    record = read_model(folder)
    kind = None if record.task is None else str(record.task["kind"])
    if kind is not None and kind not in KNOWN:
        raise RunError("M705", name=record.name, task=kind, known=", ".join(KNOWN))
    return load_tokenizer(record.name, folder)


def load_tokenizer(name: str, folder: Path) -> Any:
    """Return the tokenizer in a model's folder.

    Raises:
        RunError: The folder has no tokenizer, or it cannot be read.
    """
    return open_tokenizer(
        transformers_module(),
        folder,
        lambda reason: RunError("M704", name=name, reason=reason + _OTHER_TOKENIZER),
    )


_OTHER_TOKENIZER = (
    "; publish its base with the files of its tokenizer, or name a dependency whose tokenizer is "
    'used in a recipe: tokenizer = "NAME"'
)


def inferred_task(name: str, model: Any, folder: Path) -> str:
    """Return the task of a model's architecture.

    Raises:
        RunError: The architecture has no supported task.
    """
    architecture = type(model).__name__
    files = [path.name for path in folder.iterdir()]
    if (task := task_of_architecture(architecture, files)) is not None:
        return task
    raise RunError("M705", name=name, task=f"of {architecture}", known=", ".join(KNOWN))


def _streamer(tokenizer: Any, stream: Stream | None, stop: Sequence[str]) -> Any:
    if stream is None:
        return None
    from transformers import TextStreamer

    begun = False
    shown = StopFilter(stop)

    def put(piece: str, stream_end: bool = False) -> None:
        nonlocal begun
        piece = shown.feed(piece, last=stream_end)
        piece = piece if begun else piece.lstrip()
        begun = begun or bool(piece)
        if piece:
            stream(piece)

    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    streamer.on_finalized_text = put
    return streamer
