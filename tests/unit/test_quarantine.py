"""A row group in quarantine is left out of training row by row: no other row moves, whatever the ranks and restarts."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.config import Config
from dist_mtl.data.features.fit import sketch
from dist_mtl.data.files.quarantine import Lost, check_budget, merged, salvage, without
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import EMPTY, Segment, Span
from dist_mtl.errors import DamageError, DataError
from tests.support import samples

ROWS, GROUP = 1_000, 50
SECOND = "part-00001.parquet"
SKIPPED = set(range(600, 650)) | set(range(700, 750))  # row groups 2 and 4 of the second file


def damage(folder: Path, *row_groups: int) -> None:
    """One bit in the column `price` of these row groups of the second file."""

    parsed = pq.read_metadata(folder / SECOND)
    content = bytearray((folder / SECOND).read_bytes())
    column = [parsed.schema.column(i).path for i in range(parsed.num_columns)].index("price")
    for group in row_groups:
        content[parsed.row_group(group).column(column).data_page_offset + 30] ^= 1
    (folder / SECOND).write_bytes(content)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", ROWS, files=2, group_rows=GROUP)
    damage(folder / "train", 2, 4)
    return samples.config(
        folder, "train.global_batch=48", "data.shuffle_rows=200", "data.verify='footer'", "data.quarantine=2"
    )


def steps(dataset: Dataset, world: int, start: int, stop: int, lost: tuple[Lost, ...] = ()) -> tuple[np.ndarray, list]:
    """(steps, slots) numbers of the rows of all ranks, -1 for padding; (step, rank, rows quarantined, newly lost)."""
    ranks, told = [], []
    for rank in range(world):
        rows = []
        for batch in dataset.batches(rank, world, start, stop, lost):
            rows.append(np.where(batch.weight_B.numpy() > 0, batch.dense_BD[:, 0].numpy() * 4096, -1).astype(int))
            told.append((batch.step, rank, batch.quarantined, [one.place for one in batch.lost]))
            empty = rows[-1] < 0
            assert not batch.labels_BT[empty].any() and not batch.dense_BD[empty].any()
        ranks.append(np.stack(rows))
    return np.concatenate(ranks, axis=1), told


@pytest.mark.parametrize("world", [1, 2, 3, 4, 16])
def test_only_its_rows_are_padding(config: Config, world: int) -> None:
    """Two epochs: the same slots as without damage, but for the lost rows; the same on every world size."""
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    stop = 2 * dataset.order.steps_per_epoch
    found, told = steps(dataset, world, 0, stop)
    whole, _ = steps(dataset, 1, 0, stop)
    assert np.array_equal(found, whole)
    trained = np.sort(found[found >= 0])
    assert np.array_equal(trained, np.sort(np.repeat([r for r in range(ROWS) if r not in SKIPPED], 2)))
    assert sum(rows for *_, rows, _ in told) == 2 * len(SKIPPED)
    assert {place for *_, lost in told for place in lost} == {(SECOND, 2), (SECOND, 4)}
    print(f"{world} ranks: {len(trained):,} rows trained, {2 * len(SKIPPED)} skipped of {2 * ROWS:,}")


def test_nothing_else_moves(config: Config, tmp_path: Path) -> None:
    """Against the same files undamaged: each slot has the same row, or the padding that stands for a lost one."""
    samples.write_logs(tmp_path / "train", ROWS, files=2, group_rows=GROUP)
    good = Dataset.open(str(tmp_path / "train"), config, shuffle=True)
    expected, told = steps(good, 1, 0, 21)
    assert not any(lost for *_, lost in told)
    found, _ = steps(Dataset.open(config.data.train, config, shuffle=True), 1, 0, 21)
    assert np.array_equal(found, np.where(np.isin(expected, list(SKIPPED)), -1, expected))


def test_resumed_from_every_step_it_is_the_same(config: Config) -> None:
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    whole, _ = steps(dataset, 1, 0, 42)
    lost = (Lost(SECOND, 2, GROUP), Lost(SECOND, 4, GROUP))
    for start in range(0, 41, 3):
        for known in ((), lost[:1], lost):
            rest, told = steps(dataset, 2, start, 42, known)
            assert np.array_equal(rest, whole[start:])
            assert {p for *_, new in told for p in new} <= {one.place for one in lost} - {one.place for one in known}


def test_what_was_lost_stays_lost(config: Config, tmp_path: Path) -> None:
    """A resumed run skips the row groups of its commit, also where the file was restored meanwhile."""
    samples.write_logs(tmp_path / "train", ROWS, files=2, group_rows=GROUP)
    restored = Dataset.open(str(tmp_path / "train"), config, shuffle=True)
    found, told = steps(restored, 2, 5, 42, (Lost(SECOND, 2, GROUP),))
    assert not set(range(600, 650)) & set(found.ravel()) and set(range(700, 750)) <= set(found.ravel())
    assert not any(lost for *_, lost in told)


def test_off_the_first_one_ends_it(config: Config) -> None:
    dataset = Dataset.open(config.data.train, config.model_copy(update={"data": _without_quarantine(config)}), True)
    with pytest.raises(DamageError, match=f"{SECOND}, row group [24]: damaged.*let training skip some with data.quar"):
        list(dataset.batches(0, 1, 0, 42))


def _without_quarantine(config: Config):  # noqa: ANN202
    return config.data.model_copy(update={"quarantine": 0})


def test_scoring_never_skips(config: Config) -> None:
    dataset = Dataset.open_to_score(config.data.train, config, (), labelled=True)
    assert dataset.quarantine == 0
    with pytest.raises(DamageError, match="row group 2: damaged"):
        list(dataset.batches(0, 1))


def test_a_file_that_is_gone_is_no_damage(config: Config, tmp_path: Path) -> None:
    """Else an unmounted disk would be skipped as well."""
    shutil.copytree(config.data.train, tmp_path / "train")
    dataset = Dataset.open(str(tmp_path / "train"), config, shuffle=True)
    (tmp_path / "train" / SECOND).unlink()
    with pytest.raises(
        DataError, match="can not be read: .*No such file.*; start again once it can be reached"
    ) as told:
        list(dataset.batches(0, 1))
    assert not isinstance(told.value, DamageError)


def test_what_features_ask_of_the_rows_is_asked_of_the_sound_ones(config: Config) -> None:
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    counted = sum(sketch(dataset, ["price", "row"], part, 3)["row"].total for part in range(3))
    assert counted == ROWS - len(SKIPPED)


def test_picks_of_lost_spans_become_empty() -> None:
    """Against a plain loop over 200 random segments."""
    draw = np.random.default_rng(5)
    for _ in range(200):
        sizes = draw.integers(1, 9, draw.integers(1, 8))
        spans = tuple(Span(int(b), 2, 2 + int(n)) for b, n in zip(draw.permutation(len(sizes)), sizes, strict=True))
        names = [(span.block, row) for span in spans for row in range(span.start, span.stop)]
        picks = draw.permutation(np.r_[np.arange(len(names)), np.full(3, EMPTY)])
        picks = picks[: len(picks) // 2 * 2].reshape(-1, 2)
        bad = set(draw.choice(len(sizes), draw.integers(0, len(sizes) + 1), replace=False).tolist())
        sound = tuple(span for span in spans if span.block not in bad)
        left, gone = without(Segment(spans, picks, 0), sound)
        kept = [(span.block, row) for span in left.spans for row in range(span.start, span.stop)]
        for step, (before, after) in enumerate(zip(picks, left.picks, strict=True)):
            was = [None if pick == EMPTY else names[pick] for pick in before]
            now = [None if pick == EMPTY else kept[pick] for pick in after]
            assert now == [None if cell is None or cell[0] in bad else cell for cell in was]
            assert gone[step] == sum(cell is not None and cell[0] in bad for cell in was)


def test_salvage_gives_up_on_what_is_damaged_only() -> None:
    def reading(spans: tuple[Span, ...]) -> pa.Table:
        for span in spans:
            if span.block in (1, 3):
                error = DamageError(f"block {span.block}")
                error.block = span.block
                raise error
        return pa.table({"row": [span.block for span in spans]})

    spans, lost = tuple(Span(b, 0, 1) for b in (0, 1, 2, 3, 1)), {}
    sound, table = salvage(reading, spans, lost)
    assert [s.block for s in sound] == table["row"].to_pylist() == [0, 2] and lost == {1: "block 1", 3: "block 3"}
    assert salvage(reading, spans[1:2], lost) == ((), None)


def test_ranks_agree_and_the_budget_is_of_the_whole_run() -> None:
    a, b, c = Lost("x", 1, 10, "bad"), Lost("x", 2, 10, "worse"), Lost("y", 0, 10)
    assert merged([(b, a), (), (a, c)], [c]) == (a, b)
    check_budget((a, b), 2)
    with pytest.raises(
        DataError, match=r"data.quarantine = 1: 2 row groups \(20 rows\) .* row group 2 of x; .*\nworse"
    ):
        check_budget((a, b), 1)
