"""`dist-mtl VERB ...`, also as `python -m dist_mtl VERB ...`: a file of this folder for each verb.

Imports no package at the top, and is Python 3.9's: the list of verbs is there at once, and the doctor works where
nothing is installed.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import NoReturn

from dist_mtl.cli.arguments import run
from dist_mtl.errors import ConfigError, nearest
from dist_mtl.parallel.world import World

VERBS = {
    "train": "train a model from a configuration, from its newest checkpoint if there is one",
    "evaluate": "evaluate a run: each task on its own space, by slice, within users",
    "predict": "score a dataset by a run, Parquet to Parquet",
    "compare": "is run B better than run A? Paired intervals and a verdict",
    "recalibrate": "fit a run's probabilities to a held-out dataset",
    "relatedness": "compare a run's learned relatedness with a planted truth",
    "convert": "make a dataset from CSV, Parquet files or a public log",
    "describe": "say what is in a dataset and what is wrong with it, and suggest a configuration",
    "synthesize": "make sample logs with planted truth",
    "plan": "does a model fit a cluster that is not there yet?",
    "report": "write a run as one HTML file",
    "study": "compare methods on backbones over seeds, paired",
    "new": "write a starter configuration into a folder",
    "verify": "check every byte of a run's checkpoints",
    "doctor": "say what does not fit together here, and the command that fixes it",
}
MANY_RANKS = (
    "train",
    "evaluate",
    "predict",
    "compare",
    "recalibrate",
    "relatedness",
)  # what torchrun may start; launch/ has a script for each


def main() -> NoReturn:
    """Run the verb that the command line names, and end the process with its exit code."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    # The doctor looks at what a launcher has left in the environment, so nothing is removed there.
    world_of = World.from_env if verb in MANY_RANKS else World if verb == "doctor" else World.alone
    run(partial(_run_verb, verb), world_of)


def _run_verb(verb: str) -> int | None:
    from dist_mtl import __version__

    if verb in ("-h", "--help", "help"):
        print(_help())
        return None
    if verb == "--version":
        print(f"dist_mtl {__version__}")
        return None
    if verb not in VERBS:
        raise ConfigError(f"dist-mtl {verb}: there is no such verb; {nearest(verb, VERBS) or 'see dist-mtl --help'}")
    command = os.path.basename(sys.argv[0])
    program = "python -m dist_mtl" if command == "__main__.py" else command
    sys.argv = [f"{program} {verb}", *sys.argv[2:]]
    if verb == "doctor":  # the other file has statements that an old Python cannot read
        from dist_mtl.cli.doctor import main as main_of_verb
    else:
        from dist_mtl.cli.verbs import main_of

        main_of_verb = main_of(verb)
    return main_of_verb()


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {line}" for verb, line in VERBS.items()]
    return "\n".join(["usage: dist-mtl VERB ...", "", *lines, "", "dist-mtl VERB --help has the options of a verb."])
