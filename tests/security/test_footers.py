"""A footer may come from anybody: what Arrow refuses in it is exit 65 naming the file, never the end of the process."""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.cli.convert import list_folder
from dist_mtl.data.files import checksum, manifest
from dist_mtl.data.files.checksum import SIGNATURE
from dist_mtl.data.files.folder import Folder
from dist_mtl.errors import DataError
from tests.support import footers, samples

ROOT = Path(__file__).resolve().parents[2]
LOGS = samples.logs(50)


def refused(folder: Path, content: bytes) -> str:
    """The message of listing a folder that has this file, too."""
    (folder / "y.parquet").write_bytes(content)
    with pytest.raises(DataError) as caught:
        list_folder(str(folder))
    assert caught.value.exit_code == 65 and "y.parquet: " in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.parquet").write_bytes(footers.written(LOGS))
    return tmp_path


@pytest.mark.parametrize("columns", [["user"], ["click", "conversion"], LOGS.column_names[:2]])
@pytest.mark.parametrize("footer", [True, False])
def test_an_encrypted_file_is_called_encrypted(folder: Path, footer: bool, columns: list[str]) -> None:
    assert "is encrypted" in refused(folder, footers.encrypted(LOGS, footer=footer, columns=columns))


def test_a_signed_footer_means_encrypted_columns(folder: Path) -> None:
    """Columns under the key of the footer look like others in it; only the signature tells."""
    content = footers.written(LOGS)
    assert "is encrypted" in refused(
        folder, footers.with_footer(content, footers.footer_of(content) + bytes(SIGNATURE))
    )


def test_an_encrypted_file_that_a_manifest_lists_is_refused_by_the_reader(folder: Path) -> None:
    """A manifest of somebody else may hold the CRC-32 of any footer."""
    content = footers.encrypted(LOGS, footer=False, columns=["user"])
    (folder / "x.parquet").write_bytes(content)
    raw = footers.footer_of(content) + content[-8:]
    crcs = checksum.pack(np.array([zlib.crc32(raw)], "<u4"))
    file = manifest.DataFile("x.parquet", len(content), "0" * 64, (), crcs)
    with pytest.raises(DataError, match="x.parquet: the file is encrypted"):
        manifest.footer_of(Folder.of(folder), file)


def test_a_column_outside_of_the_file_is_refused_where_it_is_listed(folder: Path) -> None:
    """The footer of a file whose rows are gone."""
    content = footers.written(pa.table({"a": np.arange(10_000)}), use_dictionary=False, compression="none")
    assert "Invalid column metadata" in refused(folder, b"PAR1" + content[-8 - len(footers.footer_of(content)) :])


def test_a_footer_that_would_take_all_memory_is_not_parsed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "MAX_FOOTER", 10_000)
    content = footers.written(LOGS)
    longer = footers.footer_of(content) + bytes(10_000)
    assert "its footer has " in refused(folder, footers.with_footer(content, longer))


def test_no_footer_ends_the_process(tmp_path: Path) -> None:
    """1,000 changed footers, listed and read. Without the check 4 in 100 end the process (encryption, histograms)."""
    command = [sys.executable, "-m", "tests.support.footers", str(tmp_path / "d"), "1000", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-1000:]}"
    assert all(word in done.stdout for word in ("encrypted", "refused", "read"))


@pytest.mark.parametrize("rows", [b"\x03", b"\xfe" + b"\xff" * 7 + b"\x7f"])
def test_rows_that_no_manifest_may_claim_are_refused_where_they_are_listed(tmp_path: Path, rows: bytes) -> None:
    """2 rows are written as 0x04; 0x03 is -2, the other one 2**62."""
    content = footers.written(pa.table({"a": [1, 2]}))
    changed = footers.footer_of(content).replace(b"\x16\x04", b"\x16" + rows)
    (tmp_path / "y.parquet").write_bytes(footers.with_footer(content, changed))
    with pytest.raises(DataError, match="y.parquet claims a negative number of rows, or a huge one"):
        list_folder(str(tmp_path))
