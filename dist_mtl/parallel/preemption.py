"""SIGTERM and SIGINT as a flag that a run looks at. Imports no torch.

A thread takes the signals, since Python's own handlers wait for the main thread, which may be inside a collective.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dist_mtl.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 130  # what a shell calls a program that Ctrl-C has ended


class StopFlag:
    """`signal`: the name of the first signal that came, and None before.

    The second SIGINT ends the process at once; an `embedded` run, whose process is its caller's, raises
    KeyboardInterrupt instead.
    """

    def __init__(self, embedded: bool = False) -> None:
        self.signal: str | None = None
        self._embedded = embedded
        self._interrupts = 0
        self._handled = 0  # interrupts that the main thread has seen

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals from here to the end. Only a main thread can; elsewhere they stay what they were."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        threading.Thread(target=self._listen, args=(ours,), name="signals", daemon=True).start()
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(before)
            theirs.close()  # which ends the thread

    def ask(self, reason: str) -> None:
        """Stop the run as a signal would, for another reason."""
        self.signal = self.signal or reason

    def check(self) -> None:
        """Raise Preempted if a signal has come. For `Runtime.all_ranks`, so that the ranks end together."""
        if self.signal is not None:
            raise Preempted(f"stopped by {self.signal}; run the same command again to go on")

    def _listen(self, ours: socket.socket) -> None:
        with ours:
            while numbers := ours.recv(16):
                for number in numbers:
                    if number in SIGNALS:
                        self._take(signal.Signals(number))

    def _take(self, number: signal.Signals) -> None:
        self.signal = self.signal or number.name
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1 and not self._embedded:
            os._exit(INTERRUPTED)

    def _handle(self, number: int, _frame: object) -> None:
        """Leaves it to the thread: a signal without a handler of Python's would not be written to its socket."""
        self._handled += number == signal.SIGINT
        if self._embedded and self._handled > 1:
            raise KeyboardInterrupt
