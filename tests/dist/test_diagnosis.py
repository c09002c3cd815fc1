"""A run that diagnoses itself: the events, the report that is drawn from them, and the relatedness against a column."""

from pathlib import Path

import pyarrow as pa
import pytest

from dist_mtl.config import Config
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import ConfigError
from dist_mtl.tools.report.page import write
from dist_mtl.tools.study.relatedness import Recovery, recover_run
from tests.support import samples
from tests.support.harness import Cluster, events
from tests.support.score_workers import whole

METHODS = (
    "model.alignment={kind='adaftr', weight=0.1, num_negatives=16, probe_stride=4}",
    "model.pairwise={kind='pwiser', weight=0.1}",
)


def settings(folder: Path, run: str, *overrides: str) -> Config:
    return samples.config(folder, f"run.dir='{folder / run}'", f"data.test='{folder / 'test'}'", *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 2_000)
    samples.write_logs(folder / "test", 500, seed=1)
    Cluster(2).run(whole, settings(folder, "run", *METHODS, "diagnose.every=10"))
    Cluster(1).run(whole, settings(folder, "plain"))
    return folder


def test_a_diagnosis_is_told_every_so_many_steps(folder: Path) -> None:
    told = events(folder / "run", "diagnosis")
    assert [e["step"] for e in told] == [10, 20, 30]
    last = told[-1]
    assert set(last) >= {"gates", "gate_entropy", "gradient_cosine", "temperature"}
    assert set(last["gates"]) == {"experts click", "experts conversion"}
    assert all(sum(load) == pytest.approx(1, abs=1e-4) for load in last["gates"].values())
    assert -1 <= last["gradient_cosine"]["click|conversion"] <= 1
    for kind in ("temperature", "relatedness"):
        histogram = last[kind]["click|conversion"]
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert sum(histogram["counts"]) == pytest.approx(1, abs=1e-4)
    losses = events(folder / "run", "step")[-1]["losses"]
    assert list(losses) == ["click", "conversion", "align", "relatedness", "pairwise"]
    assert not events(folder / "plain", "diagnosis")


def test_the_report_shows_it(folder: Path) -> None:
    page = write(str(folder / "run")).read_text()
    for words in ("Temperature", "Relatedness", "experts conversion", "Cosine of the tasks", "click m1"):
        assert words in page, words
    assert "Temperature" not in write(str(folder / "plain")).read_text()


def recovered(run: str) -> list[Recovery]:
    return recover_run(run, "item")


def test_relatedness_against_a_column_on_any_ranks(folder: Path) -> None:
    [alone] = Cluster(1).run(recovered, str(folder / "run"))
    first, second = Cluster(2).run(recovered, str(folder / "run"))
    assert first == second and [one.pair for one in alone] == ["click|conversion"]
    assert first[0].rows == alone[0].rows == 500
    assert first[0].spearman == pytest.approx(alone[0].spearman, abs=1e-3)
    assert abs(alone[0].shuffled) < 0.2 and alone[0].deviation > 0


def refused(run: str) -> str:
    try:
        recover_run(run, "item")
    except ConfigError as error:
        return str(error)
    return ""


def test_a_run_without_a_relatedness_network_is_refused(folder: Path) -> None:
    [message] = Cluster(1).run(refused, str(folder / "plain"))
    assert "model.alignment.kind = 'off' has no relatedness network" in message


def test_ranks_of_few_rows_train_and_are_looked_at(folder: Path) -> None:
    """Sixteen rows a rank and a probe on every 32nd; and a last step of which some ranks have no row."""
    samples.write_logs(folder / "short", 290)
    overrides = ("model.alignment={kind='adaftr', num_negatives=16}", f"data.train='{folder / 'short'}'")
    alone, four = (Cluster(n).run(whole, settings(folder, f"few-{n}", *overrides)) for n in (1, 4))
    assert all(one == four[0] for one in four)
    losses = [[e["loss"] for e in events(folder / f"few-{n}", "step")] for n in (1, 4)]
    assert len(losses[0]) == 5 and losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert alone[0].tasks["ctr"].auc.value == pytest.approx(four[0].tasks["ctr"].auc.value, abs=1e-3)


def test_a_leak_is_seen_whatever_the_ranks(folder: Path) -> None:
    """An exact copy of a label that is rare on each rank and is not on all of them together."""
    table = samples.logs(512, seed=5)
    copy = table.column("conversion").to_numpy().astype(float)
    write_dataset(folder / "leak", [table.set_column(table.column_names.index("price"), "price", pa.array(copy))])
    for world in (1, 4):
        exits = (
            Cluster(world).start(whole, settings(folder, f"leak-{world}", f"data.train='{folder / 'leak'}'")).wait(60)
        )
        assert all("features.price: it tells the label `conversion`" in e.trace for e in exits), exits[0].trace
