"""Is B better than A? dist-mtl compare RUN_A RUN_B [--data FOLDER] [--by user_id]. On any number of ranks.

Scores the data with both runs (RUN/predictions keeps the scores for the next time), then prints what differs between
the runs, and every metric's difference B - A on the same rows with a 95 % interval and a p-value: AUC by DeLong on the
joint predictions; logloss, NE and PCOC from the rows' differences; GAUC, NDCG and MRR over the groups of
metrics.groups. Rows of one user or search are not independent of each other: with --by COL the rows of one value are
taken together (cluster-robust DeLong, variances between clusters). --replicates N takes the AUCs from N bootstrap
replicates over them instead, as it always is where rows weigh differently. P-values of the tasks' AUCs are corrected by
Holm's method as one family, those of the slices as another. Memory: about 230 bytes a row on the first rank.
"""

import argparse

from dist_mtl.cli.arguments import Parser, count


def main() -> None:
    arguments = parser().parse_args()
    from dist_mtl.observability.events import write_json
    from dist_mtl.tools.compare.comparison import compare_runs  # after the arguments: importing torch takes seconds
    from dist_mtl.tools.compare.terminal import print_comparison

    found = compare_runs(
        arguments.a,
        arguments.b,
        data=arguments.data,
        by=arguments.by,
        slices=tuple(name for name in arguments.slices.split(",") if name),
        which=arguments.commit,
        raw=arguments.raw,
        replicates=arguments.replicates,
    )
    if found is not None:
        if arguments.json:
            write_json(arguments.json, found, arguments.a, arguments.b)
        print_comparison(found)


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="RUN_A", help="the folder of a run, e.g. runs/quickstart")
    parser.add_argument("b", metavar="RUN_B", help="the folder of the other one")
    parser.add_argument("--data", metavar="FOLDER", help="a dataset folder (default: the runs' data.test)")
    parser.add_argument(
        "--by",
        metavar="COL",
        help="take rows of one value together (default: the first of metrics.groups; none there, or '': rows count as "
        "independent)",
    )
    parser.add_argument("--slices", default="", metavar="A,B", help="columns besides those of metrics.slices")
    parser.add_argument("--commit", default="best", metavar="WHICH", help="best (default), latest, or a step")
    parser.add_argument("--raw", action="store_true", help="neither correct for sampling nor recalibrate")
    parser.add_argument("--replicates", type=count, metavar="N", help="bootstrap the AUCs with N replicates")
    parser.add_argument("--json", metavar="FILE", help="write everything to a file as well")
    return parser
