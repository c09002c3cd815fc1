"""`dist-mtl recalibrate` on real ranks: what is fitted, stored and applied, and which rows are not for it."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.checkpoint import store
from dist_mtl.checkpoint.format import read_recalibration
from dist_mtl.data.files.manifest import read as manifest_of
from dist_mtl.data.files.writer import write_dataset
from tests.support import samples
from tests.support.harness import Cluster, Exit, run_script
from tests.support.score_workers import evaluated, recalibrated, whole

TASKS = ("ctr", "cvr", "ctcvr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 2 ranks."""
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    samples.write_logs(folder / "test", 700, seed=1)
    Cluster(2).run(whole, samples.config(folder, f"data.test='{folder / 'test'}'", "train.epochs=2"))
    return folder


def commit(folder: Path) -> Path:
    return store.find(folder / "run", "best")


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_recalibration_is_fitted_stored_and_applied(folder: Path, method: str) -> None:
    samples.write_logs(folder / f"held-out-{method}", 4_000, seed=3)
    results = Cluster(2).run(recalibrated, str(folder / "run"), str(folder / f"held-out-{method}"), method)
    assert results[0] == results[1]
    before, after = results[0]
    for task in TASKS:
        assert after.tasks[task].pcoc == pytest.approx(1, abs=0.01)
        assert after.tasks[task].logloss <= before.tasks[task].logloss
        assert after.tasks[task].auc.value == pytest.approx(before.tasks[task].auc.value, abs=1e-3)
    [applied] = Cluster(1).run(evaluated, str(folder / "run"), str(folder / f"held-out-{method}"))
    [raw] = Cluster(1).run(evaluated, str(folder / "run"), str(folder / f"held-out-{method}"), "best", (), True)
    assert applied.tasks["ctcvr"].pcoc == pytest.approx(1, abs=0.01)
    assert raw.tasks["ctcvr"].pcoc == pytest.approx(before.tasks["ctcvr"].pcoc, rel=1e-4)
    stored = read_recalibration(commit(folder))
    clicks = after.tasks["ctr"].positives
    assert stored.digest == manifest_of(folder / f"held-out-{method}").digest and stored.positives["ctr"] == clicks
    assert stored.method == method and tuple(stored.maps) == TASKS
    (commit(folder) / "recalibration.json").unlink()


def recalibrate(folder: Path, data: str, *options: str, world: int = 2) -> Exit:
    """The first rank's end; the others end alike."""
    first, *rest = run_script(world, "recalibrate.py", folder / "run", folder / data, *options)
    assert {one.code for one in rest} <= {first.code}
    return first


def test_a_task_whose_rows_teach_no_map_stays_as_it_is(folder: Path) -> None:
    """40 conversions are too few for isotonic, none at all for any method; the click's map is fitted all the same."""
    for name, most in (("few", 40), ("none", 0)):
        table = samples.logs(3_000, seed=8)
        conversion = table.column("conversion").to_numpy()
        kept = conversion * (np.cumsum(conversion) <= most)
        write_dataset(folder / name, [table.set_column(10, "conversion", pa.array(kept))])
    done = recalibrate(folder, "few", "--method=isotonic")
    assert done.code == 0 and "after, on the rows that it was fitted to" in done.stdout, done.stderr
    for task in ("cvr", "ctcvr"):
        assert f"warning: {task}: recalibration isotonic: 40 positives in the held-out rows, 50 are" in done.stderr
    fit = read_recalibration(commit(folder))
    assert list(fit.maps) == ["ctr"]
    # The next fit takes the place of this one as a whole; where there is none, this one stays.
    assert recalibrate(folder, "few", "--tasks=ctcvr,cvr").code == 0
    assert list(read_recalibration(commit(folder)).maps) == ["ctcvr", "cvr"]
    failed = recalibrate(folder, "none", "--tasks=cvr")
    assert failed.code == 65 and "cvr: recalibration platt: 0 of" in failed.stderr
    assert "gives no task a map, so nothing was stored" in failed.stderr
    assert list(read_recalibration(commit(folder)).maps) == ["ctcvr", "cvr"]
    unknown = recalibrate(folder, "few", "--tasks=ctr,ctvr", world=1)
    assert unknown.code == 64 and "--tasks ctvr: no task of this run; did you mean" in unknown.stderr
    (commit(folder) / "recalibration.json").unlink()


def test_rows_that_the_run_knows_are_no_held_out_rows(folder: Path) -> None:
    """Training rows are refused in any folder, those of data.test are warned of; a damaged fit is replaced."""
    shutil.copytree(folder / "train", folder / "again")
    done = recalibrate(folder, "again")
    assert done.code == 65 and "was trained on these very rows" in done.stderr and done.stderr.count("error:") == 1
    assert not (commit(folder) / "recalibration.json").exists()
    (commit(folder) / "recalibration.json").write_text("{}")
    done = recalibrate(folder, "test")
    assert done.code == 0 and f"warning: {folder / 'test'} is data.test of" in done.stderr, done.stderr
    (commit(folder) / "recalibration.json").unlink()
