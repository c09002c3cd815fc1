"""Does a run's relatedness follow a planted truth? dist-mtl relatedness RUN [--truth rho]. On any ranks."""

from dist_mtl.cli.arguments import Parser


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("run", help="the folder of a run with a relatedness network (pico or adaftr)")
    parser.add_argument("--truth", default="rho", metavar="COL", help="column with the truth (default: %(default)s)")
    parser.add_argument("--data", help="a dataset folder (default: the run's data.test)")
    parser.add_argument("--commit", default="best", metavar="WHICH", help="best (default), latest, or a step")
    arguments = parser.parse_args()
    from dist_mtl.parallel.world import World
    from dist_mtl.tools.study.relatedness import recover_run  # after the arguments: importing torch takes seconds

    found = recover_run(arguments.run, arguments.truth, arguments.data, arguments.commit)
    if World.from_env().is_first:
        for one in found:
            print(
                f"{one.pair}: Spearman {one.spearman:+.3f} with {arguments.truth} on {one.rows:,} rows; shuffled "
                f"{one.shuffled:+.3f}; standard deviation of r {one.deviation:.4f}"
            )
            for value, mean in one.by_value.items():
                print(f"  {arguments.truth} {value:+.2f}: mean r {mean:.4f}")
