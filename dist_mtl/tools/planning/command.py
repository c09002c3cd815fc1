"""What dist-mtl plan does: tell an outlook, compare it, keep it for training."""

from pathlib import Path

from dist_mtl.config import Config
from dist_mtl.config.file import load
from dist_mtl.errors import ConfigError
from dist_mtl.terminal.console import Console
from dist_mtl.tools.planning import terminal
from dist_mtl.tools.planning.device import Cluster
from dist_mtl.tools.planning.diff import Side, differences, side_of
from dist_mtl.tools.planning.estimate import Outlook, outlook
from dist_mtl.tools.planning.plan_json import read_plan, write_plan
from dist_mtl.tools.planning.what_if import each, nearest


def show(
    config: Config, cluster: Cluster, bag_ids: float | None, other: str | None, path: str | None = None
) -> Outlook:
    """Print what to expect of `config` on `cluster`, beside `other` if there is one; return it, fitting or not.

    One that fits is written to `path` first.
    """
    console = Console()
    there = None if other is None else _other(other, cluster, bag_ids)
    found = outlook(config, cluster, bag_ids)
    written = save(found, path) if path is not None and found.fits else None
    terminal.show(found, console)
    if not found.fits:
        terminal.show_knobs(found, each(found, bag_ids), *nearest(found, bag_ids), console)
    if there is not None:
        terminal.show_differences(differences(side_of(found), there, other), console)
    if written is not None:
        console.print(written, soft_wrap=True)
    return found


def save(found: Outlook, path: str) -> str:
    """Write the plan where training finds it. Returns a line that says how to use it."""
    write_plan(found, path)
    return f"plan in {path}; train by it: --set=sharding.plan={path}"


def _other(path: str, cluster: Cluster, bag_ids: float | None) -> Side:
    """The other plan: a file of --json, or what a configuration has on the same cluster."""
    if not Path(path).exists():
        raise ConfigError(f"--diff {path}: there is no such file; name a configuration, or a plan that --json wrote")
    if path.endswith(".json"):
        return read_plan(path)
    return side_of(outlook(load(path), cluster, bag_ids))
