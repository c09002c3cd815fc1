"""The manifest: a dataset as a checksummed list of Parquet files. What is not on the list does not exist.

`_manifest.json` stands beside the files: path (relative, below the folder), rows of each row group, bytes, sha256 and
the CRC-32s of the parts of every file (see `checksum`), the schema, and for synthetic logs the ceiling (the AUC of the
true probabilities). Every engine passes over a name that begins with _, so pandas, pyarrow, Spark and others read the
folder as it stands. The old name, `manifest.json`, is still read. In a folder with both, `_manifest.json` counts.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import compress
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from dist_mtl.bounded import parse_json
from dist_mtl.data.files import partition
from dist_mtl.data.files import schema as schemas
from dist_mtl.data.files.checksum import Footer, OnBytes, digest, pack, read_footer, sha256_of
from dist_mtl.data.files.contents import Contents, fault_of
from dist_mtl.data.files.entries import check_entries
from dist_mtl.data.files.folder import Folder, reason
from dist_mtl.data.files.listed import DataFile, Manifest
from dist_mtl.errors import DataError
from dist_mtl.terminal.printable import printable

NAME = "_manifest.json"
VERSION = 1
MAX_BYTES = 1 << 30  # of a manifest: some million files
MAX_SHOWN = 300  # characters of a name that is refused
AGAIN = "list the folder again, which lists each file once"
THREADS = 8  # files looked at side by side: hashing lets go of the interpreter, and a store far away takes its time
AnyFolder = str | Path | Folder


def build(
    folder: AnyFolder,
    ceiling: dict[str, float] | None = None,
    on_bytes: OnBytes = lambda count: None,
    known: Manifest | None = None,
    contents: Contents | None = None,
) -> Manifest:
    """List every *.parquet file below `folder`, in order of its partition and path. Reads and hashes every byte.

    `known`: files that it lists by path and size, with their checksums, are taken over as they stand there, unread.
    `contents`: those of the folder, where the caller has looked. Raises DataError when there is no file, one has a name
    that no reader takes, or two files differ in schema or in the names of their partitions.
    """
    folder = Folder.of(folder)
    if folder.place.ranges:
        raise DataError(f"{folder}: a manifest lists a whole folder; ranges of partitions are chosen where it is read")
    contents = contents or folder.contents()
    sizes = contents.sizes
    if not sizes:
        passed = f" (passed over: {contents.words()})" if contents.passed else ""
        raise DataError(f"{folder}: no *.parquet file in it{passed}; write some, or correct data.train / data.test")
    listed = {file.path: file for file in known.files if file.crc32} if known is not None else {}

    def one(path: str) -> Manifest:
        if path in listed and listed[path].bytes == sizes[path]:
            on_bytes(sizes[path])
            return replace(known, files=(listed[path],))
        return of_file(folder, path, on_bytes)

    with ThreadPoolExecutor(THREADS) as pool:
        return joined(folder, list(pool.map(one, sizes)), ceiling)


def of_file(folder: AnyFolder, path: str, on_bytes: OnBytes = lambda count: None) -> Manifest:
    """The dataset of one file below `folder`. Reads and hashes every byte.

    Raises DataError if it is not Parquet, or has a name that no reader takes.
    """
    folder = Folder.of(folder)
    if fault := fault_of(path):
        raise DataError(f"{printable(folder.at(path))[:MAX_SHOWN]}: {fault}; rename it, and list the folder again")
    try:
        with folder.open(path) as file:
            footer = read_footer(file, folder.at(path))
            sha256, crcs = digest(file, folder.at(path), footer, on_bytes)
    except OSError as error:
        raise _unread(folder.at(path), error) from None
    groups, crc32 = _row_groups(footer), "" if crcs is None else pack(crcs)
    names = footer.parsed.schema.to_arrow_schema().names
    repeated = tuple(sorted(name for name, count in Counter(names).items() if count > 1))
    file = DataFile(path, footer.file_bytes, sha256, groups, crc32)
    return Manifest(VERSION, _schema(footer), (file,), repeated=repeated)


def joined(folder: AnyFolder, parts: Sequence[Manifest], ceiling: dict[str, float] | None = None) -> Manifest:
    """The files of one part or more as one dataset, by partition, else as they come. Raises DataError as `build`."""
    folder = Folder.of(folder)
    schema, files = _one_schema(folder, parts)
    check_entries(str(folder), Manifest(VERSION, schema, tuple(files)))
    types = _partitions(folder, files)
    if types:
        files.sort(key=lambda file: partition.place_in_order(file.partition, types))
    return Manifest(VERSION, schema, tuple(files), ceiling or {}, types, parts[0].repeated)


def _one_schema(folder: Folder, parts: Sequence[Manifest]) -> tuple[dict[str, str], list[DataFile]]:
    """The schema of all files, and each file with the types in which it differs. Reads footers only if some differ."""
    first, files = parts[0].schema, [file for part in parts for file in part.files]
    for part in parts:
        if other := set(part.repeated) ^ set(parts[0].repeated):
            raise DataError(
                f"{folder.at(part.files[0].path)}: its columns differ from those of {folder.at(files[0].path)}: "
                f"`{min(other)}` is the name of several in one of them"
            )
    if all(part.schema == first and not any(file.types for file in part.files) for part in parts):
        return first, files
    own = [part.types_of(file) for part in parts for file in part.files]
    for file, types in zip(files, own, strict=True):
        if types.keys() != own[0].keys():
            raise DataError(
                f"{folder.at(file.path)}: its columns differ from those of {folder.at(files[0].path)}: "
                f"{_difference(own[0], types)}"
            )
    whole = schema_of(_read_as(folder, zip(files, own, strict=True)))
    schema = {name: whole[name] for name in own[0]}
    differing = [{name: kind for name, kind in types.items() if kind != schema[name]} for types in own]
    return schema, [replace(file, types=types) for file, types in zip(files, differing, strict=True)]


def _read_as(folder: Folder, files: Iterable[tuple[DataFile, dict[str, str]]]) -> pa.Schema:
    """The schema in which files of these types are read: a footer is read for each set of types."""
    kinds: dict[tuple[tuple[str, str], ...], DataFile] = {}
    for file, types in files:
        kinds.setdefault(tuple(sorted(types.items())), file)
    with ThreadPoolExecutor(THREADS) as pool:
        footers = list(pool.map(lambda file: footer_of(folder, file), kinds.values()))
    found = [footer.parsed.schema.to_arrow_schema() for footer in footers]
    return schemas.joined(found, [folder.at(file.path) for file in kinds.values()])


def write(folder: AnyFolder, manifest: Manifest) -> None:
    """Write `_manifest.json` into `folder`; complete or not at all on this machine, see `Folder.write`.

    A manifest under the old name is replaced, so it is removed; another file of that name is not ours and stays.
    """
    folder, old = Folder.of(folder), NAME.removeprefix("_")
    folder.write(NAME, (json.dumps(asdict(manifest), indent=1) + "\n").encode())
    if folder.exists(old) and _is_manifest(folder, old):
        folder.remove(old)


def exists(folder: AnyFolder) -> bool:
    """Whether `folder` has a manifest, under the new name or the old one."""
    folder = Folder.of(folder)
    return folder.exists(folder.beside(NAME))


def _is_manifest(folder: Folder, name: str) -> bool:
    try:
        TypeAdapter(Manifest).validate_python(parse_json(folder.read_bytes(name, MAX_BYTES)))
    except (ValueError, DataError, OSError):
        return False
    return True


def read(folder: AnyFolder) -> Manifest:
    """The manifest of a dataset folder, cut to the files in the ranges of partitions that `folder` names.

    Raises DataError: it is absent, malformed, newer, names a path outside, or has no file in range.
    """
    folder = Folder.of(folder)
    name = folder.beside(NAME)
    path = folder.at(name)
    try:
        manifest = TypeAdapter(Manifest).validate_python(parse_json(folder.read_bytes(name, MAX_BYTES)))
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file. A dataset is a folder of Parquet files with a manifest; "
            f"make one with `dist-mtl convert manifest {folder.place.url}`"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: not a manifest: {place}{': ' if place else ''}{first['msg']}") from None
    except ValueError as error:
        raise DataError(f"{path}: not a manifest: {error}; list the folder again") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or reason(error)}") from None
    if manifest.version > VERSION:
        raise DataError(f"{path}: format version {manifest.version}; this program knows {VERSION}. Upgrade dist_mtl")
    if manifest.version < 1:
        raise DataError(f"{path}: format version {manifest.version}, which never was; list the folder again")
    check_entries(path, manifest)
    manifest = _chosen(folder, replace(manifest, partitions=_partitions(folder, manifest.files)))
    if manifest.num_rows == 0:
        raise DataError(f"{path}: the dataset is empty (0 rows)")
    return manifest


def _partitions(folder: Folder, files: Sequence[DataFile]) -> dict[str, str]:
    try:
        return partition.types_of([file.partition for file in files])
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None


def _chosen(folder: Folder, manifest: Manifest) -> Manifest:
    """The files in range. The ceiling goes where rows go: it was that of them all."""
    if not (ranges := folder.place.ranges):
        return manifest
    keep = partition.chosen([f.partition for f in manifest.files], manifest.partitions, ranges, folder.place.url)
    if all(keep):
        return manifest
    return replace(manifest, files=tuple(compress(manifest.files, keep)), ceiling={})


def arrow_schema(folder: AnyFolder, manifest: Manifest) -> pa.Schema:
    """The types in which a dataset's rows are read: the columns of the files, then the partitions.

    From the first file's footer, and one for each other set of types that files have.
    """
    schema = _read_as(Folder.of(folder), ((file, file.types) for file in manifest.files))
    constants = manifest.constants(manifest.files[0])
    return pa.schema([*schema, *(pa.field(key, value.type) for key, value in constants.items())])


def footer_of(folder: Folder, file: DataFile) -> Footer:
    """The footer of a listed file. Raises DataError if it is missing, unreadable, or not the one that was listed."""
    with _listed(folder, file) as stream:
        return checked_footer(folder, file, stream)


@contextmanager
def _listed(folder: Folder, file: DataFile) -> Iterator[pa.NativeFile]:
    """A listed file, open; DataError if it is missing or can not be read."""
    try:
        with folder.open(file.path) as stream:
            yield stream
    except FileNotFoundError:
        raise _changed(folder, file, "the manifest lists it, but it is missing") from None
    except OSError as error:
        raise _unread(folder.at(file.path), error) from None


def checked_footer(folder: Folder, file: DataFile, stream: pa.NativeFile) -> Footer:
    """The same of an open file."""
    since = "changed since the manifest was written"
    if (size := stream.size()) != file.bytes:
        raise _changed(folder, file, f"{since} ({size} bytes, listed {file.bytes})")
    footer = read_footer(stream, folder.at(file.path), file.checksums and file.checksums[1])
    if footer is None:
        raise _changed(folder, file, f"{since} (its footer's CRC-32 differs)")
    return footer


def check_files(folder: AnyFolder, manifest: Manifest, files: Sequence[DataFile], full: bool) -> None:
    """Check several files side by side, see `check_file`. Raises DataError naming the first bad one, in their order.

    DataError, too, where the manifest names one file twice, by a link: manifests from before listed what links lead to.
    """
    folder, first = Folder.of(folder), {}
    contents = Counter(file.sha256 for file in manifest.files)
    for path in (file.path for file in manifest.files if contents[file.sha256] > 1):
        if (same := first.setdefault(folder.identity(path), path)) != path:
            raise DataError(f"{folder.at(path)}: is one file with {same}, so its rows would count twice; {AGAIN}")
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda file: check_file(folder, manifest, file, full), files):
            pass


def check_file(folder: AnyFolder, manifest: Manifest, file: DataFile, full: bool) -> None:
    """Raise DataError if a file is missing or is not the one that was listed. `full`: compare the sha256 as well."""
    folder = Folder.of(folder)
    with _listed(folder, file) as stream:
        footer = checked_footer(folder, file, stream)
        if full and sha256_of(stream) != file.sha256:
            raise _changed(folder, file, "changed since the manifest was written (sha256 differs)")
    if _row_groups(footer) != file.row_groups or _schema(footer) != manifest.types_of(file):
        raise _changed(folder, file, "its row groups or columns are not the listed ones")


def _unread(place: str, error: OSError) -> DataError:
    return DataError(f"{place}: can not be read: {reason(error)}; start again once it can be reached")


def _changed(folder: Folder, file: DataFile, what: str) -> DataError:
    again = f"dist-mtl convert manifest {folder.place.url}"
    return DataError(f"{folder.at(file.path)}: {what}; restore it, or accept the new data with `{again}`")


def schema_of(schema: pa.Schema) -> dict[str, str]:
    """Column name -> Arrow type, in the file's order."""
    return {f.name: str(f.type) for f in schema}


def _schema(footer: Footer) -> dict[str, str]:
    return schema_of(footer.parsed.schema.to_arrow_schema())


def _row_groups(footer: Footer) -> tuple[int, ...]:
    return tuple(footer.parsed.row_group(i).num_rows for i in range(footer.parsed.num_row_groups))


def _difference(a: dict[str, str], b: dict[str, str]) -> str:
    parts = [f"no `{k}`" for k in a.keys() - b.keys()] + [f"extra `{k}`" for k in b.keys() - a.keys()]
    parts += [f"`{k}` is {b[k]}, not {a[k]}" for k in a.keys() & b.keys() if a[k] != b[k]]
    return ", ".join(sorted(parts)) or "another order of columns"
