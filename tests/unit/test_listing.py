"""What a listing takes: each real file once, whatever leads to it; what it passes over is counted; readers open it."""

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pytest

from dist_mtl.cli.convert import list_folder
from dist_mtl.data.files import manifest
from dist_mtl.data.files.reader import blocks_of
from dist_mtl.data.order import Span
from dist_mtl.errors import DataError
from tests.support import footers, samples

TABLE = pa.table({"a": [1, 2, 3]})
BYTES = footers.written(TABLE)


def put(folder: Path, *paths: str) -> Path:
    """A file of three rows at each path."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(BYTES)
    return folder


def listed(folder: Path, append: bool = False) -> tuple[list[str], str]:
    """The paths that are listed, and the last line of the verb. What is listed can be read."""
    made, done = list_folder(str(folder), append)
    read(str(folder))
    return [file.path for file in made.files], done


def read(folder: str) -> None:
    """Check and read all that the manifest lists, as a run does."""
    there = manifest.read(folder)
    manifest.check_files(folder, there, there.files, full=True)
    blocks = blocks_of(there)
    rows = samples.reader(folder).read([Span(i, 0, block.rows) for i, block in enumerate(blocks)])
    assert rows["a"].to_pylist() == [1, 2, 3] * len(there.files)


# ------------------------------------------------------------------------------------------------- each real file once
LINKS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "a link to a folder": (
        lambda f: (f / "latest").symlink_to("2"),
        [],
        "1 the same as listed ones (first: latest)",
    ),
    "a link to the root": (lambda f: (f / "loop").symlink_to("."), [], "1 the same as listed ones (first: loop)"),
    "a link upwards": (lambda f: (f / "2" / "up").symlink_to(".."), [], "1 the same as listed ones (first: 2/up)"),
    "an absolute link": (
        lambda f: (f / "again").symlink_to(f / "2"),
        [],
        "1 the same as listed ones (first: again)",
    ),
    "a chain of links": (
        lambda f: [(f / "b").symlink_to("c"), (f / "c").symlink_to("1")],
        [],
        "2 the same as listed ones (first: b)",
    ),
    "a link to a file": (
        lambda f: (f / "0.parquet").symlink_to("1/x.parquet"),
        [],
        "1 the same as listed ones (first: 0.parquet)",
    ),
    "a hard link": (
        lambda f: (f / "2" / "z.parquet").hardlink_to(f / "1" / "x.parquet"),
        [],
        "1 the same as listed ones (first: 2/z.parquet)",
    ),
    "a link to a partition": (
        lambda f: (f / "day=9").symlink_to("2"),
        [],
        "1 the same as listed ones (first: day=9)",
    ),
    "links to a hidden file": (
        lambda f: [put(f, ".store/1"), *((f / name).symlink_to(".store/1") for name in ("y.parquet", "z.parquet"))],
        ["y.parquet"],
        "1 hidden by _ or . in front (first: .store), 1 the same as listed ones (first: z.parquet)",
    ),
    "links to a hidden folder": (
        lambda f: [put(f, ".v/5/x.parquet"), (f / "now").symlink_to(".v/5"), (f / ".v/5/up").symlink_to("../..")],
        ["now/x.parquet"],
        "1 hidden by _ or . in front (first: .v), 1 the same as listed ones (first: now/up)",
    ),
    "a broken link": (
        lambda f: (f / "x.parquet").symlink_to("gone"),
        [],
        "1 a link that leads nowhere (first: x.parquet)",
    ),
    "links in a circle": (
        lambda f: [(f / "p.parquet").symlink_to("q.parquet"), (f / "q.parquet").symlink_to("p.parquet")],
        [],
        "2 a link that leads nowhere (first: p.parquet)",
    ),
    "a link behind a file": (
        lambda f: (f / "x.parquet").symlink_to("1/x.parquet/y"),
        [],
        "1 a link that leads nowhere (first: x.parquet)",
    ),
    "a link out": (lambda f: (f / "etc").symlink_to("/etc"), [], "1 a link out of the folder (first: etc)"),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_real_file_is_listed_once(tmp_path: Path, case: str) -> None:
    make, more, words = LINKS[case]
    folder = put(tmp_path / "logs", "1/x.parquet", "2/x.parquet")
    make(folder)
    for append in (False, True):
        paths, done = listed(folder, append)
        assert paths == ["1/x.parquet", "2/x.parquet", *more] and done.endswith(f"; passed over: {words}")


def test_append_lets_go_of_what_was_listed_twice(tmp_path: Path) -> None:
    """A manifest from before names files by links, too."""
    folder = put(tmp_path / "logs", "1/x.parquet")
    (folder / "latest").symlink_to("1")
    twice = manifest.joined(folder, [manifest.of_file(folder, f"{name}/x.parquet") for name in ("1", "latest")])
    manifest.write(folder, twice)
    paths, done = listed(folder, append=True)
    assert paths == ["1/x.parquet"] and done.startswith(
        "1 kept as they were listed, 0 read, 1 gone; passed over: 1 the"
    )


@pytest.mark.parametrize("hard", [False, True])
def test_a_manifest_from_before_that_names_a_file_twice_is_refused(tmp_path: Path, hard: bool) -> None:
    """Two files of the same rows are fine, one file by two names is not."""
    folder = put(tmp_path / "logs", "1.parquet", "2.parquet")
    made = manifest.build(folder)
    manifest.check_files(folder, made, made.files, full=False)
    (folder / "2.parquet").unlink()
    if hard:
        (folder / "2.parquet").hardlink_to(folder / "1.parquet")
    else:
        (folder / "2.parquet").symlink_to("1.parquet")
    with pytest.raises(DataError, match="2.parquet: is one file with 1.parquet, so its rows would count twice; list"):
        manifest.check_files(folder, made, made.files[:1], full=False)


@pytest.mark.parametrize("name", ["", "x.parquet", "gone"])
def test_a_folder_that_is_none(tmp_path: Path, name: str) -> None:
    with (
        chdir(put(tmp_path, "x.parquet")),
        pytest.raises(DataError, match="name is empty|is no folder|is no such folder"),
    ):
        list_folder(name)


@pytest.mark.parametrize("name", ["x.parquet", "day=3"])
def test_a_link_out_that_is_named_as_data_is_refused(tmp_path: Path, name: str) -> None:
    """Passed over, its rows would be missed."""
    folder, away = put(tmp_path / "logs", "day=1/x.parquet"), put(tmp_path / "away", "x.parquet")
    (folder / name).symlink_to(away / "x.parquet" if name.endswith("parquet") else away)
    with pytest.raises(DataError, match=f"logs/{name}: a link that leads out"):
        list_folder(str(folder))


# ----------------------------------------------------------------------------------------------- what is passed over
def test_what_is_passed_over_is_counted_with_the_first_name(tmp_path: Path) -> None:
    folder = put(tmp_path / "logs", "spark.parquet/part-0.parquet", "spark.parquet/part-1.parquet")
    put(folder, "A.txt", "b.PARQUET", "c.parquet.gz", "d.parq", "e.parquet.crc", "_temporary/0/x.parquet", ".x.parquet")
    put(folder, ".day=1/x.parquet", "_SUCCESS", "_metadata")
    os.mkfifo(folder / "pipe.parquet")
    (folder / "empty.parquet").mkdir()
    paths, done = listed(folder)
    assert paths == ["spark.parquet/part-0.parquet", "spark.parquet/part-1.parquet"]
    assert done == (
        "all of them read; passed over: 5 hidden by _ or . in front (first: .day=1), "
        "1 no regular file (first: pipe.parquet), 5 without .parquet at the end (first: b.PARQUET)"
    )
    assert listed(folder)[1] == done, "the manifest is none of them"


def test_a_folder_of_which_everything_is_passed_over_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*.parquet file in it \(passed over: 1 without .parquet at the end"):
        list_folder(str(put(tmp_path / "logs", "x.PARQUET")))


def test_names_are_shown_in_printable_form(tmp_path: Path) -> None:
    folder = put(tmp_path / "logs", "x.parquet", "a\x1b[2J", "day=1\udcff.txt")
    assert listed(folder)[1].endswith(r"2 without .parquet at the end (first: a\x1b[2J)")


def test_a_socket_and_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = put(tmp_path / "logs", "x.parquet")
    with socket.socket(socket.AF_UNIX) as server, chdir(folder):
        server.bind("s.parquet")
        assert listed(folder)[1].endswith("1 no regular file (first: s.parquet)")


def go_down(depth: int, make: bool) -> None:
    """Into `depth` folders in one another, as no path could name them."""
    for _ in range(depth):
        if make:
            os.mkdir("d")
        os.chdir("d")


def test_a_tree_deeper_than_the_stack(tmp_path: Path) -> None:
    """1,500 folders in one another, by short names; then so many that no system call takes the name."""
    folder = put(tmp_path / "logs", "x.parquet")
    try:
        with chdir(folder):
            go_down(1_500, make=True)
            Path("x.parquet").write_bytes(BYTES)
        assert len(listed(folder)[0]) == 2
        with chdir(folder):
            go_down(1_500, make=False)
            go_down(600, make=True)
        with pytest.raises(DataError, match="File name too long"):
            list_folder(str(folder))
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)  # shutil.rmtree is not able to
