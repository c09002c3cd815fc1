"""Studies: what a study file may say, its cells, paired statistics against scipy, processes side by side."""

import math
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dist_mtl.errors import ConfigError, DataError
from dist_mtl.metrics.paired import holm
from dist_mtl.tools.report.blocks import Cell, Code, Column, Section, Table
from dist_mtl.tools.report.page import html
from dist_mtl.tools.study.cell_results import code_of
from dist_mtl.tools.study.cells import Plan, open_study
from dist_mtl.tools.study.markdown import markdown
from dist_mtl.tools.study.overrides import texts, toml
from dist_mtl.tools.study.run import best_of
from dist_mtl.tools.study.seed_statistics import corrected, over_backbones, over_seeds
from dist_mtl.tools.study.study_file import read_study
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]

STUDY = """
base = "{folder}/base.toml"
dir = "{folder}/study"
seeds = [1, 2]
metrics = ["ctr.auc", "ctcvr.logloss"]
[tune]
fit = "{folder}/fit"
validation = "{folder}/validation"
seeds = [11]
metrics = {{ "ctr.auc" = 1.0 }}
[backbones.mmoe]
"model.backbone" = {{ kind = "mmoe", experts = 2, hidden = [16] }}
[backbones.shared]
"model.backbone" = {{ kind = "shared_bottom", hidden = [16] }}
[methods.plain]
candidates = [{{ "model.dropout" = 0.1 }}, {{ "model.dropout" = 0.2 }}]
[methods.heavy]
"model.task_weights" = [1.0, 2.0]
candidates = [{{ "model.dropout" = 0.1 }}, {{ "model.dropout" = 0.2 }}]
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write STUDY with replacements, and the base beside it; returns the path."""

    def study(*replacements: tuple[str, str], data: bool = False) -> str:
        tree = samples.tree(tmp_path)
        tree["data"]["test"] = str(tmp_path / "test")
        samples.write_toml(tmp_path / "base.toml", tree)
        for place, name in enumerate(("train", "test", "fit", "validation") if data else ()):
            if not (tmp_path / name).exists():
                samples.write_logs(tmp_path / name, 50, seed=place)
        text = STUDY.format(folder=tmp_path)
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new.replace("FOLDER", str(tmp_path)))
        (tmp_path / "study.toml").write_text(text)
        return str(tmp_path / "study.toml")

    return study


