"""R8: a configuration is data, a run writes below run.dir alone, and a secret goes nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dist_mtl.config.dataset_uri import Place
from dist_mtl.config.file import load, parse
from dist_mtl.data.files.folder import Folder
from dist_mtl.data.synthetic.bulk import Order, make_logs
from dist_mtl.data.synthetic.wide import BenchmarkLogs
from dist_mtl.errors import ConfigError
from dist_mtl.observability.run_dir import FILES, FOLDERS, check_named, check_outputs
from dist_mtl.scoring.predict import predict_run
from dist_mtl.tools.convert.parts import Conversion
from tests.support import samples
from tests.support.harness import ROOT, events, run_script, run_verb
from tests.support.verbs import VERBS, ended

SECRET = "wJalrXUtnFEMI"  # what must not be found anywhere


# -------------------------------------------------------------------------------------------- a configuration is data
@pytest.mark.parametrize(
    "text", ["$HOME/x", "${AWS_SECRET_ACCESS_KEY}", "~/x", "$(touch x)", "`touch x`", "%(x)s", "{0}", "*"]
)
def test_nothing_is_put_in_for_a_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    config = parse(samples.tree("x"), [f"run.dir='{text}'", f"data.train='{text}'"])
    assert (config.run.dir, config.data.train) == (text, text)


@pytest.mark.parametrize(
    "override",
    [
        "model.backbone.kind='os.system'",
        "model.backbone='dist_mtl.model.experts.MMoE'",
        "model.backbone={_target_='os.system', kind='mmoe'}",
        "features.user={kind='id', type='builtins.eval'}",
        "features.user.kind='!!python/object/apply:os.system'",
        "run.device=\"__import__('os').system('true')\"",
        "model.__class__='x'",
        "model.model_config={extra='allow'}",
    ],
)
def test_no_value_names_code(override: str) -> None:
    with pytest.raises(ConfigError):
        parse(samples.tree("x"), [override])


@pytest.mark.parametrize("name", ["x.yaml", "x.json", "x.py", "x.pkl"])
def test_whatever_its_name_a_configuration_is_toml(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("run: {dir: !!python/object/apply:os.system ['true']}\n")
    with pytest.raises(ConfigError, match="not TOML"):
        load(tmp_path / name)


def test_an_override_is_one_value_of_its_key() -> None:
    """Read by the same parser: nothing behind a line break, nothing of another type."""
    for override in (
        "train.epochs=2\nseed=9",
        "train.epochs=2\n[run]\ndir='y'",
        "train.epochs='2'",
        "train.epochs=2.0",
    ):
        with pytest.raises(ConfigError, match="train.epochs: Input should be a valid integer"):
            parse(samples.tree("x"), [override])


@pytest.mark.parametrize("key", ["run.dir", "data.train", "data.test"])
@pytest.mark.parametrize("text", ["", "  ", r"a\u0000b", r"a\nb", r"a\u001b[2J", "a" * 5_000])
def test_what_is_no_path_is_told(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        parse(samples.tree("x"), [f'{key}="{text}"'])
    assert str(caught.value).isprintable()


def test_a_run_is_written_to_a_local_folder() -> None:
    with pytest.raises(ConfigError, match="run.dir: .* local folder"):
        parse(samples.tree("x"), ["run.dir='s3://bucket/run'"])


NO_PATHS = ["a\udcffb", "a\ud800b", "a\0b", "a\nb", "\x1b[2J", "x" * 256, "x/" * 3_000]


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_named_by_what_is_no_path_is_64(verb: str) -> None:
    for text in NO_PATHS:
        code, message = ended(lambda text=text: VERBS[verb](Path(text)))
        # What reads a dataset first, or takes the name of one, speaks of that.
        assert code == 64 or code == 65 and verb in ("train", "like"), (text, code, message)
        assert len(message) < 20_000


@pytest.mark.parametrize("text", NO_PATHS)
def test_a_file_or_folder_to_write_that_is_no_path_is_64(text: str) -> None:
    actions = (
        lambda: check_named(text),
        lambda: check_outputs(text),
        lambda: predict_run("x", "x", text),
        lambda: Conversion(text, ()),
        lambda: make_logs(Order(BenchmarkLogs(), "train", 100), Path(text)),
    )
    for action in actions:
        with pytest.raises(ConfigError):
            action()


@pytest.mark.parametrize("key", ["run.dir", "data.train", "features.'\udcff'.log", "\udcff"])
def test_an_override_that_is_not_utf_8_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=r"--set=.*\\udcff.*: it is not UTF-8"):
        parse(samples.tree("x"), [f"{key}=a\udcffb"])
    with pytest.raises(ConfigError, match="not UTF-8"):
        parse(samples.tree("x"), {"run.dir": "a\udcffb"})


# ------------------------------------------------------------------------------------------------------ outputs
def settings(folder: Path, *overrides: str) -> list[str]:
    """CONFIG and its overrides, for a run of a few steps with everything that is written switched on."""
    samples.write_logs(folder / "train", 500)
    samples.write_logs(folder / "test", 200, seed=1)
    tree = samples.tree(folder)
    tree["data"]["test"] = str(folder / "test")
    tree["train"] |= {"checkpoint_every": 4, "max_steps": 8}
    path = samples.write_toml(folder / "config.toml", tree)
    return [str(path), *(f"--set={text}" for text in ("run.tensorboard=true", *overrides))]


def tree_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with its size and the time of its last change."""
    return {str(p.relative_to(folder)): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


def test_a_run_writes_nothing_but_below_its_folder(tmp_path: Path) -> None:
    """A whole run, its report and its recalibration: all else is as it was, and every name is one that is checked."""
    pytest.importorskip("tensorboardX")
    arguments = settings(tmp_path)
    before = tree_of(tmp_path)
    assert [e.code for e in run_script(2, "train.py", *arguments)] == [0, 0]
    assert run_verb(1, "report", str(tmp_path / "run"))[0].code == 0
    samples.write_logs(tmp_path / "held", 400, seed=5)
    before |= {name: what for name, what in tree_of(tmp_path).items() if name.startswith("held")}
    assert run_script(1, "recalibrate.py", str(tmp_path / "run"), str(tmp_path / "held"))[0].code == 0
    after = tree_of(tmp_path)
    assert {name: what for name, what in after.items() if not name.startswith("run")} == before
    written = {path.name for path in (tmp_path / "run").iterdir()}
    print(f"written below run.dir: {sorted(written)}")
    assert {"events.jsonl", "checkpoints", "tensorboard", "report.html"} <= written <= {*FILES, *FOLDERS}


@pytest.mark.parametrize("name", ["events.jsonl", "checkpoints", "tensorboard", "bad_steps.jsonl", "attempts.json.tmp"])
def test_a_link_out_of_the_run_is_refused_and_not_followed(tmp_path: Path, name: str) -> None:
    """A run folder from elsewhere, which asks to be resumed."""
    away = tmp_path / "away"
    (tmp_path / "run").mkdir()
    if name in FOLDERS:
        away.mkdir()
    else:
        away.write_text("mine")
    (tmp_path / "run" / name).symlink_to(away)
    [ended] = run_script(1, "train.py", *settings(tmp_path))
    assert ended.code == 64 and "a link that leads out of the folder" in ended.stderr, ended.stderr
    assert (list(away.iterdir()) == []) if away.is_dir() else (away.read_text() == "mine")


def test_links_deeper_below_and_pipes_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    check_outputs(run)
    (run / "checkpoints" / "step-0000000004").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="a link that leads out"):
        check_outputs(run)
    (run / "checkpoints" / "step-0000000004").unlink()
    os.mkfifo(run / "events.jsonl")
    with pytest.raises(ConfigError, match="a pipe or a device"):
        check_outputs(run)


