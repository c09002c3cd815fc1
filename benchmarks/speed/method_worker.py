"""One rank of one method: python -m benchmarks.speed.method_worker step|products CONFIG, the configuration as JSON."""

import json
import sys

from benchmarks.speed.contenders import Steps, training_steps
from benchmarks.speed.methods import products
from benchmarks.speed.worker import serve
from dist_mtl.build import open_dataset
from dist_mtl.config.file import parse
from dist_mtl.parallel.runtime import Runtime


def main() -> None:
    what, config = sys.argv[1], parse(json.loads(sys.argv[2]))

    def setup(rt: Runtime) -> Steps:
        if what == "products":
            return products(config, rt)
        return training_steps(config, open_dataset(config.data.train, config, True, rt), rt)

    serve(config.run, setup)


if __name__ == "__main__":
    main()
