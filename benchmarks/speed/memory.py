"""Resident memory of another process of ours, as Linux keeps it: now, and the most since it was last reset."""

from dataclasses import dataclass
from pathlib import Path

MB = 1e6


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: before its first step, and the most while it trained."""

    before: int
    peak: int

    @property
    def grown(self) -> int:
        """What the steps added at their peak: gradients, states that are made lazily, everything between."""
        return self.peak - self.before


def reset_peak(pid: int) -> int:
    """Forget the process's peak so far, and return what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): resets VmHWM to the current size
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that the process held since `reset_peak`."""
    return _status(pid, "VmHWM")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise OSError(f"/proc/{pid}/status has no {field}; is this Linux?")