def test_a_report_is_not_written_through_a_link(tmp_path: Path) -> None:
    arguments = settings(tmp_path)
    assert run_script(1, "train.py", *arguments)[0].code == 0
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / "report.html").symlink_to(tmp_path / "mine")
    [ended] = run_verb(1, "report", str(tmp_path / "run"))
    assert ended.code == 64 and (tmp_path / "mine").read_text() == "mine"


def test_run_dir_itself_may_be_a_link_and_other_links_beside_are_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "notes").symlink_to("/")
    check_outputs(tmp_path / "run")
    assert run_script(1, "train.py", *settings(tmp_path))[0].code == 0
    assert events(tmp_path / "disk", "done")


# ------------------------------------------------------------------------------------------------------ secrets
URLS = [
    f"s3://AKIA:{SECRET}@bucket/train",
    f"s3://:{SECRET}@bucket/train",
    f"simplecache::s3://AKIA:{SECRET}@bucket/train",
    f"http://host/train?X-Amz-Signature={SECRET}&x=1",
    f"https://account.blob.core.windows.net/train?sv=1&sig={SECRET}",
    f"s3://bucket/train?secret_key={SECRET}&day=1..2",
    f"s3://bucket/train?AWSAccessKeyId={SECRET}",
    f"gs://bucket/train?access_token={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_with_a_secret_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(ConfigError, match="stands in the URL.* environment") as caught:
        parse(samples.tree("x"), [f"data.train='{url}'"])
    assert SECRET not in str(caught.value) and "data: train" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        Folder.of(url)  # a command line: dist-mtl predict RUN URL OUT
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_no_mistake_around_a_secret_tells_it(url: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text in (f"data.train = ['{url}']", f"data = '{url}'", f"[data]\ntrain = '{url}'\nx", f"seed = '{url}'"):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load(path, [f"run.dir='{url}'", f"'{url}'", f"seed.x='{url}'"][: len(text) % 4])
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a:b@c?region=eu-west-1", "hdfs://user@host:8020/x", "abfs://box@account.dfs.core.windows.net/x",
     "s3://bucket/tokens?day=1..2", "logs?token=a..b", "a:b@c//x:y@z", "http://host:80/x@y"],
)  # fmt: skip
def test_other_urls_and_paths_are_fine(url: str) -> None:
    assert str(Place.parse(url)) == url


def test_a_secret_of_the_environment_is_in_no_output(tmp_path: Path) -> None:
    """A whole run in a process with a store's keys set: stdout, stderr, events, commits, TensorBoard, report."""
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY", "PASSWORD")
    environment = os.environ | {name: f"{SECRET}{name}" for name in keys}
    words = [sys.executable, str(ROOT / "launch" / "train.py"), *settings(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert run_verb(1, "report", str(tmp_path / "run"))[0].code == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    told = [path.name for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in said and not told and len(files) > 6, told
    print(f"{len(files)} files of a run searched for {len(keys)} secrets")
