"""Whatever stands in a CSV: `convert csv` makes a dataset that holds it, or refuses it in words. Never a traceback."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_mtl.cli.arguments import Parser
from dist_mtl.cli.convert import add_csv, convert_csv
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import DistMtlError
from dist_mtl.tools.convert import lines
from tests.support.samples import logs, rows_of

CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "-1",
            "1.5",
            "007",
            "1e5",
            "1e999",
            "NA",
            "nan",
            "inf",
            "-",
            "true",
            "2024-01-01",
            "a|b",
            '"',
            '""',
        ]
    ),
    st.sampled_from(
        ['"a,b"', '"a""b"', "\0", "\x1b[31m", "é", "9" * 40, "9" * 400, "0x1F", " 7 ", "12:30", "1_0", "½", "٣"]
    ),
    st.integers(-(2**65), 2**65).map(str),
    st.text(max_size=6),
)
OPTIONS = st.lists(
    st.sampled_from(
        [
            "--click=c", "--conversion=v", "--unlabelled", "--no-funnel", "--type=x=int64", "--type=x=double",
            "--type=x=date", "--type=x=bool", "--type=x=decimal128(9, 2)", "--type=x=time", "--id=x",
            "--type=x=timestamp[ns, tz=UTC]",
            "--bag=x:|", "--null=", "--null=NA", "--null=1", "--test-share=0.5", "--validation=0.3", "--split-by=x",
            "--delimiter=tab", "--delimiter=;", "--names=x", "--like",
        ]
    ),
    max_size=5,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    header=st.one_of(st.just(["x", "c", "v"]), st.lists(CELLS, min_size=1, max_size=4)),
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6),
    labelled=st.booleans(),
    options=OPTIONS,
    junk=st.one_of(st.just(b""), st.binary(max_size=8)),
    ended=st.sampled_from(["\n", "\r\n", ""]),
)
def test_a_dataset_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, header: list[str], rows: list[list[str]], labelled: bool,
    options: list[str], junk: bytes, ended: str,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("fuzz")
    if labelled:
        header, rows = ["x", "c", "v"], [[row[0], "0", "1"] for row in rows]
        options = [*options, "--click=c", "--conversion=v"]
    text = "\n".join(",".join(row) for row in [header, *rows]) + ended
    (folder / "a.csv").write_bytes(text.encode() + junk)
    if "--like" in options:
        write_dataset(folder / "pattern", [logs(5)])
    options = [f"--like={folder / 'pattern'}" if option == "--like" else option for option in options]
    parser = Parser()
    add_csv(parser.add_subparsers())
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", 40)
        try:
            convert_csv(parser.parse_args(["csv", str(folder / "a.csv"), str(folder / "out"), "--jobs=1", *options]))
        except DistMtlError as error:
            assert str(error) and not (folder / "out").exists()
            return
    assert rows_of(folder / "out/train").num_rows
