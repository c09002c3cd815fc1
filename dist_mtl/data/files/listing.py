"""Listing a folder of Parquet files by hand: the `manifest` verb of launch/convert.py, with a bar on stderr."""

from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from dist_mtl.data.files import manifest
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.files.manifest import Manifest
from dist_mtl.terminal.console import progress_bars


def list_folder(place: str, append: bool = False) -> tuple[Manifest, str]:
    """Read and hash every Parquet file below a folder, and write its manifest. Returns it, and what was done in words.

    The words count what the listing passed over, with the first name for each reason (see `contents`).

    `append`: files that the manifest of before lists with the size that they have now keep their entry, and are not
    read: it trusts that nobody changed them in place. (A later run with data.verify = "full" would find out.) Raises
    DataError as `manifest.build` does, or for a folder that can not be written to.
    """
    folder = Folder.of(place)
    known = manifest.read(folder) if append else None
    contents = folder.contents()
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with progress_bars(*columns) as bars:
        bar = bars.add_task("", total=sum(contents.sizes.values()))
        listed = manifest.build(folder, on_bytes=lambda count: bars.advance(bar, count), known=known, contents=contents)
    manifest.write(folder, listed)
    passed = f"; passed over: {contents.words()}" if contents.passed else ""
    if known is None:
        return listed, f"all of them read{passed}"
    kept = set(known.files) & set(listed.files)
    gone = len({file.path for file in known.files} - {file.path for file in listed.files})
    read = len(listed.files) - len(kept)
    return listed, f"{len(kept):,} kept as they were listed, {read:,} read, {gone:,} gone{passed}"
