"""The columns of CSV files: what the options, the headers and a pattern (`--like`) say of them before a row is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.csv

from dist_mtl.errors import ConfigError, DataError, nearest
from dist_mtl.tools.convert.delimited import Layout, table_of
from dist_mtl.tools.convert.like import Like
from dist_mtl.tools.convert.lines import Block, first_line
from dist_mtl.tools.convert.values import NULLS, Target


@dataclass(frozen=True)
class Csv:
    """What the files are: which columns are labels, ids, and bags (column -> the separator inside its text).

    `names`: of the columns, where the files have no header. `positive`: label -> the text that stands for 1; every
    other text is a 0. `types`: of columns or of a bag's elements; what is in none of these gets the type that holds
    its values. `nulls`: further texts that stand for nothing, in every column; with '' among them no other do.
    """

    paths: tuple[str, ...]
    click: str | None = None  # without both labels: rows to be scored
    conversion: str | None = None
    delimiter: str = ","
    ids: tuple[str, ...] = ()  # columns to read as text, whatever they look like
    bags: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    positive: dict[str, str] = field(default_factory=dict)
    funnel: bool = True  # a conversion implies a click; false: neither label says anything of the other
    types: dict[str, pa.DataType] = field(default_factory=dict)
    nulls: tuple[str, ...] = ()
    like: Like | None = None
    unlabelled: bool = False  # leave the label columns out

    def __post_init__(self) -> None:
        labels = self.labels
        if (self.click is None) != (self.conversion is None):
            given, other = ("--click", "--conversion") if self.conversion is None else ("--conversion", "--click")
            raise ConfigError(f"{given}: name the other label with {other}, too; without both, rows are to be scored")
        if self.click is not None and self.click == self.conversion:
            raise ConfigError(f"--click and --conversion both name `{self.click}`; name two columns")
        for name in (*self.ids, *self.bags, *self.types):
            if name in labels:
                raise ConfigError(f"`{name}` is a label; it can not be an --id, a --type or a --bag as well")
        for name in self.ids:
            if name in self.bags:
                raise ConfigError(f"`{name}` is named as --id and as --bag; keep one of the two")
            if name in self.types:
                raise ConfigError(f"`{name}` is named as --id and as --type; keep one of the two")

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that the options name, else those of the pattern."""
        named = tuple(name for name in (self.click, self.conversion) if name is not None)
        return named or (self.like.labels if self.like is not None else ())

    @property
    def text_nulls(self) -> tuple[str, ...]:
        """What stands for nothing in a text column: NA is a country, and null may be the name of a user."""
        return tuple(dict.fromkeys(("", *self.nulls)))

    @property
    def number_nulls(self) -> tuple[str, ...]:
        """The same of a number column and of labels."""
        return tuple(dict.fromkeys(("", *(() if "" in self.nulls else NULLS), *self.nulls)))

    def target(self, kind: pa.DataType, separator: str = "", exact: bool = True) -> Target:
        """What texts become that are to be of this type."""
        nulls = self.text_nulls if pa.types.is_string(kind) or separator else self.number_nulls
        return Target(kind, nulls, separator, exact)


@dataclass(frozen=True)
class Columns:
    """The columns of the files (by path, in their order) and of the dataset. It travels to processes.

    `fixed`: those whose type is given; the others that are `written` and no label are `open`.
    """

    source: Csv
    of_path: dict[str, tuple[str, ...]]
    written: tuple[str, ...]
    fixed: dict[str, Target]
    labels: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def open(self) -> tuple[str, ...]:
        """Columns whose type follows from their values."""
        return tuple(name for name in self.written if name not in self.fixed and name not in self.labels)

    def texts(self, block: Block) -> pa.Table:
        """The rows of a block as texts; null where there is nothing, '' where there is "". Raises DataError."""
        types = dict.fromkeys(self.of_path[block.segment.path], pa.string())
        return table_of(block, Layout(types, self.source.delimiter, quoted=True, quoted_nulls=False))


def columns_of(source: Csv, paths: Sequence[str]) -> Columns:
    """The columns of `paths` by the options and the headers. Raises ConfigError, DataError: names that do not fit."""
    first, remarks = paths[0], []
    of_path = {path: _names(path, source, remarks) for path in dict.fromkeys(paths)}
    names = of_path[first]
    for option, wanted in (("--id", source.ids), ("--type", source.types), ("--bag", source.bags)):
        for name in wanted:
            known(name, names, option, first)
    labels = _labels(source, names, first, remarks)
    dropped = {name for name in source.labels if name not in labels}
    if source.like is None:
        written = tuple(name for name in names if name not in dropped)
    else:
        written = _like(source, source.like, names, labels, dropped, first, remarks)
    for path, others in of_path.items():
        _same(path, others, written, first, names, source.like is not None)
    fixed = {name: _target(source, name) for name in written if name not in labels and _is_fixed(source, name)}
    return Columns(source, of_path, written, fixed, labels, tuple(dict.fromkeys(remarks)))


def known(name: str, names: Sequence[str], what: str, path: str) -> None:
    """Raise DataError, with the nearest name, if there is no such column."""
    if name not in names:
        hint = nearest(name, names) or f"it has {', '.join(names)}"
        raise DataError(f"{path}: there is no column `{name}` ({what}); {hint}")


