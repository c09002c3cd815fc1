"""Train a model: dist-mtl train [CONFIG] [--set=a.b=1 ...]. The same under torchrun and TorchX."""

from dist_mtl.cli.arguments import config_arguments, config_of
from dist_mtl.terminal.wording import plural


def main() -> None:
    parser = config_arguments(__doc__)
    told = "from the newest commit if there is one (auto), never from one (off), never without one (required)"
    parser.add_argument("--resume", choices=("auto", "off", "required"), help=f"begin {told}: run.resume")
    arguments = parser.parse_args()
    if arguments.resume:
        arguments.overrides.append(f"run.resume='{arguments.resume}'")
    config = config_of(arguments)
    from dist_mtl.parallel.world import World
    from dist_mtl.scoring.table import print_table  # after the configuration: importing torch takes seconds
    from dist_mtl.train import train

    evaluation = train(config)
    if evaluation is not None and World.from_env().is_first:
        print_table(evaluation, f"{config.run.dir}: {config.data.test}, {plural(evaluation.rows, 'row')}")
