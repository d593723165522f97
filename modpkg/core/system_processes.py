"""What ends or limits a process: signals and limits of the system, where it has them."""

from __future__ import annotations

import signal
import threading


class Terminated(SystemExit):
    """SIGTERM came: the command unwinds as after an interruption, and leaves nothing half-made."""


def raise_on_termination() -> None:
    """Let SIGTERM raise `Terminated` in the main thread, unless the program handles it itself."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated(128 + number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
