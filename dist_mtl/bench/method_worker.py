"""One rank of one method: python -m dist_mtl.bench.method_worker step|products CONFIG, the configuration as JSON."""

import json
import sys

from dist_mtl.assemble import open_dataset
from dist_mtl.bench.contenders import Steps, training_steps
from dist_mtl.bench.methods import products
from dist_mtl.bench.worker import serve
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
