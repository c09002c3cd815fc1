"""Every error that a user can meet, and the exit code that a launcher sees.

    DistMtlError
    |-- ConfigError      64  the configuration is wrong; nothing was started
    |-- DataError        65  the data are missing, changed, of the wrong type, or break the label rules
    |   |-- DamageError      the bytes of a row group are not those that were listed
    |   `-- NonFiniteError   a loss, a weight or a score is NaN or infinite
    |-- CheckpointError  66  a commit can not be read or does not belong to this model
    |   `-- DamagedCommitError   its bytes are not those that were committed
    |-- InternalError    70  the program can not go on (also: any other exception)
    `-- Preempted        75  a signal asked the run to stop; start it again and it goes on

A message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DistMtlError(Exception):
    """Root of the tree. `all_ranks` is true when every rank raised this same error, so that one of them may speak."""

    exit_code = 70
    all_ranks = False


class ConfigError(DistMtlError):
    """The configuration is wrong: an unknown key, a wrong type, values that do not fit together."""

    exit_code = 64


class DataError(DistMtlError):
    """The data are missing, changed since their manifest was written, of the wrong type, or break a label rule."""

    exit_code = 65


class DamageError(DataError):
    """The bytes of a row group are not those that were listed: the only fault of data that training may skip."""

    block: int | None = None  # number of the row group in its dataset; None: another rank found it


class NonFiniteError(DataError):
    """A loss, a weight or a score is NaN or infinite. The newest commit holds finite weights."""


class CheckpointError(DistMtlError):
    """A commit can not be read, or belongs to another model or another dataset."""

    exit_code = 66


class DamagedCommitError(CheckpointError):
    """The bytes of a commit are not those that were written: the one fault for which a run takes an older one."""


class InternalError(DistMtlError):
    """The program can not go on."""

    exit_code = 70


class Preempted(DistMtlError):
    """SIGTERM or SIGINT has come. What was trained is committed; the same command goes on from there."""

    exit_code = 75


FAMILIES: dict[str, type[DistMtlError]] = {
    kind.__name__: kind
    for kind in (
        ConfigError,
        DataError,
        DamageError,
        NonFiniteError,
        CheckpointError,
        DamagedCommitError,
        InternalError,
        Preempted,
    )
}


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` for the nearest of `known`, or an empty string when none is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean `{match[0]}`?" if match else ""