# ----------------------------------------------------------------------------------------------------------- study file
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds = [1, 2]", "seed = [1, 2]", ["seeds is missing", "seed is not a key", "did you mean `seeds`?"]),
        ("fit = ", "fits = ", ["tune.fits is not a key", "did you mean `fit`?", "tune.fit is missing"]),
        ("seeds = [1, 2]", 'seeds = ["1"]', ["seeds.0", "valid integer"]),
        ("seeds = [1, 2]", "seeds = [1, 1]", ["seeds: a value stands there twice"]),
        ("seeds = [1, 2]", 'seeds = [1]\nbaseline = "plane"', ["no method `plane`", "did you mean `plain`?"]),
        ("seeds = [1, 2]", 'seeds = [1]\nheadline = ["cvr.auc"]', ["headline: `cvr.auc` is none of `metrics`"]),
        ("[methods.plain]\ncandidates = [{", "[methods.plain]\ncandidates = [{}, {", ["plain 3, heavy 2"]),
        ("[methods.heavy]", '[methods."a b"]', ["methods.a b: a name is letters"]),
        ("[methods.heavy]", "[methods.heavy]\nmodel.x = 1", ['heavy.model: write dotted keys in quotes, "model.x"']),
        ("[methods.heavy]", "[methods.heavy]\nseed = 3", ["methods.heavy.seed: the study sets `seed` itself"]),
        ("[methods.heavy]", '[methods.heavy]\n"data.train" = "x"', ["methods.heavy.data.train: the study sets"]),
        ("[methods.heavy]", '[methods.heavy]\n"model.towr" = [8]', ["mmoe x heavy, candidate 1", "`tower`?"]),
        ('{ "model.dropout" = 0.2 }', '{ "model.dropout" = 2 }', ["mmoe x plain, candidate 2: model.dropout"]),
        ('"model.dropout" = 0.2', '"model.dropout" = 0.1', ["candidate 2: the same settings as candidate 1"]),
        ('"ctcvr.logloss"', '"ctcvr.loglos"', ["metrics: `ctcvr.loglos` is no metric", "`ctcvr.logloss`?"]),
        ('{ "ctr.auc" = 1.0 }', '{ "ctr.au" = 1.0 }', ["tune.metrics: `ctr.au` is no metric"]),
        ("/validation", "/test", ["tune.validation: ", "is data.test, which no choice may see"]),
        ("[backbones.mmoe]", '[settings]\n"train.evaluate_every" = 5\n[backbones.mmoe]', ["touches it once"]),
        ("[backbones.mmoe]", "[settings]\nd = 2024-01-01\n[backbones.mmoe]", ["d is not a key"]),
    ],
)  # fmt: skip
def test_a_wrong_study_is_refused_in_words(write: Callable[..., str], old: str, new: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        open_study(write((old, new)))
    print(error.value)
    assert all(part in str(error.value) for part in says), error.value


def test_candidates_need_tuning_and_a_budget_may_be_unequal_on_demand(write: Callable[..., str]) -> None:
    text = Path(write()).read_text()
    tune = text[text.index("[tune]") : text.index("[backbones.mmoe]")]
    with pytest.raises(ConfigError, match=r"methods.plain.candidates: there is no \[tune\]"):
        open_study(write((tune, "")))
    third = ('{ "model.dropout" = 0.2 }]\n[methods.heavy]', '{ "model.dropout" = 0.2 }, {}]\n[methods.heavy]')
    plan = open_study(write(third, ("seeds = [1, 2]", "seeds = [1, 2]\nallow_unequal_budget = true")))
    assert [m.num_candidates for m in plan.study.methods.values()] == [3, 2]


def test_the_published_study_gives_every_method_the_same_budget() -> None:
    study = read_study(str(ROOT / "configs/study_movielens.toml"))
    assert len(study.backbones) == 6 and len(study.methods) == 6 and len(study.seeds) >= 5
    assert len({method.num_candidates for method in study.methods.values()}) == 1 and not study.allow_unequal_budget


# ---------------------------------------------------------------------------------------------------------------- cells
def names(plan: Plan) -> set[str]:
    chosen = dict.fromkeys(plan.pairs, 1)
    return {cell.name for cell in (*plan.tuning(), *plan.final(chosen))}


def test_cells_are_ordinary_runs_with_a_folder_each(write: Callable[..., str], tmp_path: Path) -> None:
    plan = open_study(write(data=True), ("train.max_steps=3",))
    tuning, final = plan.tuning(), plan.final({pair: 2 for pair in plan.pairs})
    assert len(tuning) == 2 * 2 * 2 and len(final) == 2 * 2 * 2 and len(names(plan)) == 16
    for cell in (*tuning, *final):
        config = cell.config
        assert (
            cell.folder.parent == tmp_path / "study/cells" and config.seed == cell.seed and config.train.max_steps == 3
        )
        folders = (config.data.train, config.data.test)
        assert folders == tuple(
            str(tmp_path / n) for n in (("fit", "validation") if cell in tuning else ("train", "test"))
        )
        assert config.model.dropout == (0.1, 0.2)[cell.candidate - 1]
        assert config.model.task_weights == ((1.0, 2.0) if cell.method == "heavy" else None)
    assert [cell.seed for cell in final] == [1] * 4 + [2] * 4, "one seed is complete before the next begins"
    told = final[0].command("base.toml")
    assert told[:4] == ("-m", "dist_mtl", "train", "base.toml") and all(text.startswith("--set=") for text in told[4:])


def test_a_cell_is_another_one_if_its_settings_or_its_rows_change(write: Callable[..., str], tmp_path: Path) -> None:
    before = names(open_study(write(data=True)))
    swapped = (
        '{ "model.dropout" = 0.1 }, { "model.dropout" = 0.2 }',
        '{ "model.dropout" = 0.2 }, { "model.dropout" = 0.1 }',
    )
    assert {cell.name for cell in open_study(write(swapped)).tuning()} <= before, (
        "the order of candidates is no setting"
    )
    one = names(open_study(write(("[1.0, 2.0]", "[1.0, 3.0]"))))
    assert {name for name in one if "-plain-" in name} == {name for name in before if "-plain-" in name}
    assert not {name for name in one if "-heavy-" in name} & before
    samples.write_logs(tmp_path / "other", 60, seed=9)
    moved = names(open_study(write(), (f"data.test={tmp_path / 'other'}",)))
    assert {name for name in moved if "-tune-" not in name}.isdisjoint(before)
    with pytest.raises(ConfigError, match="--set=seed=4: the study sets `seed` itself"):
        open_study(write(), ("seed=4",))


def test_absent_data_are_told(write: Callable[..., str]) -> None:
    with pytest.raises(DataError, match="fit"):
        open_study(write(("/fit", "/not-fit"), data=True)).tuning()


@pytest.mark.parametrize(
    "value",
    [True, 3, -1.5, 1e-7, 3e22, "plain", 'quo"te \\ and\nline, größe', [1, 2], [], {"kind": "mmoe", "hidden": [8, 4]},
     {"ctr.auc": 1.0, "a b": {"c": ["x", 'y"']}}],
)  # fmt: skip
def test_overrides_are_read_back_as_they_were(value: Any) -> None:
    [text] = texts({"a.b": value})
    key, _, raw = text.partition("=")
    assert key == "a.b" and tomllib.loads(f"value = {raw}")["value"] == value and "\n" not in toml(value)


# ----------------------------------------------------------------------------------------------------------- statistics
def test_over_seeds_is_the_paired_t_test() -> None:
    draw = np.random.default_rng(5)
    for count in (2, 5, 30):
        a = draw.normal(0.75, 0.01, count)
        b = a + draw.normal(0.001, 0.002, count)
        found, scipy = over_seeds(a, b, [0.001, 0.003]), stats.ttest_rel(b, a)
        interval = scipy.confidence_interval(0.95)
        gap = max(abs(found.low - interval.low), abs(found.high - interval.high), abs(found.p_value - scipy.pvalue))
        print(f"{count} seeds: {found.mean:+.5f}, p = {found.p_value:.4f}; {gap:.1e} from scipy.stats.ttest_rel")
        assert gap < 1e-12 and found.mean == pytest.approx((b - a).mean(), abs=1e-15)
        assert found.gains == (b > a).sum() and found.seeds == count and found.freedom == count - 1
        assert found.row_error == pytest.approx(math.sqrt((0.001**2 + 0.003**2) / 2))
        assert found.sign == (1 if interval.low > 0 else -1 if interval.high < 0 else 0)


def test_too_few_seeds_and_no_variance() -> None:
    alone = over_seeds([0.5], [0.6])
    assert (alone.seeds, alone.gains, alone.sign) == (1, 1, 0) and alone.mean == pytest.approx(0.1)
    assert all(math.isnan(x) for x in (alone.low, alone.high, alone.p_value, alone.standard_error, alone.row_error))
    same = over_seeds([0.5, 0.6], [0.5, 0.6])
    assert (same.mean, same.low, same.high, same.p_value, same.sign, same.gains) == (0, 0, 0, 1, 0, 0)
    certain = over_seeds([0.5, 0.75], [0.25, 0.5])
    assert (certain.low, certain.high, certain.p_value, certain.sign) == (-0.25, -0.25, 0, -1)
    undefined = over_seeds([0.5, math.nan], [0.6, 0.7])
    assert math.isnan(undefined.p_value) and undefined.sign == 0
    assert math.isnan(over_seeds([], []).mean) and math.isnan(over_backbones([alone, same]).p_value)


def test_backbones_are_strata() -> None:
    """Against a plain computation; with one stratum it is the t-test; over many draws 95 % of the intervals hold 0."""
    draw = np.random.default_rng(6)
    scales = np.array([0.5, 1, 1, 2, 3, 0.1])
    changes_BS = draw.normal(0, scales[:, None], (6, 5)) + 0.3
    strata = [over_seeds(np.zeros(5), row) for row in changes_BS]
    found = over_backbones(strata)
    parts = changes_BS.var(axis=1, ddof=1) / 5 / 36
    freedom = parts.sum() ** 2 / (parts**2 / 4).sum()
    t = changes_BS.mean() / math.sqrt(parts.sum())
    assert found.mean == pytest.approx(changes_BS.mean()) and found.freedom == pytest.approx(freedom)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), freedom)) and found.seeds == 30
    once = over_backbones(strata[:1])
    assert [once.low, once.high, once.p_value] == pytest.approx([strata[0].low, strata[0].high, strata[0].p_value])
    signs = []
    for noise_BS in draw.normal(0, scales[:, None], (1000, 6, 5)):
        signs.append(over_backbones([over_seeds(np.zeros(5), row) for row in noise_BS]).sign)
    wrong = np.mean(np.array(signs) != 0)
    print(f"6 strata of 5 seeds, no effect: the interval is off zero in {wrong:.1%} of 1,000 draws")
    assert 0.03 < wrong < 0.07


