"""MovieLens becomes datasets, of the raw files or of the derived one; files that are not it are told."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dist_mtl.config.file import load
from dist_mtl.errors import DataError
from dist_mtl.tools.convert import movielens
from tests.support.samples import rows_of

ROOT = Path(__file__).parents[2]
ML100K = ROOT.parent / "shared/data/ml100k"
needs_movielens = pytest.mark.skipif(not ML100K.is_dir(), reason="no ../shared/data/ml100k (not ours to ship)")

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"


def raw_movielens(folder: Path, films: int = 40) -> Path:
    """40 users, film f rated by user u where (u * f) % 5 is 1, four to five stars."""
    folder.mkdir()
    pairs = [(u, f) for u in range(1, 41) for f in range(1, films + 1) if u * f % 5 == 1]
    lines = [f"{u}\t{f}\t{4 + (u + f) % 2}\t{874724710 + 86400 * k}\n" for k, (u, f) in enumerate(pairs)]
    (folder / "ml-100k.inter").write_text(INTER + "".join(lines))
    genres = ["Drama", 'Sci-Fi "War', "Children's Comedy"]  # a lone quote must not swallow the lines after it
    years = [str(1950 + f) if f > 1 else "unknown" for f in range(1, films + 1)]
    (folder / "ml-100k.item").write_text(
        ITEM + "".join(f"{f}\tFilm {f}\t{years[f - 1]}\t{genres[f % 3]}\n" for f in range(1, films + 1))
    )
    (folder / "ml-100k.user").write_text(USER + "".join(f"{u}\t{20 + u}\tM\twriter\tT8H1N\n" for u in range(1, 41)))
    return folder


def test_raw_movielens_becomes_impressions(tmp_path: Path) -> None:
    train, test = movielens.convert(raw_movielens(tmp_path / "raw"), tmp_path / "out").values()
    rows = pa.concat_tables([rows_of(tmp_path / "out/train"), rows_of(tmp_path / "out/test")]).to_pylist()
    rated = {(r["user_id"], r["item_id"]) for r in rows if r["click"]}
    assert rated == {(u, f) for u in range(1, 41) for f in range(1, 41) if u * f % 5 == 1}
    assert len(rows) == train.num_rows + test.num_rows == 10 * len(rated)
    assert not any((r["user_id"], r["item_id"]) in rated for r in rows if not r["click"])
    for r in rows:
        assert r["conversion"] == (r["click"] and (r["user_id"] + r["item_id"]) % 2)
        assert r["genres"] == (["Drama"], ["Sci-Fi", '"War'], ["Children's", "Comedy"])[r["item_id"] % 3]
        assert r["year"] == (1950 + r["item_id"] if r["item_id"] > 1 else 0) and r["age"] == 20 + r["user_id"]
        assert r["zip"] == "T8" and r["hour"] == 3  # 874724710 is Saturday, 1997-09-20, 03:05:10 UTC
    assert min(r["weekday"] for r in rows if r["time"] == 874724710) == 5
    again = movielens.convert(tmp_path / "raw", tmp_path / "again")["train"]
    other = movielens.convert(tmp_path / "raw", tmp_path / "other", seed=8)["train"]
    assert again.digest == train.digest != other.digest


def test_movielens_non_clicks_are_thinned_where_a_model_is_trained_and_nowhere_else(tmp_path: Path) -> None:
    whole = movielens.convert(raw_movielens(tmp_path / "raw"), tmp_path / "out", validation=True)
    thin = movielens.convert(tmp_path / "raw", tmp_path / "thin", validation=True, kept=0.3)
    assert all(thin[name].digest == whole[name].digest for name in ("test", "validation"))
    for name in ("train", "fit"):
        clicks, kept_clicks = (
            [row["click"] for row in rows_of(tmp_path / folder / name).to_pylist()] for folder in ("out", "thin")
        )
        share = kept_clicks.count(0) / clicks.count(0)
        print(f"{name}: {share:.3f} of the non-clicks kept")
        assert kept_clicks.count(1) == clicks.count(1) and share == pytest.approx(0.3, abs=0.06)


def test_movielens_train_rows_are_split_again_for_validation(tmp_path: Path) -> None:
    """Each user's rows stand in four folders in order of time: fit, validation, and after both of them test."""
    made = movielens.convert(raw_movielens(tmp_path / "raw"), tmp_path / "out", validation=True)
    plain = movielens.convert(tmp_path / "raw", tmp_path / "plain")
    assert list(made) == ["train", "test", "fit", "validation"] and list(plain) == ["train", "test"]
    assert all(made[name].digest == plain[name].digest for name in plain)
    rows = {name: rows_of(tmp_path / "out" / name).to_pylist() for name in made}
    print({name: len(found) for name, found in rows.items()})

    def key(row: dict) -> tuple:
        return row["user_id"], row["time"], row["item_id"]

    assert sorted(map(key, rows["fit"] + rows["validation"])) == sorted(map(key, rows["train"]))
    for user in {row["user_id"] for row in rows["train"]}:
        fit, validation, test = (
            [r["time"] for r in rows[n] if r["user_id"] == user] for n in ("fit", "validation", "test")
        )
        assert max(fit) <= min(validation) <= max(validation) <= min(test)
        assert len(validation) == (len(fit) + len(validation)) // 5
    with pytest.raises(DataError, match="plain/train: exists already"):
        movielens.convert(tmp_path / "raw", tmp_path / "plain", validation=True)
    assert not (tmp_path / "plain/fit").exists()


