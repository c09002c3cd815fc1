"""Score a dataset by a run: dist-mtl predict RUN DATA OUT [--keep user_id,price]. On any number of ranks.

OUT holds row_number, the labels if DATA has them, the columns of the run's metrics, what --keep names, and for every
task logit_TASK and p_TASK; corrected for down-sampled logs and recalibrated, unless --raw.
"""

from dist_mtl.cli.arguments import Parser
from dist_mtl.terminal.wording import plural


def main() -> None:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", help="the folder of a run, e.g. runs/quickstart")
    parser.add_argument("data", help="a dataset folder; its labels may be absent")
    parser.add_argument("out", help="a folder to make")
    parser.add_argument("--keep", default="", metavar="A,B", help="further columns to keep")
    parser.add_argument("--commit", default="best", metavar="WHICH", help="best (default), latest, or a step")
    parser.add_argument("--raw", action="store_true", help="neither correct for sampling nor recalibrate")
    arguments = parser.parse_args()
    from dist_mtl.parallel.world import World
    from dist_mtl.scoring.predict import predict_run  # after the arguments: importing torch takes seconds

    keep = tuple(name for name in arguments.keep.split(",") if name)
    made = predict_run(arguments.run, arguments.data, arguments.out, keep, arguments.commit, arguments.raw)
    if World.from_env().is_first:
        print(f"{arguments.out}: {plural(made.rows, 'row')} scored by step {made.step:,} of {made.run}")
