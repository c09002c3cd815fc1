"""Any name of a file or folder is listed and read, or refused by name; on disk and in a store."""

from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from pathlib import Path

import pytest

from dist_mtl.cli.convert import list_folder
from dist_mtl.config.dataset_uri import Place, with_ranges
from dist_mtl.data.files import manifest
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.errors import DataError
from tests.unit.test_listing import BYTES, TABLE, put, read

fsspec = pytest.importorskip("fsspec", reason="fsspec is optional; without it only pyarrow's filesystems are known")
NAMES = (
    "a b", "100%", "a%20b", "a%2Fb", "a?b", "a#b", "a=b", "=", "a&b", "a;b", "größe", "東京", "e\u0301", "\U0001f600",
    "a\\b", "a\nb", "a\tb", "a\x7fb", "a\u2028b", "a\u202eb", "a\xa0b", "\udcff\udcfe", "..a", "a..b", "a...", "~",
    "$HOME", "*", "[x]", "{a,b}", "a:b", "file:", "s3:", "a::b", "'", '"', "`", "-", "--", "a,b", "\\x00", "con",
    "x" * 200, "é" * 120,
)  # fmt: skip
SHAPES = ("{}.parquet", "{}/x.parquet", "day={}/x.parquet", "{}=1/x.parquet")


def assert_lists_what_can_be_read(place: str, path: str) -> None:
    """Either the listing refuses it by name, or all that follows works."""
    try:
        list_folder(place)
    except DataError as error:
        assert error.exit_code == 65 and str(error).isprintable(), str(error)
        return
    read(place)
    list_folder(place, append=True)
    there = manifest.read(place)
    assert len(there.files) == 1
    for key, value in there.files[0].partition.items():
        if value and "=" not in key:
            chosen = manifest.read(with_ranges(place, {key: (value, value)}))
            assert chosen.files == there.files, f"{path}: {key} = {value!r}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["path", "url"])
def test_any_name_is_read_or_refused(tmp_path: Path, kind: str, shape: str) -> None:
    taken = 0
    for number, name in enumerate(NAMES):
        folder = tmp_path / f"{number}"
        try:
            put(folder, shape.format(name))
        except (OSError, UnicodeError):
            continue  # the disk does not take it
        place = str(folder) if kind == "path" else folder.as_uri()
        assert_lists_what_can_be_read(place, shape.format(name))
        taken += (folder / manifest.NAME).exists()
    print(f"{taken} of {len(NAMES)} names listed")
    assert taken > 30


@pytest.fixture
def store() -> Iterator[Callable[[str], str]]:
    """Puts a file of that key into an empty folder of a store, and says where the folder is."""
    memory = fsspec.filesystem("memory")

    def put_into(path: str) -> str:
        with suppress(FileNotFoundError):
            memory.rm("/x", recursive=True)
        memory.store[f"/x/{path}"] = fsspec.implementations.memory.MemoryFile(memory, f"/x/{path}", BYTES)
        return "memory://x"

    yield put_into
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_name_in_a_store_is_read_or_refused(store: Callable[[str], str], shape: str) -> None:
    for name in (*NAMES, "..", ".", "a//b", "a/../b", "n" * 300, "n" * 5_000, "a://b", "a\0b", "\ud800"):
        assert_lists_what_can_be_read(store(shape.format(name)), shape.format(name))


def test_what_a_store_passes_over(store: Callable[[str], str]) -> None:
    place = store("a/x.parquet")
    memory = fsspec.filesystem("memory")
    for path in ("_tmp/a/x.parquet", "_tmp/b/x.parquet", "README", "b/.c/d.parquet", "_manifest.json"):
        memory.pipe(f"/x/{path}", BYTES)
    _, done = list_folder(place)
    assert done == (
        "all of them read; passed over: 2 hidden by _ or . in front (first: _tmp), "
        "1 without .parquet at the end (first: README)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    """Absolute and relative, listed and written. Where the name is read as a range or a URL, that is said."""
    with chdir(tmp_path):
        try:
            put(tmp_path / name, "x.parquet")
        except (OSError, UnicodeError):
            pytest.skip("the disk does not take it")
        for place in (name, str(tmp_path / name)):
            try:
                list_folder(place)
                read(place)
                write_dataset(f"{place}-written", [TABLE])
                read(f"{place}-written")
            except DataError as error:
                assert "\udcff" in name and "no UTF-8" in str(error)
            for made in tmp_path.glob("*-written"):
                made.rename(tmp_path / "done")
                for file in (tmp_path / "done").iterdir():
                    file.unlink()
                (tmp_path / "done").rmdir()


def test_percents_that_are_no_text_are_refused_not_mixed_up(tmp_path: Path) -> None:
    """%FF and %FE would both be U+FFFD: one day where there are two."""
    folder = put(tmp_path / "logs", "day=%FF/x.parquet", "day=%FE/x.parquet")
    with pytest.raises(DataError, match="day=%FE: what stands behind % in a partition is no UTF-8"):
        list_folder(str(folder))


@pytest.mark.parametrize("value", ["a..b", "..", ".", "a.", ".a", "a...b", "1.5", "a&b", "a?b", "%2E"])
def test_a_range_of_any_value_is_read_back(value: str) -> None:
    place = with_ranges("logs", {"day": (value, value)})
    assert Place.parse(place).ranges == {"day": (value, value)} and str(Place.parse(place)) == place
