"""The suggested configuration of a small CSV trains as it is, in the real loop, and stops by its validation rows."""

import tomllib
from pathlib import Path

import numpy as np

from dist_mtl.config.file import parse
from dist_mtl.tools.convert import tabular
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.suggested_config import suggestion
from tests.support.harness import Cluster
from tests.support.workers import train

ROWS = 900


def write_csv(path: Path) -> None:
    """Rows of 100 users, of whom each comes nine times or so, one kind of them clicking more often."""
    draw = np.random.default_rng(3)
    user, kind = draw.integers(0, 100, ROWS), draw.integers(0, 3, ROWS)
    click = draw.random(ROWS) < np.array([0.1, 0.3, 0.6])[kind]
    bought = click & (draw.random(ROWS) < 0.4)
    lines = (f"{u},k{k},{int(c)},{int(b)}\n" for u, k, c, b in zip(user, kind, click, bought, strict=True))
    path.write_text("user,kind,click,conversion\n" + "".join(lines))


def test_the_suggestion_for_a_small_csv_trains_and_ranks(tmp_path: Path) -> None:
    """900 rows pass many times by in the first steps, which are looked at for leaks: no id of few rows is one."""
    write_csv(tmp_path / "a.csv")
    source = tabular.Csv((str(tmp_path / "a.csv"),), "click", "conversion")
    tabular.convert(source, tabular.Split(share=0.2, validation=0.2), tmp_path / "out")
    text = suggestion(describe(Wish(str(tmp_path / "out/train"))))
    own = (f'run.dir="{tmp_path / "run"}"', 'run.device="cpu"')
    [found] = Cluster(1).run(train, parse(tomllib.loads(text), own), timeout=120)
    print(found)
    assert {"user", "kind"} <= parse(tomllib.loads(text)).features.keys()
    assert found["ctr"]["auc"]["value"] > 0.65
