"""R8: what is launched is a list of words, never a shell's text; ranks of one node are within nobody else's reach."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import ROOT, Cluster

NASTY = ["x; touch canary", "$(touch canary)", "`touch canary`", "x'; touch canary; '", 'x"; touch canary; "',
         "x\ntouch canary", "x && touch canary", "| touch canary", "> canary", "--set=x=$(touch canary)"]  # fmt: skip


def run_of(folder: Path, *words: str) -> list[str]:
    """What torchrun is given by the shell command that `torchx run dist.ddp WORDS` hands to bash; canaries in `folder`.

    Raises ValueError if our component refuses the words.
    """
    pytest.importorskip("torchx", reason="torchx is an optional extra (launch)")
    from torchx.schedulers.ids import make_unique
    from torchx.specs import macros
    from torchx.specs.builders import materialize_appdef

    from dist_mtl import torchx_components

    app = materialize_appdef(torchx_components.ddp, list(words))
    values = macros.Values(img_root="", app_id=make_unique(app.name), replica_id="0", rank0_env="TORCHX_RANK0_HOST")
    role = values.apply(app.roles[0])
    (folder / "torchrun").write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > '{folder}/words'\n")
    (folder / "torchrun").chmod(0o755)
    command, path = [role.entrypoint, *role.args], f"{folder}:{os.environ['PATH']}"
    subprocess.run(command, cwd=folder, env={"PATH": path}, check=True, timeout=30)
    return (folder / "words").read_text().split("\0")[:-1]


@pytest.mark.parametrize("text", NASTY)
def test_an_argument_goes_through_the_shell_of_torchx_as_it_is(tmp_path: Path, text: str) -> None:
    words = run_of(tmp_path, "-j", "2x8", "--rdzv_backend", text, "--", "launch/train.py", text, text)
    assert words[-3:] == ["launch/train.py", text, text] and words[1] == text
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("option", ["--name", "-m", "--script", "-j"])
def test_a_name_goes_through_or_is_refused(tmp_path: Path, text: str, option: str) -> None:
    """torchx names the job after the script, and puts the name into the command behind its quoting."""
    script = [] if option in ("-m", "--script") else ["launch/train.py"]
    try:
        run_of(tmp_path, option, text, *script)
    except ValueError as error:
        assert "can not be the name of a job" in str(error) or "Invalid format" in str(error)
    assert not (tmp_path / "canary").exists()


def test_the_whole_way_through_torchx(tmp_path: Path) -> None:
    """The real command, from torchx to the rank: it names the file that it does not find, and makes none."""
    pytest.importorskip("torchx", reason="torchx is an optional extra (launch)")
    name = f"{tmp_path}/x; touch {tmp_path}/canary; $(touch {tmp_path}/canary2)"
    words = ["run", "-s", "local_cwd", "dist.ddp", "-j", "1x1", "--max_restarts", "0"]
    code = "import sys; from torchx.cli.main import main; main(sys.argv[1:])"
    words += [str(ROOT / "launch" / "train.py"), name]
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": binaries, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    assert f"error: {name}: No such file or directory" in done.stdout + done.stderr, done.stderr[-2000:]
    assert not list(tmp_path.glob("canary*"))


@pytest.mark.parametrize("text", NASTY)
def test_a_path_of_a_configuration_is_a_path(tmp_path: Path, text: str) -> None:
    """Straight to the verb; and what a study starts are lists of words, too (tests/security/test_static.py)."""
    command = [sys.executable, "-m", "dist_mtl", "report", text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (64, 66) and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- the ranks' group
def listening() -> list[str]:
    """The addresses, in hexadecimal as the kernel shows them, at which this process waits for others."""
    mine = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            mine.add(os.readlink(link))
        except FileNotFoundError:  # the one that listed the folder
            continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]


def joined(interface: str | None) -> tuple[list[str], str | None]:
    """Where a rank listens once it has joined its group, and by which interface it was told to."""
    from dist_mtl.config.training import RunConfig
    from dist_mtl.parallel.runtime import runtime

    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    with runtime(RunConfig(dir="unused", device="cpu", start_timeout=30)) as rt:
        rt.barrier()
        return listening(), os.environ.get("GLOO_SOCKET_IFNAME")


def test_ranks_of_one_node_listen_on_its_loopback() -> None:
    for addresses, interface in Cluster(2).run(joined, None):
        print(f"listening at {addresses} by {interface}")
        assert addresses and set(addresses) == {"0100007F"}, "127.0.0.1, the last byte first"
        assert interface in ("lo", "lo0")


def test_ranks_of_several_nodes_are_left_to_the_network_that_they_need() -> None:
    assert [interface for _, interface in Cluster(2, local_world=1).run(joined, None)] == [None, None]


def test_a_process_without_a_launcher_opens_no_store() -> None:
    code = "from tests.security.test_launch import joined; print(joined(None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert "'0100007F'" in done.stdout or "([]," in done.stdout, done.stdout + done.stderr
    assert "00000000" not in done.stdout
