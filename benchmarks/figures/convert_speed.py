"""Speed and memory of the converters on generated files of the exact raw formats:

    python -m benchmarks.figures.convert_speed --rows 1e6 --jobs 1 2

Each figure is that of `dist-mtl convert` in processes of its own, its start and the Parquet files included. Seconds by
the clock depend on what else the machine does; seconds of a core do not. Peak memory: of the largest process, with the
pages of the join's files that are mapped at the time, which the system may take back.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dist_mtl.tools.convert.lines import bytes_of
from tests.support import raw_logs

ROOT = Path(__file__).parents[2]
LABELS = ["--click=click", "--conversion=conversion", "--bag=tags:|"]


@dataclass(frozen=True)
class Case:
    """A kind of raw file: the verb that converts it, what it is made by, the source in its folder, more options."""

    verb: str
    make: Callable[[Path, int], None]  # folder, train rows
    source: str = ""
    options: tuple[str, ...] = ()


CASES = {
    "aliexpress": Case("aliexpress", lambda folder, rows: raw_logs.write_aliexpress(folder, rows // 13)),
    "aliccp": Case("aliccp", lambda folder, rows: raw_logs.write_aliccp(folder, rows // 5, rows // 5 // 58)),
    "criteo": Case("criteo", lambda folder, rows: raw_logs.write_criteo(folder / "c.tsv", rows), "c.tsv"),
    "criteo.gz": Case("criteo", lambda folder, rows: raw_logs.write_criteo(folder / "c.tsv.gz", rows), "c.tsv.gz"),
    "csv": Case("csv", lambda folder, rows: raw_logs.write_csv(folder / "a.csv", rows), "a.csv", tuple(LABELS)),
}


def convert(case: Case, raw: Path, out: Path, jobs: int) -> tuple[float, float, int, str]:
    """(seconds, seconds of a core, bytes of peak memory, what was printed)."""
    command = [sys.executable, "-m", "dist_mtl", "convert", case.verb, str(raw / case.source), str(out), *case.options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, f"--jobs={jobs}"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    told = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: ended with status {status}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, told


def measure(name: str, rows: int, jobs: list[int], repeats: int) -> None:
    """Make the raw files once, in a process of its own (what it held would count as the converter's), then convert."""
    with tempfile.TemporaryDirectory() as scratch:
        raw, out = Path(scratch) / "raw", Path(scratch) / "out"
        raw.mkdir()
        subprocess.run([sys.executable, "-m", __spec__.name, "--make", name, str(raw), str(rows)], check=True, cwd=ROOT)
        megabytes = bytes_of(list(raw.iterdir())) / 1e6
        for count in jobs * repeats:
            seconds, core, peak, told = convert(CASES[name], raw, out, count)
            read = int(next(line for line in told.splitlines() if "rows read" in line).split()[0].replace(",", ""))
            written = sum(path.stat().st_size for path in out.rglob("*.parquet")) / 1e6
            print(
                f"{name}: {count} job(s), {read:,} rows, {megabytes:,.0f} MB in {seconds:.1f} s, "
                f"{core:.1f} s of a core: "
                f"{read / core:,.0f} rows and {megabytes / core:.0f} MB a second and core, peak {peak / 1e6:,.0f} MB, "
                f"{written:,.0f} MB written",
                flush=True,
            )
            shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e6, help="train rows; Ali-CCP gets a fifth of them")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--make", nargs=3, metavar=("NAME", "FOLDER", "ROWS"), help="only make the raw files")
    arguments = parser.parse_args()
    if arguments.make:
        name, folder, rows = arguments.make
        CASES[name].make(Path(folder), int(rows))
        return
    for name in arguments.only:
        measure(name, int(arguments.rows), arguments.jobs, arguments.repeats)


if __name__ == "__main__":
    main()
