"""Train a model: python launch/train.py [CONFIG] [--set=a.b=1 ...]. The same under torchrun and TorchX."""

from dist_mtl.cli import config_arguments, config_of, run


def main() -> None:
    config = config_of(config_arguments(__doc__).parse_args())
    from dist_mtl.observe import print_table  # after the configuration: importing torch takes seconds
    from dist_mtl.parallel.world import World
    from dist_mtl.train import train

    evaluation = train(config)
    if evaluation is not None and World.from_env().is_first:
        print_table(evaluation, f"{config.run.dir}: {config.data.test}, {evaluation.rows:,} rows")


if __name__ == "__main__":
    run(main)
