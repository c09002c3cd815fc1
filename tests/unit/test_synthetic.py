"""Sample logs: pure shards, calibrated rates, planted structure, a known ceiling."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from dist_mtl.config import SampleLogs
from dist_mtl.config.file import load
from dist_mtl.data.files import manifest
from dist_mtl.data.hashing import random_bits
from dist_mtl.data.synthetic import draws, shop
from dist_mtl.data.synthetic.logs import SHARD_ROWS, BenchmarkLogs, Ceiling, generate, write_logs, write_sample
from dist_mtl.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
SPEC = SampleLogs(train_rows=3_000, test_rows=2_000, ctr=0.06, cvr=0.12)
WIDE = BenchmarkLogs(ids=4, rows_per_table=1_000, dense=5)


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    table = pa.concat_tables(generate(SPEC, 2 * SHARD_ROWS, "train"))
    return {name: table.column(name).to_numpy() for name in table.column_names if name != "history"}


def words(name: str) -> np.ndarray:
    return random_bits(200_000, "test", name)


@pytest.mark.parametrize("spec", [SPEC, WIDE], ids=["shop", "benchmark"])
def test_rows_do_not_depend_on_how_many_are_made_or_from_where(spec: SampleLogs | BenchmarkLogs) -> None:
    whole = pa.concat_tables(generate(spec, SHARD_ROWS + 500, "train"))
    part = pa.concat_tables(generate(spec, 900, "train", first_row=SHARD_ROWS - 400))
    assert part.equals(whole.slice(SHARD_ROWS - 400, 900))


def test_splits_and_seeds_differ_and_share_the_world() -> None:
    train, test = (next(generate(SPEC, 1_000, split)) for split in ("train", "test"))
    other = next(generate(SPEC.model_copy(update={"seed": 8}), 1_000, "train"))
    assert not train.column("user_id").equals(test.column("user_id"))
    assert not train.column("user_id").equals(other.column("user_id"))
    ages = [dict(zip(t["user_id"].to_pylist(), t["age"].to_pylist(), strict=True)) for t in (train, test)]
    both = ages[0].keys() & ages[1].keys()
    assert both and all(ages[0][user] == ages[1][user] for user in both)
    assert max(train.column("day").to_pylist()) < min(test.column("day").to_pylist())


def test_the_stream_is_pinned() -> None:
    """The first rows of the default seed, so that a change of the generator is a decision and not an accident."""
    first = next(generate(SPEC, 3, "train"))
    assert first.column("user_id").to_pylist() == [1357, 11196, 16195]
    assert first.column("item_id").to_pylist() == [353, 1535, 1458]
    history = [[], [18, 0, 14, 5, 5, 14, 14, 5, 5], [17, 14, 13, 1, 17, 19, 14, 1, 1, 1, 8]]
    assert first.column("history").to_pylist() == history
    whole, digest = next(generate(SPEC, SHARD_ROWS, "train")), hashlib.sha256()
    for name in whole.column_names[: whole.column_names.index("price")]:
        digest.update(whole.column(name).to_numpy().astype("<i8").tobytes())
    digest.update(whole.column("history").combine_chunks().flatten().to_numpy().astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "4484e388caa57530"


def test_rates_are_those_asked_for_and_conversions_are_clicks(rows: dict[str, np.ndarray]) -> None:
    click, conversion = rows["click"] == 1, rows["conversion"] == 1
    assert not (conversion & ~click).any()
    assert rows["true_ctr"].mean() == pytest.approx(0.06, rel=0.02)
    assert rows["true_ctcvr"].mean() == pytest.approx(0.06 * 0.12, rel=0.03)
    assert click.mean() == pytest.approx(0.06, rel=0.05)  # 7,864 clicks: one sigma is 1.1 %
    assert conversion.sum() / click.sum() == pytest.approx(0.12, rel=0.12)
    assert np.allclose(rows["true_ctr"] * rows["true_cvr"], rows["true_ctcvr"], rtol=1e-5)


def test_labels_follow_the_true_probabilities(rows: dict[str, np.ndarray]) -> None:
    order = np.argsort(rows["true_ctr"])
    for part in np.array_split(order, 8):
        expected = rows["true_ctr"][part].sum()
        assert rows["click"][part].sum() == pytest.approx(expected, abs=float(4.5 * expected**0.5))


def test_ceilings_are_realistic_for_several_seeds() -> None:
    for seed in (1, 7):
        ceiling = Ceiling()
        for table in generate(SPEC.model_copy(update={"seed": seed}), 2 * SHARD_ROWS, "test"):
            ceiling.add(table)
        auc = ceiling.auc()
        assert 0.74 < auc["ctr"] < 0.82 and 0.76 < auc["cvr"] < 0.87 and 0.86 < auc["ctcvr"] < 0.95


def test_the_relatedness_of_the_tasks_differs_by_segment() -> None:
    world = shop.world(SPEC)
    sample = shop.impressions(SPEC, world, "train", 0)
    mixed = sample.rho * sample.interest + np.sqrt(1 - sample.rho**2) * sample.purchase
    found = [np.corrcoef(sample.interest[sample.rho == r], mixed[sample.rho == r])[0, 1] for r in shop.RHO]
    assert np.all(np.diff(found) > 0)
    assert found[0] < 0.1 < 0.8 < found[-1]  # interest and purchase share the discount and the price: rho + about 0.2


def test_accidental_clicks_are_a_fifth_and_never_convert() -> None:
    world = shop.world(SPEC)
    sample = shop.impressions(SPEC, world, "train", 0)
    ctr, ctcvr = shop.probabilities(SPEC, world, sample)
    interest_only = replace(sample, accident=np.zeros(SHARD_ROWS))
    real, same = shop.probabilities(SPEC, world, interest_only)
    assert 1 - real.mean() / ctr.mean() == pytest.approx(0.2, abs=0.03)
    assert np.array_equal(ctcvr, same)


def test_columns_are_what_the_quickstart_reads(rows: dict[str, np.ndarray]) -> None:
    table = next(generate(SPEC, 20_000, "train"))
    lengths = np.diff(table.column("history").combine_chunks().offsets.to_numpy())
    assert lengths.min() == 0 and lengths.max() == 16 and 0.03 < (lengths == 0).mean() < 0.1
    assert 0.01 < table.column("rating").null_count / 20_000 < 0.06
    price = rows["price"]
    assert price.max() > 5 * price.std() + price.mean()  # heavy-tailed
    config = load(ROOT / "configs/quickstart.toml")
    for name, feature in config.features.items():
        column = feature.column or name
        assert column in table.column_names
        if getattr(feature, "policy", None) == "reject":
            values = table.column(column).combine_chunks()
            values = values.flatten() if pa.types.is_list(values.type) else values
            assert 0 <= values.to_numpy().min() and values.to_numpy().max() < config.tables[config.table_of(name)].rows


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ConfigError, match="accidental"):
        next(generate(SPEC.model_copy(update={"cvr": 0.95}), 10, "train"))


@pytest.mark.parametrize("scores", ["smooth", "tied"])
def test_ceiling_equals_an_exact_auc(scores: str) -> None:
    rng = np.random.default_rng(0)
    ctr = rng.beta(1, 15, 50_000).astype(np.float32)
    if scores == "tied":
        ctr = (np.floor(ctr * 16) / 64 + 1e-3).astype(np.float32)
    cvr = rng.beta(1, 4, 50_000).astype(np.float32)
    click = rng.random(50_000) < ctr
    conversion = click & (rng.random(50_000) < cvr)
    ceiling = Ceiling()
    for part in np.array_split(np.arange(50_000), 3):
        ceiling.add(
            pa.table(
                {
                    "click": click[part].astype(np.int8),
                    "conversion": conversion[part].astype(np.int8),
                    "true_ctr": ctr[part],
                    "true_cvr": cvr[part],
                    "true_ctcvr": ctr[part] * cvr[part],
                }
            )
        )
    exact = {
        "ctr": roc_auc_score(click, ctr),
        "cvr": roc_auc_score(conversion[click], cvr[click]),
        "ctcvr": roc_auc_score(conversion, ctr * cvr),
    }
    assert ceiling.auc() == pytest.approx(exact, abs=1e-5)


def test_write_sample_publishes_both_splits_with_their_ceiling(tmp_path: Path) -> None:
    train, test = tmp_path / "logs/train", tmp_path / "logs/test"
    write_sample(SPEC, train, test)
    for folder, rows in ((train, 3_000), (test, 2_000)):
        listed = manifest.read(folder)
        assert listed.num_rows == rows and set(listed.ceiling) == {"ctr", "cvr", "ctcvr"}
    stamp = (train / manifest.NAME).stat().st_mtime_ns
    write_sample(SPEC, train, test)  # there already: accepted, untouched
    assert (train / manifest.NAME).stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="never overwritten"):
        write_logs(SPEC, train, 1_000, "train")


def test_write_sample_accepts_that_another_process_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_mtl.data.synthetic import logs

    write = logs.write_dataset

    def slower(folder: Path, *rest: object) -> manifest.Manifest:
        write(folder, generate(SPEC, 2_500, "train"), {})  # the other process, after our check
        return write(folder, *rest)

    monkeypatch.setattr(logs, "write_dataset", slower)
    write_sample(SPEC, tmp_path / "train", None)
    assert manifest.read(tmp_path / "train").num_rows == 2_500
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_write_sample_does_not_accept_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write_sample(SPEC, tmp_path / "train", None)


def test_too_few_rows_for_a_ceiling_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="AUC of"):
        write_logs(SPEC, tmp_path / "train", 3, "train")
    assert list(tmp_path.iterdir()) == []


def test_popularity_has_the_measured_shares() -> None:
    """KuaiRand-27K: the top 0.1 % of the items take 14.7 % of the impressions, 1 % 44.1 %, 10 % 79.9 %."""
    ranks = draws.popular(draws.uniform(words("popular")), 1_000_000)
    assert ranks.min() == 0 and ranks.max() < 1_000_000
    for share, impressions in ((0.001, 0.147), (0.01, 0.441), (0.1, 0.799)):
        assert (ranks < share * 1e6).mean() == pytest.approx(impressions, abs=0.02)


def test_activity_is_log_normal() -> None:
    """Users' impressions: P90 / median is exp(1.28 sigma) = 3.4."""
    counts = np.sort(np.bincount(draws.active(draws.uniform(words("active")), 1_000), minlength=1_000))
    assert counts[899] / counts[499] == pytest.approx(3.42, rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 7, 1_000, 65_536, 99_991])
