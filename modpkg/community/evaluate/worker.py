"""The process that runs models on tests: one request per line in, answers out.

It is a process of its own so that a test that never ends, takes all memory or crashes can be
stopped, whatever it hangs in. What it prints goes to standard error.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path

import msgspec

from modpkg.community.evaluate.protocol import Answer, Failure, Request
from modpkg.core.errors import ModpkgError


def main() -> None:
    """Answer requests until standard input ends; then stop at once, whatever is running."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            requests.put(line)
        os._exit(0)  # the one who asked is gone

    def answer(what: Answer) -> None:
        out.write(msgspec.json.encode(what) + b"\n")

    threading.Thread(target=listen, daemon=True).start()
    from modpkg.community.evaluate.measure import LoadedModel, compare, measure

    answer(Answer(ready=True))
    loaded: LoadedModel | None = None
    while True:
        request = msgspec.json.decode(requests.get(), type=Request)
        try:
            if request.compare is not None:
                answer(Answer(difference=compare(request.compare)))
            elif request.measure is not None:
                folder = Path(request.measure.folder)
                if loaded is None or loaded.folder != folder:
                    loaded = None  # before the next is loaded, so that there is one at a time
                    loaded = LoadedModel(folder)
                outcome = measure(
                    loaded,
                    request.measure,
                    lambda total: answer(Answer(total=total)),
                    lambda count: answer(Answer(done=count)),
                )
                answer(Answer(outcome=outcome))
        except ModpkgError as error:
            values = {key: str(value) for key, value in error.values.items()}
            answer(Answer(failure=Failure(error.code, values)))
        except Exception as error:  # a metric of somebody else's can fail in any way
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            answer(Answer(failure=Failure("", {"reason": text})))
