"""`dist-mtl evaluate` as a script, for torchrun, TorchX and Slurm: the arguments are the same."""

from dist_mtl.cli.arguments import run
from dist_mtl.cli.evaluate import main

if __name__ == "__main__":
    run(main)