def test_the_last_fifth_of_each_user_is_the_test_split() -> None:
    users = np.array([1, 2] * 10 + [3])
    times = np.array([*range(20, 0, -1), 5])
    late = movielens.last_rows(users, times, 0.2)
    assert np.flatnonzero(late).tolist() == [0, 1, 2, 3]  # the two latest rows of users 1 and 2; a lone row is train
    same = movielens.last_rows(np.zeros(10, int), np.zeros(10, int), 0.2)
    assert np.flatnonzero(same).tolist() == [8, 9]


def test_movielens_input_that_is_not_there_or_not_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file; SRC is a folder with"):
        movielens.convert(tmp_path, tmp_path / "out")
    raw = raw_movielens(tmp_path / "raw")
    (raw / "ml-100k.user").write_text(USER + "1\t20\tM\twriter\t1\n")
    with pytest.raises(DataError, match="user_id 2 has a rating, but no line"):
        movielens.convert(raw, tmp_path / "out")
    (raw / "ml-100k.item").write_text("item_id:token\n1\n")
    with pytest.raises(DataError, match="no column release_year, class"):
        movielens.convert(raw, tmp_path / "out")


@needs_movielens
def test_the_raw_files_give_the_derived_clicks() -> None:
    """Reading both ways takes seconds, so the ratings are compared and nothing is written."""
    derived = movielens.read_derived(ML100K / movielens.DERIVED)
    clicks = derived.filter(pc.equal(derived["click"], 1))
    clicks = clicks.sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    ratings = np.loadtxt(ML100K / "ml-100k.inter", skiprows=1, dtype=np.int64)
    ratings = ratings[np.lexsort((ratings[:, 1], ratings[:, 0]))]
    assert derived.num_rows == 1_000_000 and clicks.num_rows == len(ratings) == 100_000
    assert np.array_equal(clicks["item_id"].to_numpy(), ratings[:, 1])
    assert np.array_equal(clicks["conversion"].to_numpy(), ratings[:, 2] == 5)
    config = load(ROOT / "configs/movielens.toml")
    for name in ("user", "item"):
        assert derived[f"{name}_id"].to_numpy().max() == config.tables[name].rows - 1
    late = movielens.last_rows(derived["user_id"].to_numpy(), derived["time"].to_numpy(), 0.2)
    assert late.mean() == pytest.approx(0.2, abs=0.001)


def test_the_movielens_configuration_reads_what_the_converter_writes(tmp_path: Path) -> None:
    made = movielens.convert(raw_movielens(tmp_path / "raw"), tmp_path / "out")["train"]
    config = load(ROOT / "configs/movielens.toml")
    assert {feature.column or name for name, feature in config.features.items()} <= made.schema.keys()
