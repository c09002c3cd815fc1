"""Whatever a CSV holds, its suggestion parses, opens and builds, or one DataError says why there is none.

SUGGESTION_CASES: how many CSVs (default 60).
"""

import csv
import os
import random
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dist_mtl.build import fit
from dist_mtl.config.file import parse
from dist_mtl.config.training import RunConfig
from dist_mtl.data.features.fit import unfitted, with_found
from dist_mtl.data.loader import Dataset
from dist_mtl.errors import DataError
from dist_mtl.model.mtl import MultiTaskModel
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.world import World
from dist_mtl.tools.convert import tabular
from dist_mtl.tools.describe.description import Wish, describe
from dist_mtl.tools.describe.suggested_config import suggestion

NUM_CASES = int(os.environ.get("SUGGESTION_CASES", "60"))
RUNTIME = Runtime(World(), torch.device("cpu"), None, RunConfig(dir="unused"))
Draw = random.Random
COLUMNS: dict[str, Callable[[Draw, int, int], object]] = {
    "constant": lambda d, i, click: "7",
    "empty": lambda d, i, click: "",
    "row": lambda d, i, click: i,
    "random": lambda d, i, click: d.randrange(10**12),
    "few": lambda d, i, click: d.randrange(5),
    "few floats": lambda d, i, click: d.choice(["0.5", "1.5", ""]),
    "negative": lambda d, i, click: -d.randrange(100),
    "large": lambda d, i, click: 2**62 + d.randrange(1000),
    "float": lambda d, i, click: round(d.gauss(0, 1), 3),
    "huge": lambda d, i, click: d.choice(["1e300", "-1e300", "1", "2.5"]),
    "infinite": lambda d, i, click: d.choice(["inf", "-inf", "1.5", "2.5", "3"]),
    "one float": lambda d, i, click: d.choice(["0.25", ""]),
    "tiny": lambda d, i, click: d.random() * 1e-300,
    "text": lambda d, i, click: d.choice(["a", "b,c", 'q"q', "größe", "", "東京"]),
    "words": lambda d, i, click: f"w{d.randrange(10**9)}",
    "true": lambda d, i, click: d.choice(["true", "false"]),
    "epoch": lambda d, i, click: 1_700_000_000 + d.randrange(10**6),
    "date": lambda d, i, click: f"2024-0{d.randint(1, 9)}-1{d.randrange(9)}",
    "leak": lambda d, i, click: click,
    "bag": lambda d, i, click: "|".join(str(d.randrange(9)) for _ in range(d.randrange(4))),
    "empty bag": lambda d, i, click: "",
    "one bag": lambda d, i, click: d.choice(["5", "5|5", ""]),
}
NAMES = ["", "a.b", "a b", 'q"x', "größe", "type", "items", "2nd", "_x", "kind", "features", "x\x7f", "#", "😀", "a\\b"]
RATES = [0.0, 1.0, 0.5, 0.1, 0.9]


def case(number: int, folder: Path) -> tuple[tabular.Csv, tabular.Split]:
    """A CSV with odd columns under odd names."""
    draw = Draw(number)
    kinds = draw.sample(sorted(COLUMNS), draw.choice([0, 1, 2, 4, 8]))
    names = [draw.choice([kind, kind, draw.choice(NAMES)]) for kind in kinds]
    names = [name if names.count(name) == 1 else f"{name}{i}" for i, name in enumerate(names)]
    rate, second, funnel = draw.choice(RATES), draw.choice(RATES), draw.random() < 0.7
    path = folder / f"{number}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "click", "buy it", "group"])
        for row in range(draw.choice([12, 60, 300])):
            click = int(draw.random() < rate)
            bought = int(draw.random() < second) * (click if funnel else 1)
            writer.writerow([*(COLUMNS[kind](draw, row, click) for kind in kinds), click, bought, draw.randrange(40)])
    bags = {name: "|" for name, kind in zip(names, kinds, strict=True) if kind.endswith("bag") and name}
    source = tabular.Csv((str(path),), "click", "buy it", bags=bags, funnel=funnel)
    split = tabular.Split(by="group", validation=draw.choice([0.0, 0.2]))
    return source, split if draw.random() < 0.7 else tabular.Split()


def verdict(folder: Path) -> str:
    """What becomes of the suggestion for FOLDER/train."""
    described = describe(Wish(str(folder / "train")))
    try:
        text = suggestion(described)
    except DataError as error:
        assert "no configuration can be suggested: " in str(error)
        return "no label" if "nothing to learn" in str(error) else "no feature"
    config = parse(tomllib.loads(text))
    assert config.train.global_batch % 8 == 0 and str(config.run.dir).startswith(f"runs/{folder.name}-")
    rarer = min(described.counts.labels[0].positives, described.counts.rows - described.counts.labels[0].positives)
    useless = {"row", "constant", "epoch", "date", "empty"} | ({"leak"} if rarer >= 5 else set())
    assert not useless & {feature.column or name for name, feature in config.features.items()}
    assert "reject" not in text and "clamp" not in text
    dataset = Dataset.open(config.data.train, config, shuffle=True)
    if unfitted(config):
        found, _ = fit(config, dataset, RUNTIME)
        config = with_found(config, found)
        dataset = Dataset.open(config.data.train, config, shuffle=True)
    batch = next(iter(dataset.batches(0, 1)))
    assert torch.isfinite(batch.dense_BD).all()
    MultiTaskModel(config, torch.device("meta"), False)
    return "opens"


@pytest.mark.filterwarnings("ignore")
def test_every_suggestion_parses_and_opens_or_says_why_there_is_none(tmp_path: Path) -> None:
    verdicts: Counter[str] = Counter()
    for number in range(NUM_CASES):
        source, split = case(number, tmp_path)
        try:
            tabular.convert(source, split, tmp_path / str(number))
        except DataError as error:
            verdicts[f"not converted: {str(error).partition(':')[2][:30]}"] += 1
            continue
        try:
            verdicts[verdict(tmp_path / str(number))] += 1
        except Exception as error:
            error.add_note(f"case {number}: {(tmp_path / f'{number}.csv').read_text()[:400]}")
            raise
    print(verdicts)
    assert verdicts["opens"] > NUM_CASES / 4 and verdicts["no label"] and verdicts["no feature"]
