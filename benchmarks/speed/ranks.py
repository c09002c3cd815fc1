"""The processes of a number of ranks on this machine, which wait to be asked: a line in, a line out of each."""

import os
import socket
import subprocess
from collections.abc import Sequence

from benchmarks.speed.memory import Memory, peak, reset_peak
from dist_mtl.errors import InternalError


class Ranks:
    """`world` processes of one command with `threads` threads each. Ready once it exists; `close` ends them."""

    def __init__(self, label: str, command: Sequence[str], world: int, threads: int) -> None:
        self.label = label
        address = {
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": _free_port(),
            "OMP_NUM_THREADS": threads,
        }
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {key: str(value) for key, value in place.items()},
            )
            for place in (address | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(world))
        ]
        try:
            self._lines()
        except InternalError:
            self.close()
            raise
        self._before = [reset_peak(process.pid) for process in self._processes]

    def ask(self, line: str) -> list[str]:
        """What each rank answers. Raises InternalError if one has ended instead."""
        for process in self._processes:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        return self._lines()

    def memory(self) -> list[Memory]:
        """Of each rank, since it was ready."""
        return [Memory(before, peak(p.pid)) for before, p in zip(self._before, self._processes, strict=True)]

    def close(self) -> None:
        """End the processes by closing their input, and reap them."""
        for process in self._processes:
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def _lines(self) -> list[str]:
        lines = [process.stdout.readline().strip() for process in self._processes]
        if not all(lines):
            raise InternalError(f"benchmark: {self.label} ended; its error is above")
        return lines


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
