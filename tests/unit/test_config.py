"""A configuration is right, or one ConfigError says which key is wrong and what was meant."""

import copy
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dist_mtl.config import Config, MMoE, SharedBottom
from dist_mtl.config.file import load, parse
from dist_mtl.errors import ConfigError
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (ROOT / "configs").glob("*.toml") if not path.name.startswith(("study_", "scale")))


def refused(*overrides: str, tree: dict[str, Any] | None = None) -> str:
    """The message of the ConfigError that these overrides raise."""
    with pytest.raises(ConfigError) as caught:
        parse(tree or samples.tree("x"), overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=[p.name for p in FILES])
def test_every_published_configuration_loads(path: Path) -> None:
    config = load(path)
    assert config.run.dir.startswith("runs/")
    assert parse(config.model_dump(mode="json")) == config


SELECT = ("data.test='t'", "train.evaluate_every=5")


def test_there_are_published_configurations() -> None:
    assert "quickstart.toml" in [p.name for p in FILES]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("trian.epochs=1", "trian is not a key; did you mean `train`?"),
        ("train.epoch=1", "train.epoch is not a key; did you mean `epochs`?"),
        ("data.shufle=true", "data.shufle is not a key; did you mean `shuffle`?"),
        ("tables.user.row=3", "tables.user.row is not a key; did you mean `rows`?"),
        ("features.user.colum='a'", "features.user.colum is not a key; did you mean `column`?"),
        ("features.history.maxlength=1", "features.history.maxlength is not a key; did you mean `max_length`?"),
        ("model.backbone.num_experts=1", "model.backbone.num_experts is not a key; did you mean `experts`?"),
        ("model.interaction={kind='dcn', layer=1}", "model.interaction.layer is not a key; did you mean `layers`?"),
        ("optim.dense.learning=1", "optim.dense.learning is not a key; known keys: lr, weight_decay, warmup_steps"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, hint: str) -> None:
    assert refused(key) == f"config: {hint}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=1.0", "train.epochs: Input should be a valid integer; got 1.0"),
        ("train.epochs=true", "train.epochs: Input should be a valid integer; got True"),
        ("train.epochs='1'", "train.epochs: Input should be a valid integer; got '1'"),
        ("data.shuffle=1", "data.shuffle: Input should be a valid boolean; got 1"),
        ("data.labels='click'", "data.labels: Input should be a valid array; got 'click'"),
        ("data.labels=[]", "data.labels: Tuple should have at least 1 item"),
        ("run=3", "run: Input should be an object; got 3"),
        ("run.device='tpu'", "run.device: Input should be 'auto', 'cpu' or 'cuda'; got 'tpu'"),
        ("optim.dense.lr=-1", "optim.dense.lr: Input should be greater than 0; got -1"),
        ("optim.dense.lr=inf", "optim.dense.lr: Input should be a finite number; got inf"),
        ("optim.dense.lr=nan", "optim.dense.lr: Input should be a finite number; got nan"),
        ("tables.user.dim=6", "tables.user.dim: Input should be a multiple of 4; got 6"),
        ("train.keep=1", "train.keep: Input should be greater than or equal to 2; got 1"),
        ("model.dropout=1", "model.dropout: Input should be less than 1; got 1"),
        ("model.backbone.experts='x'", "model.backbone.experts: Input should be a valid integer; got 'x'"),
        ("features.user.kind='word'", "features.user: Input tag 'word' found using 'kind' does not match"),
        ("features.age.boundaries=[3, 3]", "features.age: boundaries must be strictly ascending"),
        ("seed=1979-05-27", "seed: Input should be a valid integer; got '1979-05-27'"),
    ],
)
def test_a_wrong_value_is_never_converted(override: str, words: str) -> None:
    assert words in refused(override)


@pytest.mark.parametrize("override", ["seed=100000000000000000000000", "tables.user.rows=100000000000000000000000"])
def test_a_number_that_no_machine_word_holds_is_refused(override: str) -> None:
    """torch would end in a traceback."""
    refused(override)


