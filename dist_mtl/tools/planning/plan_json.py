"""An outlook as the plan file that training loads, and back as far as it is compared."""

from dist_mtl.config import plan_file
from dist_mtl.config.plan_file import PlannedRank
from dist_mtl.errors import InternalError
from dist_mtl.parallel.plan import KERNELS, TORCHREC_NAMES
from dist_mtl.parallel.plan_io import file_of_plan
from dist_mtl.tools.planning.device import GB
from dist_mtl.tools.planning.diff import Side
from dist_mtl.tools.planning.estimate import Outlook, fabric_of

# TorchRec's words for those of a plan file.
KERNEL_NAMES = KERNELS | {"dense": "dense"}


def write_plan(found: Outlook, path: str) -> None:
    """Write the plan, what each rank needs, and the estimated step. Raises ConfigError if the disk refuses."""
    if found.sharding is None:
        raise InternalError("there is no plan to write: the tables were only spread")
    plan = file_of_plan(found.sharding, found.config.all_tables, fabric_of(found.config, found.cluster))
    told = tuple(PlannedRank(hbm=round(one.total("hbm")), host=round(one.total("host"))) for one in found.memory)
    plan_file.write_plan(plan.model_copy(update={"per_rank": told, "step_ms": found.seconds * 1e3}), path)


def read_plan(path: str) -> Side:
    """What a plan file has to compare. Raises ConfigError if it is none."""
    plan = plan_file.read_plan(path)
    rows = [
        {
            "table": table.table,
            "sharding": TORCHREC_NAMES[table.sharding],
            "kernel": KERNEL_NAMES[table.kernel],
            "shards": [{"rank": s.rank, "offset": list(s.offset), "size": list(s.size)} for s in table.shards],
        }
        for table in plan.tables
    ]
    told = ("hbm", "host") if plan.per_rank else ()
    most = {place: max(getattr(one, place) for one in plan.per_rank) / GB for place in told}
    return Side(rows, most, plan.step_ms)
