"""What every script of launch/ shares: the configuration's arguments, and errors as messages with exit codes."""

import argparse
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from dist_mtl.config import MAX_COUNT, Config
from dist_mtl.config.file import load
from dist_mtl.errors import ConfigError, DistMtlError, InternalError, Preempted
from dist_mtl.parallel.world import World

SPEAKING = 2.0  # seconds that a rank gives another one to tell an error of both
DEFAULT_CONFIG = "configs/quickstart.toml"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors: exit code 64, and one message for all ranks. Parse inside `run`."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}\n{' '.join(self.format_usage().split())}")


def count(text: str) -> int:
    """A positive whole number, also as 1e6, for `type=`."""
    number = float(text)
    if not math.isfinite(number) or number != int(number) or not 1 <= number <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_COUNT:,}")
    return int(number)


def config_arguments(description: str) -> Parser:
    """A parser for `CONFIG --set=a.b=1 --set=...`."""
    parser = Parser(description=description)
    parser.add_argument("config", nargs="?", default=DEFAULT_CONFIG, help=f"TOML file (default {DEFAULT_CONFIG})")
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
    return load(arguments.config, arguments.overrides)


def run(main: Callable[[], None]) -> NoReturn:
    """Run a script's main and end the process: 0, or the exit code of the error, told in words.

    An error that every rank has is told by the first one only. Anything that is not a DistMtlError is a defect of ours
    and keeps its traceback, except that a rank whose peer has died says so in one line.
    """
    signal.signal(signal.SIGTERM, _preempted)  # until there is something to keep; parallel/runtime.py takes it then
    world = World.from_env()
    code = 0
    try:
        main()
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
    print("\n".join(f"{kind}: {who}{line}" for line in message.splitlines()), file=sys.stderr)


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
