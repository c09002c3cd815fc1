"""What every verb shares: the configuration's arguments, streams that never fail, errors as messages with exit codes.

Imports no package, and is Python 3.9's: the doctor is a verb, too.
"""

from __future__ import annotations

from dist_mtl.terminal.streams import guard_streams, hold_descriptors

hold_descriptors()  # before the imports below, and those of the script behind this one, open a file

import argparse  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import TYPE_CHECKING, NoReturn  # noqa: E402

from dist_mtl.errors import ConfigError, DistMtlError, InternalError, Preempted  # noqa: E402
from dist_mtl.parallel.world import World  # noqa: E402

if TYPE_CHECKING:
    from dist_mtl.config import Config

SPEAKING = 2.0  # seconds that a rank gives another one to tell an error of both
DEFAULT_CONFIG = "configs/quickstart.toml"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors: exit code 64, and one message for all ranks. Parse inside `run`."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}\n{' '.join(self.format_usage().split())}")


def count(text: str) -> int:
    """A positive whole number, also as 1e6, for `type=`."""
    from dist_mtl.config import MAX_COUNT  # not at the top: the doctor works without pydantic

    number = float(text)
    if not math.isfinite(number) or number != int(number) or not 1 <= number <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_COUNT:,}")
    return int(number)


def config_arguments(description: str) -> Parser:
    """A parser for `CONFIG --set=a.b=1 --set=...`."""
    parser = Parser(description=description)
    which = f"TOML file or the name of a recipe (default {DEFAULT_CONFIG})"
    parser.add_argument("config", nargs="?", default=DEFAULT_CONFIG, help=which)
    add_overrides(parser, "e.g. --set=train.epochs=2")
    return parser


def add_overrides(parser: argparse.ArgumentParser, which: str) -> None:
    """Let `parser` take `--set=a.b=1 --set=...`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override one value, {which}; write it with '=', TorchX refuses a repeated bare option",
    )


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration that the arguments name."""
    from dist_mtl.config.file import load

    return load(arguments.config, arguments.overrides)


def run(main: Callable[[], int | None], world_of: Callable[[], World] = World.from_env) -> NoReturn:
    """Run a verb's main and end the process: main's own code or 0, or the exit code of the error, in words on stderr.

    `world_of`: World.from_env for a verb of many ranks, World.alone for one of a single process. Neither stdout nor
    stderr can fail here (terminal/streams.py), and what main writes to files is there before it prints.

    An error that every rank has is told by the first one only. Anything that is not a DistMtlError is a defect of ours
    and keeps its traceback, except that a rank whose peer has died says so in one line.
    """
    guard_streams()
    signal.signal(signal.SIGTERM, _preempted)  # until there is something to keep; parallel/runtime.py takes it then
    world = World()
    try:
        world = world_of()
        code = main() or 0
    except DistMtlError as error:
        code = error.exit_code
        # Before the ranks have met, a configuration error is most likely every rank's: one of each node speaks.
        if world.is_first or not error.all_ranks and (world.local_rank == 0 or not isinstance(error, ConfigError)):
            kind = "preempted" if isinstance(error, Preempted) else "error"
            _tell(str(error), None if error.all_ranks or isinstance(error, ConfigError) else world, kind)
        elif world.agent:
            time.sleep(SPEAKING)  # the agent would end the rank that speaks, unheard (1 in 2 starts, measured)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = InternalError.exit_code
        if world.size > 1 and _lost_a_peer(error):
            reason = str(error).strip().splitlines()[0]
            where = ", ".join(getattr(error, "__notes__", ["at the start"]))
            _tell(f"another rank has stopped or does not answer {where}, so this one ends too ({reason})", world)
        elif (package := _unimportable(error)) is not None:
            why = f"{package} cannot be imported: {type(error).__name__}: {error}"
            cure = "`dist-mtl doctor` looks at the installation; a variable of the environment may be the cause"
            _tell(f"{why}. {cure}", world)
        else:
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # at once: a rank in trouble must not wait in a destructor for peers that will not answer
    sys.exit(0)


def _preempted(_number: int, _frame: object) -> NoReturn:
    os._exit(Preempted.exit_code)


def _tell(message: str, world: World | None, kind: str = "error") -> None:
    who = f"[rank {world.rank}] " if world is not None and world.size > 1 else ""
    # Not splitlines: it takes U+2028 and others that stand in names for the end of a line.
    print("\n".join(f"{kind}: {who}{line}" for line in message.split("\n")), file=sys.stderr)


def _unimportable(error: Exception) -> str | None:
    """The package whose import failed, if it is not ours: torch reads dozens of variables, and some end its import."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in ("dist_mtl", "__main__"):
            return package
    return None


def _lost_a_peer(error: Exception) -> bool:
    """Whether a collective failed because of another rank: gloo and NCCL say so in words only."""
    signs = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "Timed out waiting",
        "timed out",
        "timeout caused",
    )
    kinds = ("RuntimeError", "DistBackendError", "DistNetworkError")
    return type(error).__name__ in kinds and any(sign in str(error) for sign in signs)
