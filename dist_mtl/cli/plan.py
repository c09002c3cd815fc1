"""Does a model fit a cluster that is not there yet? dist-mtl plan CONFIG --nodes 2 --gpus 8 --device h100

Needs no GPU and no data, and allocates no table. Tells the plan, what fills each rank, an estimate of a step, and, if
it does not fit, what would make it fit (exit code 64). --json OUT keeps the plan for training: sharding.plan = "OUT".
"""

import argparse

from dist_mtl.cli.arguments import Parser, add_overrides, config_of, count
from dist_mtl.errors import ConfigError
from dist_mtl.tools.planning.device import Cluster, known, load_profile


def main() -> None:
    arguments = parser().parse_args()
    config = config_of(arguments)
    name, profile = load_profile(arguments.device, arguments.profile, arguments.hbm_gb, arguments.host_gb)
    cluster = Cluster(name, profile, arguments.nodes, arguments.gpus or profile.gpus_per_node)

    from dist_mtl.tools.planning import command  # after the arguments: importing torch takes seconds

    found = command.show(config, cluster, arguments.bag_ids, arguments.diff, arguments.json)
    if not found.fits:
        raise ConfigError(f"{arguments.config} does not fit {cluster.told}: {found.reason}")


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="TOML file")
    add_overrides(parser, "e.g. --set=optim.embedding.kind=adagrad")
    parser.add_argument("--nodes", type=count, default=1, help="nodes (default 1)")
    parser.add_argument("--gpus", type=count, help="GPUs of a node, on CPU its ranks (default: the profile's)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--device", default="h100", help=f"one of {', '.join(known())} (default h100)")
    kind.add_argument(
        "--profile", metavar="FILE", help="a device of your own, a TOML file as dist_mtl/tools/planning/profiles has"
    )
    parser.add_argument("--hbm-gb", type=positive, metavar="GB", help="memory of a GPU, instead of the profile's")
    parser.add_argument(
        "--host-gb", type=positive, metavar="GB", help="host memory of a rank, instead of the profile's"
    )
    parser.add_argument("--bag-ids", type=positive, metavar="N", help="ids of a list, on average")
    parser.add_argument("--diff", metavar="OTHER", help="a configuration or a plan's JSON to compare with")
    parser.add_argument("--json", metavar="OUT", help="also write the plan, for sharding.plan")
    return parser


def positive(text: str) -> float:
    """A number above 0, for `type=`."""
    number = float(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number