def _names(path: str, source: Csv, remarks: list[str]) -> tuple[str, ...]:
    """The names of a file's columns; one without a name, as pandas writes its index, is called by its number."""
    if not source.names:
        line = first_line(path)
        if "\0" in line:
            raise DataError(f"{path}, line 1: not UTF-8 text, it holds zero bytes; convert it to UTF-8, e.g. by iconv")
        parse = pa.csv.ParseOptions(delimiter=source.delimiter)
        try:
            names = pa.csv.read_csv(pa.BufferReader(line.encode() + b"\n"), parse_options=parse).schema.names
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}, line 1: no header ({str(error).splitlines()[0]}); --names gives names") from None
    else:
        names = list(source.names)
    if len(names) == 1 and (marks := [mark for mark in ";\t|," if mark in names[0]]):
        raise DataError(
            f"{path}: the header is one column, `{names[0]}`; say what separates columns, e.g. --delimiter={marks[0]!r}"
        )
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"{path}: the header names {', '.join(twice)} more than once; give each column its own name")
    for place, name in enumerate(names):
        if not name.strip():
            names[place] = called = next(
                c for c in (f"column_{place + 1}" + "_" * n for n in range(len(names) + 1)) if c not in names
            )
            remarks.append(f"`{called}`: column {place + 1} has no name in the header, and is called so")
    return tuple(names)


def _labels(source: Csv, names: Sequence[str], path: str, remarks: list[str]) -> tuple[str, ...]:
    """The label columns of the dataset; none: its rows are to be scored."""
    wanted = source.labels
    there = [name for name in wanted if name in names]
    if source.unlabelled:
        if there:
            remarks.append(f"{_listed(there)}: left out (--unlabelled)")
        return ()
    if source.like is None or len(there) == len(wanted):
        for name in wanted:
            known(name, names, "the label", path)
        if not wanted and source.like is None:
            remarks.append("no labels (--click, --conversion): the rows can be scored, not trained on")
        return wanted
    if there:
        absent = [name for name in wanted if name not in names]
        raise DataError(
            f"{path}: there is no column {_listed(absent)}, a label, but {_listed(there)}; add it, or leave labels out "
            f"with --unlabelled: the rows can then be scored"
        )
    remarks.append(f"no column {_listed(wanted)}: the rows can be scored, not trained on")
    return ()


def _like(
    source: Csv, like: Like, names: Sequence[str], labels: Sequence[str], dropped: set[str], path: str,
    remarks: list[str],
) -> tuple[str, ...]:  # fmt: skip
    """The columns of the dataset: those of the pattern in its order, then new ones that an option names."""
    unasked = dropped | (like.optional if not labels else set())
    absent = [name for name in like.types if name not in names and name not in unasked and name not in labels]
    if missing := [name for name in absent if name in like.needed]:
        new = [name for name in names if name not in like.types]
        near = [f"`{name}`: {hint}" for name in missing if (hint := nearest(name, new))]
        advice = f" ({'; '.join(near)})" if near else ""
        labels_may = "" if like.labels or labels else ". Labels may be absent: name them with --click and --conversion"
        raise DataError(
            f"{path}: there is no column {_listed(missing)}, which {like.name} has{advice}; add it, with empty values "
            f"where they are not known{labels_may}"
        )
    if absent:
        remarks.append(f"{_listed(absent)}: not in these files, and not needed for {like.name}")
    of_use = [name for name, kind in like.types.items() if kind is not None or name in like.needed]
    ours = [name for name in of_use if name in names and name not in dropped]
    ours += [name for name in labels if name not in ours]
    asked = [n for n in names if n not in ours and n not in dropped and n in (*source.ids, *source.types, *source.bags)]
    if extra := [name for name in names if name not in ours and name not in asked and name not in dropped]:
        why = f"{like.name} has no such column, or one that a CSV cannot hold"
        remarks.append(f"{_listed(extra)}: left out, for {why}; --type or --id keeps one")
    return (*ours, *asked)


def _same(
    path: str, others: Sequence[str], written: Sequence[str], first: str, names: Sequence[str], may_have_more: bool
) -> None:
    """Raise DataError if another file has not the columns of the first; their order does not matter."""
    absent = [n for n in (written if may_have_more else names) if n not in others]
    extra = [] if may_have_more else [n for n in others if n not in names]
    if absent or extra:
        raise DataError(f"{path}: its columns differ from those of {first}: missing {absent}, extra {extra}")


def _is_fixed(source: Csv, name: str) -> bool:
    given = name in source.ids or name in source.types or name in source.bags
    return given or (source.like is not None and name in source.like.types)


def _target(source: Csv, name: str) -> Target:
    """What a column becomes whose type the options or the pattern give."""
    if source.like is None or name not in source.like.types:
        kind = source.types.get(name, pa.string())
        return source.target(kind, source.bags.get(name, ""), exact=False)
    if (kind := source.like.types[name]) is None:
        raise DataError(
            f"`{name}` has a type in {source.like.name} that a CSV cannot hold; write such rows as Parquet, and list "
            f"them with `dist-mtl convert manifest`"
        )
    separator = source.bags.get(name, "")
    if pa.types.is_list(kind) and not separator:
        raise ConfigError(f"`{name}` is a list in {source.like.name}; say what separates its values: --bag '{name}:|'")
    if separator and not pa.types.is_list(kind):
        raise ConfigError(f"--bag {name}: it is {kind}, no list, in {source.like.name}; remove the option")
    inner = kind.value_type if separator else kind
    wish = pa.string() if name in source.ids else source.types.get(name, inner)
    if wish != inner:
        raise ConfigError(f"`{name}` is {inner} in {source.like.name}, not {wish}; remove the --type or --id")
    return source.target(inner, separator, exact=name not in source.types)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
