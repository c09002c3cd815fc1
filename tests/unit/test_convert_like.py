"""`convert csv --like`: the columns and types of a dataset, or of a run's training."""

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pytest

from dist_mtl.data.column_class import RawColumn
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.marks import labels_of
from dist_mtl.errors import DataError
from dist_mtl.tools.convert import tabular
from dist_mtl.tools.convert.like import Like
from tests.support.csv_verb import run
from tests.support.samples import rows_of

LIKE = {
    "int16": ("5", 5),
    "uint64": (str(2**64 - 1), 2**64 - 1),
    "halffloat": ("0.5", 0.5),
    "float": ("0.25", 0.25),
    "bool": ("1", True),
    "large_string": ("a", "a"),
    "binary": ("a", b"a"),
    "fixed_size_binary[2]": ("ab", b"ab"),
    "date64[ms]": ("2024-01-02", datetime.date(2024, 1, 2)),
    "timestamp[ns]": ("2024-01-02 00:00:00.5", None),
    "timestamp[us, tz=Europe/Berlin]": ("2024-01-02T00:00:00+01:00", None),
    "time32[s]": ("10:00:00", datetime.time(10)),
    "duration[us]": ("7", datetime.timedelta(microseconds=7)),
    "decimal128(5, 1)": ("7.5", decimal.Decimal("7.5")),
    "dictionary<values=string, indices=int32, ordered=0>": ("a", "a"),
    "null": ("", None),
}


@pytest.mark.parametrize("kind", LIKE)
def test_a_column_gets_the_type_of_the_pattern(kind: str, tmp_path: Path) -> None:
    """Also where it has no value; and what does not fit is refused, whatever the type."""
    text, value = LIKE[kind]
    arrow = pa.dictionary(pa.int32(), pa.string()) if kind.startswith("dictionary") else RawColumn("", kind).arrow
    pattern = pa.table({"x": pa.nulls(1, arrow), "c": pa.array([0], pa.int8()), "v": pa.array([0], pa.int8())})
    write_dataset(tmp_path / "pattern", [pattern])
    labels = ("--click=c", "--conversion=v", f"--like={tmp_path / 'pattern'}")
    (tmp_path / "a.csv").write_text(f"v,x,c\n0,{text},1\n0,,0\n")
    made = run(tmp_path, *labels)
    assert made.column_names == ["x", "c", "v"]
    stored = rows_of(tmp_path / "pattern")["x"].type  # Parquet has no date64, nor seconds
    assert made["x"].type == (pa.string() if kind.startswith("dictionary") else stored)
    assert value is None or made["x"].to_pylist() == [value, None]
    (tmp_path / "a.csv").write_text("v,x,c\n0,,0\n")
    assert run(tmp_path, *labels, name="nothing")["x"].null_count == 1
    if pa.types.is_string(made["x"].type) or kind in ("large_string", "binary"):
        return
    (tmp_path / "a.csv").write_text("v,x,c\n0,,0\n0,no!,0\n")
    with pytest.raises(DataError, match="line 3: column `x` holds 'no!', which is no .*1 of 2 rows"):
        run(tmp_path, *labels, name="odd")


def test_types_that_a_csv_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    for number, values in enumerate(([{"a": 1}], [[[1]]])):
        write_dataset(tmp_path / f"p{number}", [pa.table({"x": values, "y": [1]})])
        (tmp_path / "a.csv").write_text("x,y\n1,1\n")
        with pytest.raises(DataError, match="`x` has a type in .*p. that a CSV cannot hold"):
            run(tmp_path, f"--like={tmp_path / f'p{number}'}", name=f"o{number}")


def test_numbers_written_otherwise_fit_a_pattern_only_on_demand(tmp_path: Path) -> None:
    write_dataset(tmp_path / "pattern", [pa.table({"x": [1]})])
    (tmp_path / "a.csv").write_text("x\n12.0\n")
    with pytest.raises(DataError, match="'12.0', which is no int64.*or read it as the number with --type x=int64"):
        run(tmp_path, f"--like={tmp_path / 'pattern'}")
    assert run(tmp_path, f"--like={tmp_path / 'pattern'}", "--type=x=int64")["x"].to_pylist() == [12]


def test_a_weight_and_labels_of_a_pattern(tmp_path: Path) -> None:
    """Three labels, and a weight that rows to be scored need not have."""
    types = {"x": pa.int64(), "w": pa.float64(), **dict.fromkeys("abc", pa.int8())}
    like = Like("run", types, frozenset("xw"), tuple("abc"), True, frozenset("w"), is_run=True)
    source = tabular.Csv((str(tmp_path / "a.csv"),), like=like)
    (tmp_path / "a.csv").write_text("x\n1\n")
    assert tabular.convert(source, tabular.Split(), tmp_path / "scored").labels == ()
    (tmp_path / "a.csv").write_text("c,x,b,a\n0,1,1,1\n")
    with pytest.raises(DataError, match="no column `w`"):
        tabular.convert(source, tabular.Split(), tmp_path / "refused")
    (tmp_path / "a.csv").write_text("c,x,w,b,a\n0,1,0.5,1,1\n1,1,1,0,1\n")
    made = tabular.convert(source, tabular.Split(), tmp_path / "out")
    table = rows_of(tmp_path / "out/train")
    assert table.to_pylist()[0] == {"x": 1, "w": 0.5, "a": 1, "b": 1, "c": 0}
    assert labels_of(table.schema) == (["a", "b", "c"], True)
    assert "1 rows have `c` without `b`" in made.tally.told()[1]
