"""A dataset may stand on any filesystem: what is read there is what was written, and nothing else is reached."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_mtl.cli.convert import list_folder
from dist_mtl.config.dataset_uri import Place, normal, overlap, with_ranges
from dist_mtl.data.files import manifest
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.reader import blocks_of
from dist_mtl.data.files.writer import write_dataset
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Span
from dist_mtl.errors import ConfigError, DamageError, DataError
from tests.support import samples

fsspec = pytest.importorskip("fsspec", reason="fsspec is optional; without it only pyarrow's filesystems are known")
NAME = "part-00001.parquet"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    samples.write_logs(tmp_path / "train", 500, files=3, group_rows=60)
    return tmp_path / "train"


@pytest.fixture
def remote(local: Path) -> Iterator[str]:
    """The same dataset on a filesystem of fsspec's: real, in this process, without a server."""
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "memory://bucket/train", recursive=True)
    yield "memory://bucket/train"
    memory.rm("memory://bucket", recursive=True)


@pytest.mark.parametrize("kind", ["path", "file", "memory"])
def test_what_is_read_is_what_was_written(local: Path, remote: str, kind: str) -> None:
    """Manifest, sha256, footers, rows in training order: the same bits wherever the files stand."""
    place = {"path": str(local), "file": local.as_uri(), "memory": remote}[kind]
    config = samples.config(local.parent, f"data.train='{place}'", "data.shuffle_rows=200", "train.global_batch=50")
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    assert dataset.manifest == manifest.read(local) == manifest.build(place) and str(dataset.folder) == place
    dataset.verify(0, 1, full=True)
    plain = Dataset.open(str(local), config, shuffle=True)
    for mine, theirs in zip(dataset.batches(0, 1, 0, 15), plain.batches(0, 1, 0, 15), strict=True):
        assert np.array_equal(mine.dense_BD, theirs.dense_BD) and np.array_equal(mine.labels_BT, theirs.labels_BT)
        assert np.array_equal(mine.ids.values(), theirs.ids.values())


def test_damage_far_away_is_found_and_named(remote: str) -> None:
    memory = fsspec.filesystem("memory")
    content = memory.cat(f"memory://bucket/train/{NAME}")
    memory.pipe(f"memory://bucket/train/{NAME}", content[:100] + bytes([content[100] ^ 1]) + content[101:])
    listed = manifest.read(remote)
    manifest.check_files(remote, listed, listed.files, full=False)
    with pytest.raises(DataError, match=f"memory://bucket/train/{NAME}: changed .* .sha256 differs.*manifest mem"):
        manifest.check_files(remote, listed, listed.files, full=True)
    blocks = blocks_of(listed)
    with pytest.raises(DamageError, match=f"memory://bucket/train/{NAME}, row group 0: damaged or unreadable .the CRC"):
        samples.reader(remote, "row", "user", "item").read([Span(i, 0, b.rows) for i, b in enumerate(blocks)])
    memory.rm(f"memory://bucket/train/{NAME}")
    with pytest.raises(DataError, match=f"{NAME}: the manifest lists it, but it is missing; restore it"):
        manifest.check_files(remote, listed, listed.files, full=False)


def test_a_manifest_is_made_in_place(remote: str) -> None:
    memory = fsspec.filesystem("memory")
    before = manifest.read(remote)
    memory.rm("memory://bucket/train/_manifest.json")
    with pytest.raises(DataError, match="make one with `dist-mtl convert manifest memory://bucket/train`"):
        manifest.read(remote)
    listed, _ = list_folder(remote)
    assert listed == before == manifest.read(remote)


class Requests(fsspec.filesystem("memory").__class__):
    """A memory filesystem that counts how often it is asked for bytes."""

    protocol = "counted"
    count = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("counted://", "memory://"))

    def _open(self, *arguments: object, **options: object) -> object:
        file = super()._open(*arguments, **options)
        read = type(file).read

        def counted(*size: int) -> bytes:
            Requests.count += 1
            return read(file, *size)

        file.read = counted  # one object stands for all openings
        return file


def test_few_requests_far_away(local: Path) -> None:
    """A row group's 12 chunks lie side by side: one request for all of them, one for a file's footer."""
    fsspec.register_implementation("counted", Requests, clobber=True)
    fsspec.filesystem("counted").put(str(local), "/far", recursive=True)
    reader = samples.reader("counted://far", *samples.logs(1).column_names)
    Requests.count = 0
    reader.read([Span(0, 0, 60), Span(1, 0, 60)])
    print(f"2 row groups of {len(samples.logs(1).column_names)} columns: {Requests.count} requests")
    assert Requests.count == 3


