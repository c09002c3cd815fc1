"""What alignment, ranking and balancing cost a training step: each method beside the plain model.

A method's settings are the defaults of its configuration class, as users get them. The floor of alignment with all
negatives is the time of its own matrix products, which `products` does and nothing else. Legend: R rows of a block, M
candidates, D width.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.speed.compare import Entry, Found, compare, of_shortest, ratios
from benchmarks.speed.contenders import Steps
from benchmarks.speed.memory import MB
from benchmarks.speed.report import logs_of
from dist_mtl.config import Config, NoAlignment
from dist_mtl.config.file import load, parse
from dist_mtl.data.synthetic.logs import write_sample
from dist_mtl.errors import ConfigError, nearest
from dist_mtl.model.infonce import BLOCK, ROWS
from dist_mtl.parallel.runtime import Runtime

BATCH = 8192  # global batch, unless --batch says otherwise
PASSES = 3
OFF = {"alignment": {"kind": "off"}, "pairwise": {"kind": "off"}, "balance": "fixed"}
ALL = {"alignment": {"kind": "adaftr", "negatives": "all"}}
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pwiser": {"pairwise": {"kind": "pwiser"}},
    "fixed": {"alignment": {"kind": "fixed"}},
    "pico": {"alignment": {"kind": "pico"}},
    "adaftr": {"alignment": {"kind": "adaftr"}},
    "adaftr+pwiser": {"alignment": {"kind": "adaftr"}, "pairwise": {"kind": "pwiser"}},
    "adaftr_all": ALL,
    "adaftr_all+pwiser": ALL | {"pairwise": {"kind": "pwiser"}},
    "uncertainty": {"balance": "uncertainty"},
    "pcgrad": {"balance": "pcgrad"},
    "products": ALL,  # those of `adaftr_all`, alone
}


def chosen(only: Sequence[str] | None) -> list[str]:
    """The methods to measure: all, or those of `only`, with what they are compared with. Raises ConfigError."""
    for name in only or ():
        if name not in METHODS:
            raise ConfigError(f"--only {name}: there is no such method; {nearest(name, METHODS) or ', '.join(METHODS)}")
    wanted = set(METHODS if only is None else only) | {"plain"}
    if any(name.startswith("adaftr_all") for name in wanted):
        wanted.add("products")
    return [name for name in METHODS if name in wanted]


def configured(base: Config, name: str, batch: int) -> Config:
    """`base` with one method and no other. Raises ConfigError where the model can not have it."""
    tree = base.model_dump(mode="json")
    tree["model"] |= OFF | METHODS[name]
    tree["train"]["global_batch"] = batch
    return parse(tree, source=f"method {name}")


def products(config: Config, rt: Runtime) -> Steps:
    """The products that `model/contrast.py` can not do without: three a block of rows and ordered pair of tasks."""
    spec, size = config.model.alignment, config.train.global_batch
    if isinstance(spec, NoAlignment):
        raise ConfigError("model.alignment is off: there are no products")
    width = (spec.projection or config.model.tower)[-1]
    draw = torch.Generator().manual_seed(1)
    candidates_MD = torch.nn.functional.normalize(torch.randn(size, width, generator=draw)).to(rt.device)
    mine_BD = candidates_MD.narrow(0, rt.rank * (size // rt.size), size // rt.size).clone()
    rows = min(ROWS[rt.device.type], BLOCK[rt.device.type] // (size * mine_BD.element_size()))
    scratch_RM, d_candidates_MD = mine_BD.new_empty(rows, size), torch.empty_like(candidates_MD)

    def steps(count: int) -> None:
        for _ in range(count):
            d_candidates_MD.zero_()
            for anchor_RD in mine_BD.split(rows):
                for _ in spec.ordered(config.data.labels):
                    cosines_RM = torch.mm(anchor_RD, candidates_MD.T, out=scratch_RM[: len(anchor_RD)])
                    torch.mm(cosines_RM, candidates_MD)
                    d_candidates_MD.addmm_(cosines_RM.T, anchor_RD)

    return steps


def report_methods(options: argparse.Namespace) -> str:
    """Measure and describe. `options.methods`: a TOML file, or "" for the benchmark's model."""
    names, base = chosen(options.only), _base(options)
    batch = options.batch or BATCH
    if batch % options.ranks:
        raise ConfigError(f"--batch {batch}: {options.ranks} ranks can not share it evenly")
    commands = {
        Entry(name, options.ranks, options.threads): _command(configured(base, name, batch), name == "products")
        for name in names
    }
    found = compare(commands, options.rounds, options.steps, options.passes or PASSES)
    lines = [f"{_described(base)}, global batch {batch:,}, ranks x threads {options.ranks} x {options.threads}", ""]
    return "\n".join(lines + tables({entry.name: one for entry, one in found.items()}))