def test_every_mistake_is_told_at_once() -> None:
    lines = refused("train.epoch=1", "data.shuffle=3", "seed='x'").splitlines()
    assert len(lines) == 3 and all(line.startswith("config: ") for line in lines)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["features.user.table='usr'"], "features.user: there is no table `usr`; did you mean `user`?"),
        (["tables.spare.rows=3"], "tables.spare: no feature is looked up in it"),
        (["features.age.table='user'"], "features.age: a bucketised feature makes its own table"),
        (["features.user.column='conversion'"], "features.user: column `conversion` is a label"),
        (["data.labels=['click', 'click']"], "data.labels: a column stands there twice"),
        (["model.task_weights=[1.0]"], "model.task_weights: 1 weight for the 2 labels"),
        (["data.kept=[0.1]"], "data.kept: 1 share for the 2 labels"),
        (["data.validation='x/train'"], "data.validation: `x/train` is data.train"),
        (["data.validation='v'"], "data.validation: it is evaluated on the way, so set train.evaluate_every"),
        (["train.evaluate_every=5"], "train.evaluate_every: there is nothing to evaluate"),
        (["train.evaluate_every=5", "train.evaluate_every_rows=9"], "keep one of the two"),
        (["metrics.slices=['day', 'day']"], "metrics.slices: a column stands there twice"),
        ([*SELECT, "select.metrics={'ctr.acu'=1.0}"], "`ctr.acu` is no metric of this run; did you mean `ctr.auc`?"),
        ([*SELECT, "select.metrics={'ctr.user.gauc'=1.0}"], "`ctr.user.gauc` is no metric of this run"),
        (["data.test='t'", "select.metrics={'ctr.auc'=1.0}"], "select: there is nothing to select among"),
        (["tables.user.sharding='column_wise'"], "tables.user: column_wise would change the maths of rowwise_adagrad"),
        (["tables.user.sharding='grid'"], "tables.user: grid would change the maths of rowwise_adagrad"),
        (["tables.user.sharding='data_parallel'", "optim.embedding.kind='adam'"], "data_parallel would change the"),
        (["tables.item={rows=9, dim=12, sharding='grid'}", "optim.embedding.kind='sgd'"], "multiple of 8"),
        (["model.interaction={kind='dot'}"], "dot products need one dim for all tables; they have [8, 16, 24]"),
        (["data.shuffle_rows=63"], "data.shuffle_rows: 63 is less than one step"),
        (["features={price={kind='dense'}}", "tables={}"], "at least one must be an id, a bag or a bucketised number"),
        (["features.history={kind='bag', table='item', keep='first'}"], "`keep` says which end"),
    ],
)
def test_values_that_do_not_fit_together(overrides: list[str], words: str) -> None:
    assert words in refused(*overrides)


def test_overrides_are_toml_or_plain_strings() -> None:
    config = parse(
        samples.tree("x"),
        [
            "train.epochs=3",
            "run.dir=a/b c",
            "optim.dense.lr=1e-2",
            "model.backbone={kind='shared_bottom'}",
            "model.tower=[3, 4]",
        ],
    )
    assert (config.train.epochs, config.run.dir, config.optim.dense.lr) == (3, "a/b c", 0.01)
    assert config.model.backbone == SharedBottom(kind="shared_bottom") and config.model.tower == (3, 4)
    assert parse(samples.tree("x"), ["train.epochs=2", "train.epochs=5"]).train.epochs == 5
    assert parse(samples.tree("x"), ["data.test=1=2"]).data.test == "1=2"


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train..epochs=1", ".train=1", ""])
def test_an_override_that_is_none(text: str) -> None:
    assert "--set=section.key=value" in refused(text)


@pytest.mark.parametrize("value", ["'a b='c''", '"a', "[1, 2", "{kind = 'mmoe'", " 'a'b", "'a'\nseed = 2"])
def test_a_quote_that_is_not_closed_is_no_part_of_a_path(value: str) -> None:
    told = refused(f"run.dir={value}")
    assert told.startswith("--set=run.dir=") and "the value is not TOML: " in told and 'write a text as "..."' in told
    assert parse(samples.tree("x"), ["run.dir=it's [1]"]).run.dir == "it's [1]"


def test_an_override_below_a_value() -> None:
    assert "`dir` is a value, it has no keys below it" in refused("run.dir.x=1")


def test_overrides_leave_the_tree_alone() -> None:
    tree = samples.tree("x")
    before = copy.deepcopy(tree)
    parse(tree, ["train.epochs=9", "model.backbone.experts=3"])
    assert tree == before


def test_a_configuration_is_frozen_and_equal_by_value() -> None:
    config = samples.config("x")
    with pytest.raises(Exception, match="frozen"):
        config.train.epochs = 3
    assert config == samples.config("x") != samples.config("x", "seed=2")
    assert config.model.backbone == MMoE(kind="mmoe", experts=2, hidden=(16, 8))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["features.history={kind='bag', table='item'}"],  # a list of any length
        [
            "model.interaction={kind='dcn', rank=2}",
            "model.task_weights=[1.0, 0.5]",
            "data.sample={train_rows=9, test_rows=9}",
        ],
    ],
)
def test_what_a_commit_holds_is_a_configuration_again(overrides: list[str]) -> None:
    """`dist-mtl evaluate` parses the dump that a commit carries."""
    config = samples.config("x", *overrides)
    assert parse(config.model_dump(mode="json")) == config


