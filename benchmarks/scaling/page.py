"""The page of a scale run: DIR/scale.md with its tables, DIR/scale.csv, DIR/speed.png and DIR/split.png."""

import platform
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch

matplotlib.use("agg")  # no screen
matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is a dollar
from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

from benchmarks.scaling.measure import Measured  # noqa: E402
from benchmarks.scaling.results import Row, rows_of, split_of, write_csv  # noqa: E402
from benchmarks.scaling.scale_file import Scale  # noqa: E402
from dist_mtl.errors import ConfigError  # noqa: E402
from dist_mtl.observability.run_dir import check  # noqa: E402
from dist_mtl.terminal.wording import plural  # noqa: E402
from dist_mtl.tools.study import markdown  # noqa: E402
from dist_mtl.tools.study.cell_results import Code  # noqa: E402

FILES = ("scale.md", "scale.csv", "speed.png", "split.png")
ASKED = {
    "weak": "efficiency: rows/s of a rank, times the first point",
    "strong": "efficiency: rows/s of a rank, times the first point",
    "tables": "a step's time, times the first point",
}
HEAD = "| ranks | rows a table | global batch | ms/step | rows/s | {asked} | quartiles |"


def write_page(scale: Scale, measured: Sequence[Measured], command: str, code: Code) -> str:
    """Write all files; returns the text of the page."""
    folder = prepared(scale)
    rows = rows_of(measured)
    write_csv(rows, folder / "scale.csv")
    _plot_speed(rows, folder / "speed.png")
    _plot_split(measured, folder / "split.png")
    text = "\n".join([*_head(scale, measured, command, code), *_speed(rows), *_split(measured), *_memory(rows)])
    (folder / "scale.md").write_text(text + "\n", encoding="utf-8")
    return text


def prepared(scale: Scale) -> Path:
    """The folder of the page, made if need be. Raises ConfigError: a link leads out of it, or the disk refuses."""
    folder = Path(scale.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"dir = '{folder}': {error.strerror}; choose a folder to write to") from None
    check(folder, files=FILES)
    return folder


def _head(scale: Scale, measured: Sequence[Measured], command: str, code: Code) -> list[str]:
    device = measured[0].facts[0]["device"]
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    lines = [
        "# Scaling",
        "",
        f"{markdown.code(command)}, {code}; {device} ({name}), {plural(scale.threads, 'thread')} a rank, "
        f"{scale.rounds} rounds "
        f"of {scale.steps} steps; ratios are medians within a round, with their quartiles.",
    ]
    apart = sorted({one.series.name for one in measured if not one.interleaved})
    if apart:
        lines += ["", f"Not side by side, for they do not fit into this machine's memory together: {', '.join(apart)}."]
    return lines


def _speed(rows: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys(row.series for row in rows):
        mine = [row for row in rows if row.series == name]
        lines += ["", f"## {markdown.plain(name)}", "", HEAD.format(asked=ASKED[mine[0].kind]), "|---" * 7 + "|"]
        for row in mine:
            lines.append(
                f"| {row.ranks} | {_number(row.rows_per_table)} | {row.global_batch:,} | {row.step_ms:.1f} | "
                f"{row.rows_per_second:,.0f} | {row.gain:.2f} | {row.low:.2f} to {row.high:.2f} |"
            )
    return lines


def _split(measured: Sequence[Measured]) -> list[str]:
    splits = [(one, split_of(one)) for one in measured]
    phases = list(dict.fromkeys(phase for _, split in splits for phase in split))
    lines = ["", "## Where a step goes", "", "ms of a step, mean over the ranks, each phase waited for", ""]
    lines += [f"| | {' | '.join(phases)} | in collectives |", "|---" * (len(phases) + 2) + "|"]
    for one, split in splits:
        cells = " | ".join(f"{split.get(phase, 0.0):.1f}" for phase in phases)
        slowest = 1e3 * max(sum(rank.values()) for rank in one.collectives)
        lines.append(f"| {one.series.kind}: {one.point.label} | {cells} | {slowest:.1f} |")
    return [
        *lines,
        "",
        "Time in collectives is by the profiler, waiting for the slowest rank included, and passes beside the other "
        "columns, not on top of them.",
    ]


def _memory(rows: Sequence[Row]) -> list[str]:
    lines = ["", "## Memory and time against the plan", ""]
    lines += ["| | tables of the fullest rank, MB | largest / mean | peak, MB | predicted | a step, ms | predicted |"]
    lines += ["|---" * 7 + "|"]
    for row in rows:
        name = f"{markdown.plain(row.series)}: {plural(row.ranks, 'rank')}, {_number(row.rows_per_table)} rows"
        lines.append(
            f"| {name} | {row.tables_mb:,.0f} | {row.tables_imbalance:.2f} | {row.memory_mb:,.0f} | "
            f"{_number(row.predicted_memory_mb)} | {row.step_ms:.1f} | {_number(row.predicted_step_ms)} |"
        )
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _plot_speed(rows: Sequence[Row], path: Path) -> None:
    """rows/s over ranks, with the line of perfect scaling; a step's time over table sizes."""
    kinds = [kind for kind in ("weak", "strong", "tables") if any(row.kind == kind for row in rows)]
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(5 * len(kinds), 4), squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds, strict=True):
        mine = [row for row in rows if row.kind == kind]
        for name in dict.fromkeys(row.series for row in mine):
            points = [row for row in mine if row.series == name]
            if kind == "tables":
                sizes = [row.rows_per_table for row in points]
                axis.errorbar(sizes, [row.gain for row in points], _bars(points), fmt="o-", label=name, capsize=3)
                axis.set(xscale="log", xlabel="rows of each table", ylabel="time of a step, times the smallest")
                axis.set_ylim(bottom=0)
            else:
                first = points[0]
                ranks = [row.ranks for row in points]
                [line] = axis.plot(ranks, [row.rows_per_second for row in points], "o-", label=name)
                perfect = [first.rows_per_second * row.ranks / first.ranks for row in points]
                axis.plot(ranks, perfect, ":", color=line.get_color())
                axis.set(xlabel="ranks", ylabel="rows/s", xticks=ranks)
                axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
                axis.set_ylim(bottom=0)
        axis.set_title({"weak": "weak scaling", "strong": "strong scaling", "tables": "larger tables"}[kind])
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _bars(points: Sequence[Row]) -> list[list[float]]:
    return [[row.gain - row.low for row in points], [row.high - row.gain for row in points]]


def _plot_split(measured: Sequence[Measured], path: Path) -> None:
    """The phases of a step, one bar a point."""
    splits = [split_of(one) for one in measured]
    names = [f"{one.series.kind}: {one.point.label}" for one in measured]
    figure, axis = pyplot.subplots(figsize=(10, 1.2 + 0.4 * len(names)), layout="constrained")
    left = [0.0] * len(names)
    for phase in dict.fromkeys(phase for split in splits for phase in split):
        widths = [split.get(phase, 0.0) for split in splits]
        axis.barh(names, widths, left=left, label=phase)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("ms of a step")
    figure.legend(loc="outside upper center", ncols=5, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