def tables(found: Mapping[str, Found]) -> list[str]:
    """Markdown: time and memory of every method against `plain`, and of all negatives against their products."""
    plain = found["plain"]
    lines = ["| step | ms | times plain | CPU ms | times plain, CPU time | of the shortest rounds | page faults |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, one in found.items():
        parts = [f"{1e3 * statistics.median(one.seconds):.1f}", _spread(one.seconds, plain.seconds)]
        parts += [f"{1e3 * statistics.median(one.cpu_seconds):.1f}", _spread(one.cpu_seconds, plain.cpu_seconds)]
        parts += [f"{of_shortest(one.cpu_seconds, plain.cpu_seconds):.3f}", f"{statistics.median(one.faults):,.0f}"]
        lines.append(f"| {name} | {' | '.join(parts)} |")
    lines += ["", "| peak memory of a process | MB | times plain | MB above plain | MB above its set-up |"]
    lines += ["|---|---|---|---|---|"]
    for name, one in found.items():
        if name != "products":  # no model is in that process
            above = (one.memory.peak - plain.memory.peak) / MB
            grown = f"{above:+.0f} | {one.memory.grown / MB:.0f}"
            times = one.memory.peak / plain.memory.peak
            lines.append(f"| {name} | {one.memory.peak / MB:.0f} | {times:.3f} | {grown} |")
    if all_negatives := [name for name in found if name.startswith("adaftr_all")]:
        lines += ["", "| all negatives: time above plain | ms | times its products | CPU ms | times, CPU time |"]
        lines += ["|---|---|---|---|---|"]
        for name in all_negatives:
            lines.append(f"| {name} | {_over_products(found[name], plain, found['products'])} |")
    return lines


def _over_products(one: Found, plain: Found, floor: Found) -> str:
    parts = []
    for mine, theirs, least in (
        (one.seconds, plain.seconds, floor.seconds),
        (one.cpu_seconds, plain.cpu_seconds, floor.cpu_seconds),
    ):
        above = [a - b for a, b in zip(mine, theirs, strict=True)]
        parts += [f"{1e3 * statistics.median(above):.1f}", _spread(above, least)]
    return " | ".join(parts)


def _spread(numerator: list[float], denominator: list[float]) -> str:
    low, middle, high = ratios(numerator, denominator)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _base(options: argparse.Namespace) -> Config:
    """The configuration whose model is measured; its data is made where it is not there yet."""
    if not options.methods:
        shape, folder = logs_of(options)
        return replace(shape, batch=options.batch or BATCH).config(folder)
    config = load(options.methods)
    if config.data.sample is not None:
        write_sample(config.data.sample, config.data.train, config.data.test)
    return config


def _command(config: Config, only_products: bool) -> list[str]:
    """How to start a process that trains `config`, or does its products only."""
    what = "products" if only_products else "step"
    return [sys.executable, "-m", "benchmarks.speed.method_worker", what, json.dumps(config.model_dump(mode="json"))]


def _described(config: Config) -> str:
    tables = list(config.all_tables.values())
    backbone = " ".join(str(value) for value in config.model.backbone.model_dump(mode="json").values())
    rows = sum(table.rows for table in tables)
    return f"{len(tables)} tables of {rows:,} rows in all, {backbone}, towers {list(config.model.tower)}"
