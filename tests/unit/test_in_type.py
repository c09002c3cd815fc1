"""Arrays cast to the type of a dataset, also where Arrow itself casts them wrongly."""

import pyarrow as pa

from dist_mtl.data.files.in_type import in_type


def test_what_arrow_casts_wrongly() -> None:
    """List views, and lists of null: Arrow 26 casts them with buffers that are too short."""
    lists = [[1, 2, 3], None, [4], []]
    for kind in (
        pa.list_view(pa.int64()),
        pa.large_list_view(pa.int64()),
        pa.large_list(pa.int64()),
        pa.list_(pa.int8()),
    ):
        for target in (pa.list_(pa.int64()), pa.large_list(pa.int64())):
            for part in (slice(0, 4), slice(1, 4), slice(3, 4), slice(4, 4)):
                found = in_type(
                    pa.array(lists, kind)[part] if "view" not in str(kind) else pa.array(lists[part], kind), target
                )
                found.validate(full=True)
                assert found.to_pylist() == lists[part] and found.type == target
    none = pa.array([[None, None, None], [None] * 4, None], pa.list_(pa.null()))
    found = in_type(pa.StructArray.from_arrays([none], ["a"]), pa.struct([("a", pa.large_list(pa.null()))]))
    found.validate(full=True)
    assert found.field("a").to_pylist() == none.to_pylist()
    fixed = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2))[1:]
    assert (
        in_type(fixed, pa.list_(pa.int64(), 2)).to_pylist()
        == in_type(fixed, pa.list_(pa.int64())).to_pylist()
        == [None, [3, 4]]
    )
