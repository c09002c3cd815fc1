"""A run folder that is renamed or removed while the run is at work: it ends in one line, and nothing is lost."""

import shutil
from pathlib import Path

import pytest

from dist_mtl.checkpoint.verify import verify_run
from dist_mtl.observability.run_dir import HeldFolder
from tests.support import samples
from tests.support.harness import ROOT, Cluster, Exit, Running, events, run_script, script, wait_for


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moved")
    samples.write_logs(folder / "train", 2_048)
    return folder


def begin(logs: Path, run: Path, world: int, *overrides: str) -> Running:
    """A run of more steps than any test waits for, past its third."""
    tree = samples.tree(logs)
    tree["run"]["dir"] = str(run)
    tree["train"] |= {"checkpoint_every": 5, "epochs": 1_000_000, "max_steps": 100_000}
    path = samples.write_toml(run.parent / f"{run.name}.toml", tree)
    arguments = [str(path), *(f"--set={text}" for text in overrides)]
    running = Cluster(world).start(script, str(ROOT / "launch" / "train.py"), *arguments)
    wait_for(run, lambda e: e["event"] == "step" and e["step"] == 3, running)
    return running


def refused(exits: list[Exit], *words: str) -> None:
    """Every rank ends with 66, and the first one says why in one line."""
    assert [e.code for e in exits] == [66] * len(exits), [e.stderr for e in exits]
    [line] = [line for line in exits[0].stderr.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line
    assert "Traceback" not in "".join(e.stderr for e in exits) and not any("error" in e.stderr for e in exits[1:])


@pytest.mark.parametrize(("world", "commit"), [(1, "background"), (2, "blocking"), (2, "background")])
def test_what_was_trained_is_committed_where_the_folder_is(logs: Path, tmp_path: Path, world: int, commit: str) -> None:
    old, new = tmp_path / "run", tmp_path / "elsewhere" / "renamed"
    new.parent.mkdir()
    running = begin(logs, old, world, f"train.commit='{commit}'")
    old.rename(new)
    exits = running.wait(60)
    last = events(new, "commit")[-1]["step"]
    refused(exits, f"run.dir = '{old}': the folder was renamed", f"is now {new}", f"Step {last:,} is committed there")
    assert not old.exists() and last == events(new, "step")[-1]["step"]
    assert all(one.damage is None for one in verify_run(new)) and not list(new.glob("checkpoints/.staged*"))
    assert not (new / "attempts.json").exists()
    tail = (f"--set=run.dir={new}", f"--set=train.max_steps={last + 3}")
    assert [e.code for e in run_script(world, "train.py", str(tmp_path / "run.toml"), *tail)] == [0] * world
    assert events(new, "resume")[-1]["step"] == last and events(new, "done")[-1]["steps"] == 3


def test_a_second_run_under_the_old_name_is_left_alone(logs: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "run", tmp_path / "renamed"
    first = begin(logs, old, 1)
    old.rename(new)
    second = begin(logs, old, 1)
    refused(first.wait(60), "the folder was renamed")
    here = wait_for(old, lambda e: e["event"] == "step" and e["step"] > 12, second)
    assert here and (old / "attempts.json").exists(), "the first run has removed the second one's"
    second.processes[0].terminate()
    assert [e.code for e in second.wait(60)] == [75]
    for folder in (old, new):
        assert all(one.damage is None for one in verify_run(folder))
        assert len(events(folder, "start")) == 1


def test_a_folder_that_was_removed_is_not_made_anew(logs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    running = begin(logs, run, 2)
    run.rename(tmp_path / "doomed")  # at once: to remove file by file leaves a moment in which it is half there
    shutil.rmtree(tmp_path / "doomed", ignore_errors=True)
    shutil.rmtree(tmp_path / "doomed", ignore_errors=True)
    exits = running.wait(60)
    assert [e.code for e in exits] == [66, 66] and "while the run was at work" in exits[0].stderr
    assert not run.exists() and "Traceback" not in exits[0].stderr


def test_commits_that_were_removed_are_made_anew(logs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    running = begin(logs, run, 1, "train.checkpoint_every=20")
    wait_for(run, lambda e: e["event"] == "commit", running)
    (run / "checkpoints").rename(tmp_path / "gone")
    wait_for(run, lambda e: e["event"] == "commit" and e["step"] > 40, running)
    running.processes[0].terminate()
    assert [e.code for e in running.wait(60)] == [75]
    assert all(one.damage is None for one in verify_run(run))
    assert any("its commits were removed" in e["message"] for e in events(run, "warning"))


def test_a_held_folder_knows_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    held = HeldFolder(tmp_path / "a")
    assert not held.has_moved() and held.now() == tmp_path / "a"
    (tmp_path / "a").rename(tmp_path / "b")
    assert held.has_moved() and held.now() == tmp_path / "b"
    (tmp_path / "a").mkdir()
    assert held.has_moved() and held.now() == tmp_path / "b"
    (tmp_path / "b").rmdir()
    assert held.has_moved() and held.now() is None
    held.close()
