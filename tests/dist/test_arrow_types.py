"""Files of one dataset whose types differ, through the real verbs: the same bits as of uniform files."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.data.files import manifest
from tests.support import samples
from tests.support.harness import Cluster, run_verb
from tests.support.score_workers import evaluated, verdicts, whole

OTHERS = [
    {},
    {
        "user": pa.int64(),
        "item": pa.int16(),
        "history": pa.large_list(pa.field("element", pa.uint8())),
        "history_weight": pa.list_(pa.float64()),
        "tag": pa.dictionary(pa.int8(), pa.string()),
        "price": pa.float64(),
    },
    {"tag": pa.large_string(), "item": pa.int32(), "click": pa.int32(), "row": pa.uint32()},
]


def written(folder: Path, name: str, rows: int, mixed: bool, seed: int = 0) -> str:
    """Three files; if `mixed`, in types that differ, the columns of the last in another order."""
    table, each = samples.logs(rows, seed), rows // 3
    table = table.set_column(table.column_names.index("click"), "click", table["click"].cast(pa.int8()))
    (folder / name).mkdir(parents=True)
    for number, others in enumerate(OTHERS):
        part = table.slice(number * each, each)
        for column, kind in others.items() if mixed else ():
            values = part[column]
            coded = pa.types.is_dictionary(kind)
            values = values.combine_chunks().dictionary_encode().cast(kind) if coded else values.cast(kind)
            part = part.set_column(part.column_names.index(column), column, values)
        part = part.select(part.column_names[::-1]) if mixed and number == 2 else part
        pq.write_table(part, folder / name / f"{number}.parquet", row_group_size=50)
    return str(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for kind in ("mixed", "plain"):
        for split, rows in (("train", 900), ("test", 300)):
            place = written(folder / kind, split, rows, kind == "mixed", seed=split == "test")
            manifest.write(place, manifest.build(place))
    return folder


def test_a_run_on_files_that_differ_has_the_bits_of_one_on_uniform_files(folder: Path) -> None:
    found = []
    for kind in ("mixed", "plain"):
        one = samples.config(folder / kind, f"data.test='{folder / kind / 'test'}'", "metrics.slices=['tag', 'age']")
        found.append(replace(Cluster(2).run(whole, one)[0], seconds=0.0))
    assert repr(found[0]) == repr(found[1])  # some slices have an AUC of NaN
    [other] = Cluster(1).run(evaluated, str(folder / "plain" / "run"), str(folder / "mixed" / "test"))
    assert other.tasks.keys() == found[1].tasks.keys() and other.rows == 300
    [told] = Cluster(1).run(
        verdicts, str(folder / "mixed" / "run"), [str(folder / "mixed" / "test")], str(folder / "p")
    )
    assert [error for _, _, error in told] == ["", "", "", ""]


def test_describe_reads_them_and_a_listing_refuses_what_nobody_reads(folder: Path) -> None:
    place = folder / "mixed" / "train"
    [done] = run_verb(1, "describe", str(place), "--labels", "click,conversion", "--ranks", "1")
    assert done.code == 0, done.stderr
    bad = folder / "refused"
    bad.mkdir()
    for number, kind in enumerate((pa.int64(), pa.string())):
        table = samples.logs(20)
        pq.write_table(table.set_column(1, "user", table["user"].cast(kind)), bad / f"{number}.parquet")
    [done] = run_verb(1, "convert", "manifest", str(bad))
    assert done.code == 65 and "`user` is text (string), not whole number (int64)" in done.stderr.replace("\n", " ")
