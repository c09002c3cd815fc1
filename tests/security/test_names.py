"""A checkpoint is of the step that its folder's name says, or it is taken for damaged by every verb."""

import shutil
from pathlib import Path

import pytest

from dist_mtl.checkpoint import store
from tests.security.test_guard import copied
from tests.support.harness import events
from tests.support.verbs import VERBS, config, ended, make_run

EARLY, LATE, LATER = (f"step-{step:010d}" for step in (4, 8, 99))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("names"))


def over_another(root: Path) -> None:
    shutil.rmtree(root / LATE)
    shutil.copytree(root / EARLY, root / LATE)


def to_a_later_step(root: Path) -> None:
    shutil.copytree(root / LATE, root / LATER)


def exchanged(root: Path) -> None:
    (root / EARLY).rename(root / "x")
    (root / LATE).rename(root / EARLY)
    (root / "x").rename(root / LATE)


CASES = {"over another": over_another, "to a later step": to_a_later_step, "exchanged": exchanged}


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_under_another_name_is_66(place: Path, tmp_path: Path, case: str) -> None:
    home = copied(place, tmp_path)
    CASES[case](home / "run" / "checkpoints")
    newest = store.latest(home / "run")
    for verb in ("evaluate", "predict", "compare", "recalibrate"):
        code, told = ended(lambda verb=verb: VERBS[verb](home))
        assert code == 66 and f"{newest / 'commit.json'}: of step" in told, (verb, told)
    found = {one.folder: one.damage for one in VERBS["verify"](home)}
    assert "not the step of its folder" in found[newest]


@pytest.mark.parametrize("case", ["over another", "to a later step"])
def test_a_run_goes_on_from_the_one_before_it_as_it_does_for_damage(place: Path, tmp_path: Path, case: str) -> None:
    home = copied(place, tmp_path)
    CASES[case](home / "run" / "checkpoints")
    assert ended(lambda: VERBS["train"](home)) == (0, "")
    [event] = events(home / "run", "damaged_commit")
    assert "not the step of its folder" in event["message"] and "damaged-step" in event["folder"]
    assert events(home / "run", "resume")[-1]["step"] == (4 if case == "over another" else 8)
    assert all(one.damage is None for one in VERBS["verify"](home)) and store.latest(home / "run").name == LATE


def test_where_none_is_of_its_name_a_run_does_not_begin_anew(place: Path, tmp_path: Path) -> None:
    home = copied(place, tmp_path)
    exchanged(home / "run" / "checkpoints")
    code, told = ended(lambda: VERBS["train"](home))
    assert code == 66 and "none of its 2 commits is sound" in told
    assert config(home).run.dir == str(home / "run") and not list((home / "run").glob("checkpoints/damaged*"))