def test_tables_of_features() -> None:
    config = samples.config("x")
    assert list(config.all_tables) == ["user", "item", "tag", "age"]
    assert config.all_tables["age"].rows == 5  # four boundaries
    assert [config.table_of(f) for f in ("user", "history", "age", "price")] == ["user", "item", "age", None]


def test_no_torch_is_imported_for_a_configuration() -> None:
    code = "import sys, dist_mtl.config.file, dist_mtl.data.order; print({'torch', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


VALUES = [
    0, -1, 1, 10**6, 2**63, -(10**30), 1e308, 5e-324, float("nan"), float("inf"), True,
    "", "x", "é\x00\U0001f600", "a" * 10_000, [], [[]], [1, "x"], [[[]]],
    {}, {"kind": "id"}, {"kind": 3}, {"a": {"b": {}}}, {"kind": ["mmoe"]},
]  # fmt: skip


def mutate(tree: Any, draw: random.Random) -> Any:
    """`tree` with one change anywhere in it."""
    if isinstance(tree, dict) and tree and draw.random() < 0.8:
        key = draw.choice(list(tree))
        tree = dict(tree)
        match draw.randrange(5):
            case 0:
                del tree[key]
            case 1:
                tree[key[: draw.randrange(len(key) + 1)] + draw.choice("xy.[\0")] = tree.pop(key)
            case 2:
                tree[draw.choice(["kind", "rows", "", "table", "model"])] = draw.choice(VALUES)
            case _:
                tree[key] = mutate(tree[key], draw)
        return tree
    if isinstance(tree, list) and tree and draw.random() < 0.5:
        return [*tree, draw.choice(VALUES)]
    return draw.choice(VALUES)


def test_mutated_trees_are_refused_in_words_or_accepted() -> None:
    """5,000 mutations, seeded: a Config or a ConfigError, never anything else."""
    accepted, started = 0, time.process_time()
    for seed in range(5_000):
        draw = random.Random(seed)
        tree = samples.tree("x")
        for _ in range(draw.randint(1, 3)):
            tree = mutate(tree, draw)
        try:
            accepted += isinstance(parse(tree if isinstance(tree, dict) else {"run": tree}), Config)
        except ConfigError as error:
            assert str(error).strip() and error.exit_code == 64
    print(f"5,000 mutated configurations, {accepted} of them valid, {time.process_time() - started:.1f} s")
    assert 100 < accepted < 4_000


def test_mutated_files_are_refused_in_words_or_accepted(tmp_path: Path) -> None:
    """2,000 files with changed bytes: not UTF-8, not TOML, or TOML of something else."""
    text = samples.write_toml(tmp_path / "good.toml", samples.tree("x")).read_bytes()
    path = tmp_path / "bad.toml"
    for seed in range(2_000):
        draw = random.Random(seed)
        content = bytearray(text)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(content))
            content[place : place + draw.randrange(3)] = draw.choice(
                [b"", b"\xff", b"[", b'"', b"=", b"9" * 30, b"\n", b"\0"]
            )
        path.write_bytes(content)
        try:
            load(path)
        except ConfigError as error:
            assert str(error).startswith(str(path))


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "big.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="at most 1,?000,?000"):
        load(tmp_path / "big.toml")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


def test_evaluations_by_rows_are_steps_rounded_up() -> None:
    config = samples.config("x", "data.test='t'", "train.evaluate_every_rows=65")  # of 64 a step
    assert config.evaluation_steps == 2
    assert samples.config("x", *SELECT).evaluation_steps == 5 and samples.config("x").evaluation_steps is None


def test_a_mix_of_metrics_and_of_groups_is_selected_by() -> None:
    mix = "select.metrics={'ctr.auc'=1.0, 'ctcvr.ne'=0.5, 'cvr.user.ndcg@10'=2.0, 'cvr.user.gauc'=1.0}"
    config = samples.config("x", *SELECT, "metrics.groups=['user']", mix)
    assert config.select.metrics["cvr.user.ndcg@10"] == 2.0


@pytest.mark.parametrize(
    ("labels", "tasks"),
    [
        (["click"], ("click",)),
        (["click", "buy"], ("ctr", "cvr", "ctcvr")),
        (["view", "click", "buy"], ("view", "click|view", "click", "buy|click", "buy")),
    ],
)
def test_the_names_of_the_tasks(labels: list[str], tasks: tuple[str, ...]) -> None:
    assert samples.config("x", f"data.labels={labels}").tasks == tasks
