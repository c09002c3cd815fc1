"""The `csv` verb of `dist-mtl convert`, run in this process."""

from pathlib import Path

import pyarrow as pa

from dist_mtl.cli.arguments import Parser
from dist_mtl.cli.convert import add_csv, convert_csv
from tests.support.samples import rows_of


def run(folder: Path, *options: str, name: str = "out") -> pa.Table:
    """The train rows that the command line makes of FOLDER/a.csv."""
    parser = Parser()
    add_csv(parser.add_subparsers())
    convert_csv(parser.parse_args(["csv", str(folder / "a.csv"), str(folder / name), "--jobs=1", *options]))
    return rows_of(folder / name / "train")


def column(folder: Path, values: list[str], *options: str) -> pa.ChunkedArray:
    """The column `x` of these texts, beside labels."""
    (folder / "a.csv").write_text("x,c,v\n" + "".join(f"{value},0,0\n" for value in values))
    return run(folder, "--click=c", "--conversion=v", *options)["x"]
