"""Listing a folder of Parquet files by hand: the `manifest` verb of launch/convert.py, with a bar on stderr."""

from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from dist_mtl.data.files import manifest
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.terminal.console import progress_bars


def list_folder(place: str, append: bool = False) -> tuple[Manifest, str]:
    """Read and hash every Parquet file below a folder, and write its manifest. Returns it, and what was done in words.

    `append`: files that the manifest of before lists with the size that they have now keep their entry, and are not
    read: it trusts that nobody changed them in place. (A later run with data.verify = "full" would find out.) Raises
    DataError as `manifest.build` does, or for a folder that can not be written to.
    """
    folder = Folder.of(place)
    known = manifest.read(folder) if append else None
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with progress_bars(*columns) as bars:
        bar = bars.add_task("", total=sum(folder.sizes(".parquet").values()))
        listed = manifest.build(folder, on_bytes=lambda count: bars.advance(bar, count), known=known)
    manifest.write(folder, listed)
    if known is None:
        return listed, "all of them read"
    kept = set(known.files) & set(listed.files)
    gone = len({file.path for file in known.files} - {file.path for file in listed.files})
    return listed, f"{len(kept):,} kept as they were listed, {len(listed.files) - len(kept):,} read, {gone:,} gone"