WRONG = {
    "nothing://x/y": (ConfigError, "no filesystem for `nothing`: .* Install fsspec and its package"),
    "file://x/y": (ConfigError, "file:///an/absolute/path"),
    "reference://x": (ConfigError, "a reference filesystem can run code from its index"),
    "memory://nowhere": (DataError, "memory://nowhere/_manifest.json: there is no such file"),
    "/x/at/all": (DataError, "/x/at/all/_manifest.json: there is no such file"),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_place_that_is_none(place: str) -> None:
    error, words = WRONG[place]
    with pytest.raises(error, match=words):
        manifest.read(place)


def test_a_folder_to_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder; correct"):
        manifest.build(tmp_path / "nowhere")


def test_a_path_outside_stays_outside(remote: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("memory://bucket/secret.parquet", b"x")
    text = memory.cat("memory://bucket/train/_manifest.json").replace(NAME.encode(), b"../secret.parquet")
    memory.pipe("memory://bucket/train/_manifest.json", text)
    with pytest.raises(DataError, match="path '../secret.parquet': it is not below the dataset's folder"):
        manifest.read(remote)


def test_datasets_are_written_to_local_folders() -> None:
    with pytest.raises(ConfigError, match="a dataset is written to a local folder; write one, then copy it there"):
        write_dataset("memory://bucket/new", [samples.logs(5)])


def test_files_of_engines_are_no_data(tmp_path: Path) -> None:
    """As Hive, Spark and pyarrow have it; `_` before a partition's `=` is a name."""
    table = pa.table({"a": [1, 2]})
    for path in ("x.parquet", "_temporary/0/x.parquet", ".x.parquet", "_x.parquet"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / path)
    assert [file.path for file in manifest.build(tmp_path).files] == ["x.parquet"]
    (tmp_path / "x.parquet").unlink()
    (tmp_path / "_day=1").mkdir()
    pq.write_table(table, tmp_path / "_day=1" / "x.parquet")
    shutil.copytree(tmp_path / "_day=1", tmp_path / "_day=2")
    assert [file.path for file in manifest.build(tmp_path).files] == ["_day=1/x.parquet", "_day=2/x.parquet"]


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/.", "{}/../train"])
def test_spellings_of_a_path(local: Path, spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifest.build(spelling.format(local)) == manifest.read(local)
    monkeypatch.chdir(local.parent)
    assert manifest.build(spelling.format("train")) == manifest.read("./train") == manifest.read(local)


def test_the_notation_of_places() -> None:
    for text, url, ranges in (
        ("logs", "logs", {}),
        ("logs?day=2024-01-01..2024-01-07", "logs", {"day": ("2024-01-01", "2024-01-07")}),
        ("s3://b/x?region=eu&day=1..2&hour=0..3", "s3://b/x?region=eu", {"day": ("1", "2"), "hour": ("0", "3")}),
        ("x?a%20b=c%26d..e", "x", {"a b": ("c&d", "e")}),
        ("what?", "what?", {}),
    ):
        place = Place.parse(text)
        assert (place.url, place.ranges) == (url, ranges) and Place.parse(str(place)) == place
    assert Folder.of("s3://b/x?region=eu&day=1..2").at("f.parquet") == "s3://b/x/f.parquet"
    assert with_ranges("logs", {"day": (1, 9)}) == "logs?day=1..9" == with_ranges("logs?day=1..9", {"day": (1, 9)})
    assert normal("a/./b/?day=1..2") == "a/b?day=1..2" and normal("s3://b//x/") == "s3://b//x"
    for bad in ("logs?day=2..1", "logs?day=1..2&day=3..4"):
        with pytest.raises(ConfigError):
            Place.parse(bad)


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [
        ("logs", "logs/", True),
        ("logs", "other", False),
        ("logs?day=1..9", "logs?day=10..12", False),  # as numbers; as text 10 would lie between 1 and 9
        ("logs?day=1..9", "./logs?day=9..12", True),
        ("logs?day=1..9", "logs", True),
        ("logs?day=1..9", "logs?hour=10..12", True),
        ("logs?day=1..9&country=DE..DE", "logs?day=1..9&country=FR..FR", False),
        ("s3://b/logs?day=a..b", "s3://b/logs/?day=c..d", False),
    ],
)
def test_whether_two_places_share_rows(a: str, b: str, shared: bool) -> None:
    assert overlap(a, b) is overlap(b, a) is shared