def test_holm_is_over_the_methods() -> None:
    draw = np.random.default_rng(7)
    family = {name: over_seeds(np.zeros(5), draw.normal(0.5, 1, 5)) for name in "abc"} | {"one": over_seeds([0], [1])}
    adjusted = holm(np.array([one.p_value for one in family.values()]))
    told = [one.adjusted for one in corrected(family).values()]
    assert told[:3] == adjusted[:3].tolist() and math.isnan(told[3])
    assert corrected({}) == {}


def test_the_best_candidate_and_the_first_of_equal_ones() -> None:
    assert best_of([0.5, 0.7, 0.7]).best == 2
    waiting = best_of([0.5, None, 0.7])
    assert waiting.best is None and waiting.scores == (0.5, None, 0.7), "a budget that was not spent chooses nothing"


# ---------------------------------------------------------------------------------------------------------------- words
def test_what_others_wrote_stays_text() -> None:
    evil = '<script>alert(1)</script> a|b & "c"'
    table = Table((Column("cell", numeric=False), Column(evil)), ((Cell(evil, evil), Cell("1")),))
    parts = [Section("x", evil, (table, Code("lines", ("```", evil))), evil)]
    page = html("base.html", kind="Study", title=evil, story=evil, sections=parts, folder=evil)
    text = markdown("title", parts)
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page.replace("http-equiv", "")
    [row] = [line for line in text.splitlines() if line.startswith("| &lt;script")]
    assert row.replace("\\|", "").count("|") == 3
    assert "````\n```\n" in text, "a fence longer than any inside"


def test_the_script_tells_an_error_before_torch_is_there(write: Callable[..., str]) -> None:
    path = write(("[methods.heavy]", '[methods.heavy]\n"model.towr" = [8]'))
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dist_mtl", "study", path],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 64 and f"error: {path}: mmoe x heavy, candidate 1: model.towr is not a key" in done.stderr
    assert "Traceback" not in done.stderr and " torch\n" not in done.stderr


def test_the_repository_around_an_installed_package_is_not_its_code(tmp_path: Path) -> None:
    """A wheel in project/.venv: the commit of the project says nothing about dist_mtl."""
    package = tmp_path / "project/.venv/site-packages"
    (package / "dist_mtl").mkdir(parents=True)
    (package / "dist_mtl/__init__.py").touch()
    git = ("git", "-C", str(tmp_path / "project"), "-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run([*git, *words], check=True, timeout=60)
    assert code_of(package).commit is None

    subprocess.run([*git, "add", "."], check=True, timeout=60)
    assert code_of(package).commit is not None
