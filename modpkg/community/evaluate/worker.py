"""The process that runs models on tests: one request per line on stdin, answers on stdout.

It is a separate process so that a test that hangs, exhausts memory or crashes can be stopped.
Whatever tests print goes to standard error.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path

import msgspec

from modpkg.community.evaluate.protocol import WorkerAnswer, WorkerFailure, WorkerRequest
from modpkg.core.bounds import TEST_MEMORY_SHARE
from modpkg.core.errors import ModpkgError
from modpkg.core.files import human_bytes
from modpkg.core.hub import turn_off_hub
from modpkg.core.printable import error_text
from modpkg.core.system_limits import limit_memory, machine_memory


def main() -> None:
    """Answer requests until standard input ends; then exit at once, whatever is running."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            requests.put(line)
        os._exit(0)  # the parent is gone

    def send(answer: WorkerAnswer) -> None:
        out.write(msgspec.json.encode(answer) + b"\n")

    threading.Thread(target=listen, daemon=True).start()
    turn_off_hub()
    # torch and transformers take seconds to import: the listener has to run before
    from modpkg.community.evaluate.measure import LoadedModel, compare, measure

    send(WorkerAnswer(ready=True))
    loaded: LoadedModel | None = None
    limit: int | None = None
    while True:
        request = msgspec.json.decode(requests.get(), type=WorkerRequest)
        try:
            if request.compare is not None:
                send(WorkerAnswer(difference=compare(request.compare)))
            elif request.measure is not None:
                folder = Path(request.measure.folder)
                if loaded is None or loaded.folder != folder:
                    loaded = None  # frees the previous model before the next is loaded
                    limit = _limit_memory(folder)
                    loaded = LoadedModel(folder)
                outcome = measure(
                    loaded,
                    request.measure,
                    lambda total: send(WorkerAnswer(total=total)),
                    lambda count: send(WorkerAnswer(done=count)),
                )
                send(WorkerAnswer(outcome=outcome))
        except ModpkgError as error:
            values = {key: str(value) for key, value in error.values.items()}
            send(WorkerAnswer(failure=WorkerFailure(error.code, values)))
        except Exception as error:  # a third-party metric can fail in any way
            text = error_text(error)
            if limit is not None and is_out_of_memory(error):
                text = (
                    f"it needs more than {human_bytes(limit)} of memory, the limit of a test here"
                )
            send(WorkerAnswer(failure=WorkerFailure("", {"reason": text})))


def _limit_memory(folder: Path) -> int | None:
    """Limit this process to the machine's memory and the model's files, which are mapped.

    Beyond that the whole machine would suffer, not the test alone.
    """
    memory = machine_memory()
    if memory is None:
        return None
    limit = int(TEST_MEMORY_SHARE * memory)
    limit_memory(limit + sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    return limit


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that there is no more memory: Python's, or torch's."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)
