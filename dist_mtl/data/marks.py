"""Which columns of a dataset are its labels, marked on the fields of the Parquet schema by a converter that knows.

So whoever describes the dataset needs not be told their names again. Without marks nothing is assumed.
"""

from collections.abc import Sequence

import pyarrow as pa

PLACE, FUNNEL = b"dist_mtl.label", b"dist_mtl.funnel"


def marked(field: pa.Field, place: int, funnel: bool) -> pa.Field:
    """The field as label number `place`, from 0. `funnel`: each label implies the one before it."""
    return field.with_metadata({PLACE: b"%d" % place, FUNNEL: b"true" if funnel else b"false"})


def marks_of(field: pa.Field) -> dict[bytes, bytes]:
    """The marks of a field, without whatever else it carries."""
    return {key: value for key, value in (field.metadata or {}).items() if key in (PLACE, FUNNEL)}


def labels_of(schema: pa.Schema) -> tuple[Sequence[str], bool] | None:
    """(the labels in their order, whether they are a funnel); None where no column is marked."""
    marks = {f.name: f.metadata for f in schema if f.metadata and f.metadata.get(PLACE, b"").isdigit()}
    if not marks:
        return None
    names = sorted(marks, key=lambda name: int(marks[name][PLACE]))
    return names, all(mark.get(FUNNEL) != b"false" for mark in marks.values())
