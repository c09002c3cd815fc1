"""The recipes for public data, as a user follows them: the command in the head converts, then the recipe trains.

On generated files of the exact raw formats, and on the few real rows beside the project where they are there.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from dist_mtl.config.file import load
from dist_mtl.tools.convert import aliccp, aliexpress
from tests.support import raw_logs
from tests.support.harness import ROOT, events, run_verb

SHARED = ROOT.parent / "shared/data"
LARGE = 100_000  # rows of a table that a test makes smaller


def census(path: Path, rows: int, seed: int) -> None:
    """Lines of the census files: 42 columns, `, ` between them, no header, both labels as text."""
    draw = np.random.default_rng(seed)
    numbers = (0, 5, 16, 17, 18, 24, 30, 39)
    columns = [draw.integers(0, 50, rows) if i in numbers else draw.choice(list("abcd"), rows) for i in range(42)]
    columns[7] = draw.choice(["Never married", "Widowed"], rows)
    columns[41] = draw.choice(["- 50000.", "50000+."], rows, p=[0.8, 0.2])
    path.write_text("\n".join(", ".join(map(str, row)) for row in zip(*columns, strict=True)) + "\n")


def documented(recipe: str, names: dict[str, Path]) -> list[str]:
    """The arguments of the `dist-mtl convert` command in a recipe's head, with real paths for its placeholders."""
    head = re.sub(r"^# *", "", (ROOT / recipe).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    command = re.search(r"^dist-mtl convert (.*)$", head, re.MULTILINE)[1]
    words = shlex.split(command)
    assert set(names) <= set(words), (set(names) - set(words), words)
    return [str(names.get(word, word)) for word in words]


def small(recipe: str, folder: Path, *overrides: str) -> list[str]:
    """Arguments that let a recipe train four steps on the datasets in `folder`, and evaluate on the way."""
    config = load(ROOT / recipe)
    sets = [f"run.dir={folder / 'run'}", "train.global_batch=64", "train.max_steps=4", "train.log_every=1"]
    sets += [f"data.train={folder / 'train'}", f"data.test={folder / 'test'}"]
    if config.data.validation:
        has_one = (folder / "validation").exists()
        sets += [f"data.validation={folder / ('validation' if has_one else 'test')}", "train.evaluate_every_rows=128"]
    sets += [f"tables.{name}.rows=997" for name, table in config.tables.items() if table.rows > LARGE]
    return [recipe, *(f"--set={text}" for text in (*sets, *overrides))]


def run(*arguments: str, world: int = 1) -> str:
    """Run a verb on `world` ranks; what the first one printed."""
    exits = run_verb(world, *arguments)
    assert [e.code for e in exits] == [0] * world, exits[0].stderr
    return exits[0].stdout


def assert_trained(folder: Path, tasks: set[str]) -> None:
    """Four steps, finite losses, nothing dropped for want of a policy, evaluated on the test split."""
    steps = events(folder / "run", "step")
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert all(np.isfinite(step["loss"]) for step in steps)
    final = [event for event in events(folder / "run", "evaluation") if event["final"]]
    assert len(final) == 1 and set(final[0]["tasks"]) == tasks, final
    print({task: metrics["rows"] for task, metrics in final[0]["tasks"].items()})


FUNNEL = {"ctr", "cvr", "ctcvr"}


def test_aliexpress_from_the_raw_files(tmp_path: Path) -> None:
    raw_logs.write_aliexpress(tmp_path / "NL", pages=100, per_page=8)
    names = {"NL": tmp_path / "NL", "data/aliexpress_nl": tmp_path}
    told = run("convert", *documented("configs/aliexpress.toml", names), "--jobs=1")
    assert "1,064 rows read" in told
    run("train", *small("configs/aliexpress.toml", tmp_path, "model.backbone.experts=2"))  # the real rows get all 8
    assert_trained(tmp_path, FUNNEL)
    assert events(tmp_path / "run", "counts")[0]["clamped"] == 0


def test_aliccp_from_the_raw_files(tmp_path: Path) -> None:
    raw_logs.write_aliccp(tmp_path / "SRC", rows=600, commons=60, scale=0.2, violations=3)
    names = {"SRC": tmp_path / "SRC", "data/aliccp": tmp_path}
    told = run("convert", *documented("configs/aliccp.toml", names), "--jobs=1")
    assert "750 rows read" in told and "6 lines convert without a click: kept, data.violations decides" in told
    run("train", *small("configs/aliccp.toml", tmp_path, "train.max_steps=4"), world=2)
    assert_trained(tmp_path, FUNNEL)


CRITEO = {
    "click_conversion": ((), FUNNEL),
    "last_click": (('data.labels=["click", "last_click"]',), FUNNEL),
    "conversion": (
        (
            'data.labels=["click", "conversion"]', "data.funnel=false", "model.head=independent",
            'select.metrics={"click.auc" = 0.5, "conversion.auc" = 0.5}',
        ),
        {"click", "conversion"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def criteo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("criteo")
    path = folder / "criteo_attribution_dataset.tsv.gz"
    raw_logs.write_criteo(path, 3_000)
    names = {path.name: path, "data/criteo_attribution": folder}
    run("convert", *documented("configs/criteo_attribution.toml", names), "--jobs=1")
    return folder


@pytest.mark.parametrize("labels", CRITEO)
def test_criteo_with_each_reading_of_a_conversion(criteo: Path, tmp_path: Path, labels: str) -> None:
    overrides, tasks = CRITEO[labels]
    text = re.sub(r"\s*\n# *", " ", (ROOT / "configs/criteo_attribution.toml").read_text())
    for override in overrides:  # the recipe's head says them so
        key, _, value = override.partition("=")
        assert f"--set={key}='{value}'" in text or f"--set={override}" in text, override
    arguments = small("configs/criteo_attribution.toml", criteo, *overrides, f"run.dir={tmp_path / 'run'}")
    run("train", *arguments)
    assert_trained(tmp_path, tasks)


def test_census_from_files_without_a_header(tmp_path: Path) -> None:
    train, test = tmp_path / "census-income.data", tmp_path / "census-income.test"
    census(train, 500, seed=1)
    census(test, 200, seed=2)
    names = {train.name: train, test.name: test, "data/census": tmp_path}
    told = run("convert", *documented("configs/census.toml", names))
    assert "700 rows read: 500 train, 200 test" in told
    run("train", *small("configs/census.toml", tmp_path))
    assert_trained(tmp_path, {"income", "marital"})


@pytest.mark.skipif(not (SHARED / "aliexpress").is_dir(), reason="no ../shared/data/aliexpress (not ours to ship)")
def test_aliexpress_on_real_rows(tmp_path: Path) -> None:
    """1,000 + 1,000 rows; a share of them would hold no purchase, so the test split decides."""
    aliexpress.convert(aliexpress.find(SHARED / "aliexpress"), tmp_path)
    run("train", *small("configs/aliexpress.toml", tmp_path))
    assert_trained(tmp_path, FUNNEL)
    assert events(tmp_path / "run", "counts")[0]["clamped"] == 0  # the tables are large enough for the real codes


@pytest.mark.skipif(not (SHARED / "aliccp").is_dir(), reason="no ../shared/data/aliccp (not ours to ship)")
def test_aliccp_on_real_rows(tmp_path: Path) -> None:
    """Ten rows of about 900 tokens: four epochs of one step each."""
    aliccp.convert(aliccp.find(SHARED / "aliccp"), tmp_path)
    overrides = ("train.global_batch=10", "train.epochs=4", "train.evaluate_every_rows=20", "data.leaks=warn")
    overrides += ('select.metrics={"ctr.auc" = 1.0}',)  # none of the ten test rows is bought
    run("train", *small("configs/aliccp.toml", tmp_path, *overrides))
    assert_trained(tmp_path, FUNNEL)