def test_scatter_is_a_bijection(count: int) -> None:
    assert np.array_equal(np.sort(draws.scatter(np.arange(count), count, 7, "x")), np.arange(count))


def test_draws_have_their_distributions() -> None:
    z, u, k = draws.normal(words("z")), draws.uniform(words("u")), draws.below(words("k"), 7)
    assert z.mean() == pytest.approx(0, abs=0.01) and z.std() == pytest.approx(1, abs=0.01)
    assert 0 <= u.min() and u.max() < 1 and u.mean() == pytest.approx(0.5, abs=0.005)
    assert np.bincount(k).tolist() == pytest.approx([200_000 / 7] * 7, rel=0.03)


def test_the_script_writes_both_splits_and_prints_the_ceiling(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dist_mtl", "synthesize", tmp_path / "out", "--rows", "2e3", "--test-rows", "2000"]
    command += ["--kind", "benchmark", "--ids", "3", "--dense", "2", "--rows-per-table", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "CTCVR" in done.stdout and "2,000" in done.stdout
    schema = pq.read_schema(tmp_path / "out/test/part-00000.parquet")
    assert schema.names[:6] == ["c0", "c1", "c2", "d0", "d1", "click"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert again.returncode == 65 and "never overwritten" in again.stderr and "Traceback" not in again.stderr


def test_segments_convert_alike_where_that_is_asked_for() -> None:
    """And only there: rho must not be readable from the rate."""
    rates = {}
    for equal in (False, True):
        spec = SPEC.model_copy(update={"equal_cvr": equal})
        table = pa.concat_tables(generate(spec, 4 * SHARD_ROWS, "train"))
        segment, ctr, ctcvr = (table.column(name).to_numpy() for name in ("segment", "true_ctr", "true_ctcvr"))
        rates[equal] = np.array([ctcvr[segment == s].sum() / ctr[segment == s].sum() for s in range(len(shop.RHO))])
        print(f"equal_cvr={equal}: CVR by segment {np.round(rates[equal], 4)}")
        assert ctcvr.sum() / ctr.sum() == pytest.approx(SPEC.cvr, rel=0.03)
    assert np.ptp(rates[True]) < 0.01 < 0.05 < np.ptp(rates[False])


def test_clickbait_makes_accidents_mislead_a_ranking_by_clicks() -> None:
    """Evenly spread they hardly do: then no ranking loss has anything to mend."""
    lost = {}
    for clickbait in (0.0, 1.0):
        spec = SPEC.model_copy(update={"accidents": 0.3, "clickbait": clickbait})
        world = shop.world(spec)
        rows = shop.impressions(spec, world, "test", 0)
        noisy, real = (shop.probabilities(spec, world, rows, accidents)[0] for accidents in (True, False))
        clicked = draws.uniform(random_bits(SHARD_ROWS, "a click of interest")) < real
        lost[clickbait] = roc_auc_score(clicked, real) - roc_auc_score(clicked, noisy)
    print({clickbait: f"{auc:.4f}" for clickbait, auc in lost.items()})
    assert lost[0.0] < 0.01 < 0.02 < lost[1.0]


def test_accidents_are_as_many_as_asked_for_and_may_be_kept_out_of_the_test() -> None:
    spec = SPEC.model_copy(update={"accidents": 0.3, "accidents_in_test": False})
    train, test = (pa.concat_tables(generate(spec, 2 * SHARD_ROWS, split)) for split in ("train", "test"))
    ctr = [table.column("true_ctr").to_numpy().mean() for table in (train, test)]
    assert ctr[0] == pytest.approx(0.06, rel=0.02) and ctr[1] == pytest.approx(0.06 * 0.7, rel=0.05)
    bait = pa.concat_tables(generate(spec.model_copy(update={"clickbait": 1.0}), 2 * SHARD_ROWS, "test"))
    assert bait.column("true_ctr").to_numpy().mean() == pytest.approx(0.06 * 0.7, rel=0.05)
    none = pa.concat_tables(generate(SPEC.model_copy(update={"accidents": 0.0}), SHARD_ROWS, "train"))
    assert none.column("true_ctr").to_numpy().mean() == pytest.approx(0.06, rel=0.03)
