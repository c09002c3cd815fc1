"""One schema for all files of a dataset, and rows in it: what lists, trains, scores and describes reads by this.

Files may hold a column in other types of one class (see `column_class`): int32 and int64, text and large text,
categories of other values, `not null` or not. They are read in a type that holds the values of them all.
"""

from collections.abc import Sequence
from functools import reduce

import pyarrow as pa

from dist_mtl.data.column_class import RawColumn, class_of, same_class
from dist_mtl.data.files.in_type import in_type
from dist_mtl.data.files.joined_type import joined_type, readable_type
from dist_mtl.data.marks import marks_of
from dist_mtl.errors import DataError


def readable(schema: pa.Schema) -> pa.Schema:
    """The types in which columns are read: nothing is `not null`, an extension is what it is stored as, a view a plain
    type, and a category has room for the values of any number of files. Marks of labels stay."""
    return pa.schema([pa.field(f.name, readable_type(f.type), metadata=marks_of(f)) for f in schema])


def joined(schemas: Sequence[pa.Schema], sources: Sequence[str]) -> pa.Schema:
    """The schema in which files with these are read, in the order of the first; one is read as `readable` says.

    `sources` names them in messages. Raises DataError for columns that no type holds, by name: of another class, or
    such as uint64 beside int64.
    """
    return reduce(lambda whole, i: _with(whole, schemas, sources, i), range(1, len(schemas)), readable(schemas[0]))


def _with(whole: pa.Schema, schemas: Sequence[pa.Schema], sources: Sequence[str], number: int) -> pa.Schema:
    """`whole`, once it holds the columns of a further file. Names that stand in a file twice are no feature's."""
    other, problems, fields = readable(schemas[number]), [], []
    if sorted(whole.names) != sorted(other.names):
        twice = [name for name in other.names if whole.names.count(name) != other.names.count(name)]
        raise DataError(f"{sources[number]}: has other columns than {sources[0]}: `{(twice or whole.names)[0]}`")
    for field in whole:
        if whole.names.count(field.name) > 1:
            fields.append(field)
            continue
        kind = other.field(field.name).type
        both = joined_type(field.type, kind)
        if both is None:
            problems.append(_no_type(field.name, schemas[number].field(field.name).type, field.type))
        fields.append(field.with_type(both or field.type))
    if problems:
        raise DataError(f"{sources[number]}: its columns differ from those of {sources[0]}: {'; '.join(problems)}")
    return pa.schema(fields)


def _no_type(name: str, here: pa.DataType, before: pa.DataType) -> str:
    now, then = (RawColumn(class_of(kind), str(kind)) for kind in (here, before))
    if same_class(now.kind, then.kind):
        return f"`{name}` is {here}, not {before}, and no type holds both; cast it to one type in all files"
    return f"`{name}` is {now}, not {then}; a column has one class, so cast it in one of them"


def cast(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The columns of `schema`, in its order and types. Raises DataError: a name that stands there twice, or a value
    that the type has no room for."""
    columns = []
    for field in schema:
        places = table.schema.get_all_field_indices(field.name)
        if len(places) != 1:
            raise DataError(f"{where}: there are {len(places)} columns `{field.name}`; give each column its own name")
        column = table.column(places[0])
        try:
            columns.append(pa.chunked_array([in_type(chunk, field.type) for chunk in column.chunks], field.type))
        except pa.ArrowException as error:
            raise DataError(
                f"{where}: column `{field.name}` is {column.type} here and is read as {field.type}, for other files "
                f"differ: {str(error).splitlines()[0]}; cast it to one type in all files"
            ) from None
    return pa.table(columns, schema=schema) if columns else table.select([])


def subset(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The columns of these names, each once in the schema."""
    return pa.schema([schema.field(name) for name in dict.fromkeys(names)])
