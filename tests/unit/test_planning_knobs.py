"""What would make a model fit: knobs whose figures are true."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from dist_mtl.tools.planning.estimate import outlook
from dist_mtl.tools.planning.plan_json import write_plan
from dist_mtl.tools.planning.terminal import show_knobs
from dist_mtl.tools.planning.what_if import HARM, each, nearest, overrides_of, turned
from tests.support.outlooks import LARGE, cluster, config


def test_figures_of_knobs_are_true() -> None:
    """Each knob's overrides, applied by hand and planned again, give what the knob said."""
    start = outlook(config(LARGE, "optim.embedding.kind=adagrad"), cluster())
    tried = each(start, None)
    assert {name for one in tried for name in one.names} == {
        "rowwise_adagrad",
        "fp16",
        "uvm_caching",
        "uvm",
        "half_dim",
    }
    for one in tried:
        again = outlook(turned(start.config, one.overrides), start.cluster)
        assert (again.most("hbm"), again.most("host"), again.fits) == (
            one.found.most("hbm"),
            one.found.most("host"),
            one.found.fits,
        )
        assert again.most("hbm") < start.most("hbm")


def test_the_nearest_fits_fit_and_nothing_nearer_does() -> None:
    start = outlook(config(LARGE), cluster())
    nodes, knobs = nearest(start, None)
    assert nodes.found.fits and nodes.found.cluster.nodes == 2
    assert knobs.names == ("fp16",)
    assert outlook(turned(start.config, knobs.overrides), start.cluster).fits


def test_a_model_too_large_for_any_single_knob_gets_several() -> None:
    start = outlook(
        config({f"t{i}": {"rows": 400_000_000, "dim": 128, "kernel": "fused"} for i in range(8)}), cluster(host_gb=300)
    )
    _, knobs = nearest(start, None)
    assert len(knobs.names) > 1
    alone = [one for one in each(start, None) if one.found.fits]
    assert not alone or min(HARM[one.names[0]] for one in alone) > sum(HARM[name] for name in knobs.names)


def test_knobs_are_searched_without_the_plan_that_the_configuration_names(tmp_path: Path) -> None:
    """A plan is of one model on some ranks: with it every knob would be another model's."""
    tables = {f"t{i}": {"rows": 60_000_000, "dim": 128, "kernel": "fused"} for i in range(8)}  # 61 GB a rank, spread
    path = str(tmp_path / "plan.json")
    write_plan(outlook(config(tables), cluster()), path)
    small = cluster(hbm_gb=70)
    start = outlook(config(tables, f"sharding.plan={path}"), small)
    assert not start.fits and start.sharding is not None
    unnamed = outlook(config(tables), small)
    assert not unnamed.fits
    told = {one.names: one.found.most("hbm") for one in each(start, None)}
    assert told == {(): unnamed.most("hbm")} | {one.names: one.found.most("hbm") for one in each(unnamed, None)}
    assert len(told) > 3
    for here, there in zip(nearest(start, None), nearest(unnamed, None), strict=True):
        assert (here.names, here.found.most("hbm")) == (there.names, there.found.most("hbm"))


def test_a_plan_that_alone_is_in_the_way_is_the_least_harm(tmp_path: Path) -> None:
    """All of the tables on one rank, where spread they fit."""
    tables = {"a": {"rows": 60_000_000, "dim": 128, "kernel": "fused"}}
    path = str(tmp_path / "plan.json")
    write_plan(outlook(config(tables, "tables.a.sharding=table_wise"), cluster()), path)
    start = outlook(config(tables, f"sharding.plan={path}"), cluster(hbm_gb=30))
    _, turned_least = nearest(start, None)
    assert not start.fits
    assert (turned_least.names, turned_least.overrides, turned_least.words) == ((), (), "planned anew")
    console = Console(file=StringIO(), width=200)
    show_knobs(start, [], None, turned_least, console)
    assert f"without sharding.plan = {path}; remove that key" in console.file.getvalue()


def test_row_wise_is_a_knob_of_whole_tables_only() -> None:
    tables = {"a": {"rows": 100, "sharding": "table_wise"}, "b": {"rows": 100}}
    assert overrides_of("row_wise", config(tables), "cuda") == ["tables.a.sharding=row_wise"]
    assert overrides_of("uvm", config(tables), "cpu") == []
