"""`describe` names a dense feature whose largest number, once it is scaled, is beyond reason."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dist_mtl.data.files.writer import write_dataset
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.findings import findings
from tests.support import samples

ROWS = 2_000


def said(folder: Path, price: np.ndarray, feature: str) -> list[str]:
    """The findings about the price."""
    table = samples.logs(ROWS)
    table = table.set_column(table.schema.get_field_index("price"), "price", pa.array(price))
    write_dataset(folder / "train", [table])
    config = samples.config(folder, f"features.price={{kind='dense', {feature}}}".replace(", }", "}"))
    found = findings(describe(Wish(str(folder / "train"), config)))
    return [f"{one.tone}: {one.text} {one.what}" for one in found if "features.price: numbers" in one.text]


@pytest.mark.parametrize(
    ("far", "feature", "words"),
    [
        (1e30, "", "its largest value is 1e+30 once it is scaled"),
        (-1e30, "", "its largest value is -1e+30 once it is scaled"),
        (1e30, "scale='standard'", "of the variance by one row alone"),
        (1e200, "scale='standard'", "no standard deviation in float64"),
        (1e30, "std=1e3", "its largest value is 1e+27 once it is scaled"),
    ],
)
def test_a_far_number_is_named_with_its_scaled_value(tmp_path: Path, far: float, feature: str, words: str) -> None:
    price = np.random.default_rng(0).lognormal(2, 1, ROWS)
    price[7] = far
    [told] = said(tmp_path, price, feature)
    assert told.startswith("bad: features.price: numbers from ") and words in told


@pytest.mark.parametrize("feature", ["scale='standard'", "log=true", "mean=12.0, std=16.0", "scale='minmax'"])
def test_ordinary_numbers_are_not(tmp_path: Path, feature: str) -> None:
    assert said(tmp_path, np.random.default_rng(0).lognormal(2, 1, ROWS), feature) == []
