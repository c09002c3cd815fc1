"""R6, R8: a commit of which a bit or a file is not what it was is never loaded; the run takes the one before."""

import random
from collections import Counter
from pathlib import Path

import pytest

from dist_mtl.checkpoint import store
from dist_mtl.config import Config
from tests.support import samples
from tests.support.fault_lane import cases
from tests.support.fault_workers import commits_of_steps
from tests.support.harms import Cut, Emptied, Flip, Instead, Rewritten, Swapped, loads, looks, looks_without_a_mount
from tests.support.harness import Cluster, events
from tests.support.workers import error_of_train, train

SMALL = ("XXH128SUMS", "commit.json", "index.json")
FILES = (*SMALL, "rank-00000.safetensors", "rank-00001.safetensors")
BEFORE, NEWEST = "step-0000000001", "step-0000000002"


def settings(folder: Path, run: str, *overrides: str) -> Config:
    return samples.config(folder, f"run.dir='{folder / run}'", "train.checkpoint_every=20", *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    samples.write_logs(folder / "train", 3_000)
    Cluster(2).run(commits_of_steps, settings(folder, "run"), 1, 2)
    return folder


def test_one_bit_flips(folder: Path) -> None:
    """Half of them anywhere, half in equal parts over the descriptions and the heads of the tensors' files."""
    draw, number = random.Random(7), cases(120, 500)
    newest = folder / "run" / store.FOLDER / NEWEST
    sizes = {name: (newest / name).stat().st_size for name in FILES}
    flips = []
    for i in range(number):
        name = draw.choices(FILES, [sizes[n] for n in FILES])[0] if i % 2 else FILES[i // 2 % len(FILES)]
        place = draw.randrange(sizes[name] if i % 2 or name in SMALL else 4096)
        flips.append((name, Flip(name, place, draw.randrange(8))))
    [found] = Cluster(1).run(looks, settings(folder, "run"), flips, timeout=300)
    where = Counter(one.what for one in found)
    print(f"{number} one-bit flips {dict(where)}: {sum(one.taken == BEFORE for one in found)} detected, 0 silent")
    for one in found:
        assert one.taken == BEFORE and len(one.told) == 1, one
        assert str(folder) in one.told[0], one


def test_truncations_and_files_that_are_none(folder: Path) -> None:
    draw, number = random.Random(8), cases(40, 100)
    newest = folder / "run" / store.FOLDER / NEWEST
    harms = [("emptied", Emptied()), ("swapped", Swapped(*FILES[3:]))]
    for name in FILES:
        harms += [(f"{kind} {name}", Instead(name, kind, "/etc/passwd")) for kind in ("none", "link", "pipe", "folder")]
    harms += [("stranger", Instead("rank-00002.safetensors", "text", "x")), ("note", Instead("README", "text", ""))]
    while len(harms) < number:
        name = draw.choice(FILES)
        size = draw.randrange((newest / name).stat().st_size)
        harms.append((f"{name} cut to {size}", Cut(name, size)))
    [found] = Cluster(1).run(looks, settings(folder, "run"), harms, timeout=300)
    print(f"{len(harms)} truncated, missing, foreign files: {sum(one.taken == BEFORE for one in found)} detected")
    for one in found:
        assert one.taken == BEFORE and len(one.told) == 1, one


def test_a_hostile_commit_is_refused_before_anything_is_read(folder: Path) -> None:
    """Its checksums are right, so it was made by hand: paths that lead out, claims of sizes, other formats."""
    block = '"file":"rank-00000.safetensors"'
    hostile = [
        ("out", Rewritten("index.json", block, '"file":"../../../secret"')),
        ("absolute", Rewritten("index.json", block, '"file":"/etc/passwd"')),
        ("huge", Rewritten("index.json", '"shape":[101,16]', '"shape":[1000000000,16]')),
        ("outside", Rewritten("index.json", '"offsets":[0,0]', '"offsets":[1000000000,0]')),
        ("negative", Rewritten("index.json", '"offsets":[0,0]', '"offsets":[-1,0]')),
        ("dimensions", Rewritten("index.json", '"offsets":[0,0]', '"offsets":[0]')),
        ("type", Rewritten("index.json", '"dtype":"F32"', '"dtype":"OBJECT"')),
        ("key", Rewritten("index.json", '"key":"model/', '"key":"nothing/')),
        ("no json", Rewritten("index.json", '{"tensors"', '{"tensors')),
        ("version", Rewritten("commit.json", '"version": 4', '"version": 999')),
        ("no version", Rewritten("commit.json", '"version": 4', '"version": "x"')),
        ("sums out", Rewritten("XXH128SUMS", "commit.json", "../commit.json")),
    ]
    ends = Cluster(2).run(loads, settings(folder, "run"), hostile)
    for one, other in zip(*ends, strict=True):
        print(one)
        assert one is not None and one == other and one[1] in ("CheckpointError", "DamagedCommitError"), one


def test_a_commit_of_the_old_format_is_never_unpickled(folder: Path) -> None:
    config = settings(folder, "old")
    old = Path(config.run.dir) / store.FOLDER / NEWEST
    old.mkdir(parents=True)
    canary = folder / "canary"
    (old / ".metadata").write_bytes(b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    (old / "commit.json").write_text("{}")
    for name, message, code in Cluster(2).run(error_of_train, config):
        assert (name, code) == ("CheckpointError", 66) and "a format that can run code" in message
    assert not canary.exists() and old.exists()


def test_a_run_goes_on_from_the_one_before_and_ends_with_the_same_bits(folder: Path) -> None:
    whole, run = settings(folder, "whole", "train.max_steps=47"), settings(folder, "rotten", "train.max_steps=47")
    Cluster(2).run(train, whole)
    Cluster(2).run(train, settings(folder, "rotten", "train.max_steps=40"))
    root = folder / "rotten" / store.FOLDER
    Flip("rank-00001.safetensors", 5_000, 3)(root / "step-0000000040")
    Cluster(2).run(train, run)
    [told] = events(folder / "rotten", "damaged_commit")
    assert "rank-00001.safetensors: damaged" in told["message"] and told["folder"].endswith("damaged-step-0000000040")
    assert [e["step"] for e in events(folder / "rotten", "resume")] == [20]
    for name in ("rank-00000.safetensors", "rank-00001.safetensors"):
        last = "step-0000000047"
        assert (root / last / name).read_bytes() == (folder / "whole" / store.FOLDER / last / name).read_bytes()


def test_no_sound_commit_is_no_new_beginning(folder: Path) -> None:
    config = settings(folder, "lost", "train.max_steps=20")
    Cluster(2).run(train, config)
    root = folder / "lost" / store.FOLDER
    Flip("index.json", 30, 1)(root / "step-0000000020")
    for _ in range(2):  # a launcher would start it again
        for name, message, code in Cluster(2).run(error_of_train, config):
            assert (name, code) == ("CheckpointError", 66) and "none of its 1 commits is sound, the newest" in message
        assert [path.name for path in root.iterdir()] == ["step-0000000020"], "it may be the disk that is ill"
    (root / "step-0000000020").rename(root / "damaged-step-0000000020")  # as a start may have left it
    for name, message, code in Cluster(2).run(error_of_train, config):
        assert (name, code) == ("CheckpointError", 66) and "damaged-step-0000000020 is what is left" in message


def test_what_one_rank_alone_can_not_read_is_no_damage(folder: Path) -> None:
    """A node without the mount: the commits stay where they are, and nothing begins anew."""
    found = Cluster(2).run(looks_without_a_mount, settings(folder, "run"), 1)
    print(found[0])
    assert found[0] == found[1] and found[0][0] == "CheckpointError" and "Do all nodes share it?" in found[0][1]
    assert {BEFORE, NEWEST} == {path.name for path in (folder / "run" / store.FOLDER).iterdir()}


def test_what_may_stand_beside_the_files_of_a_commit(folder: Path) -> None:
    beside = [(name, Instead(name, "text", "{")) for name in ("recalibration.json.tmp", ".nfs000000000001")]
    [found] = Cluster(1).run(looks, settings(folder, "run"), beside)
    assert [(one.taken, one.told) for one in found] == [(NEWEST, [])] * 2
