"""Results -> sections of tables and charts, in the words of a report; `markdown` and `page` only write them down."""

from dataclasses import replace

from dist_mtl.tools.report.blocks import Block, Cell, Code, Column, Figure, Figures, Key, Section, Table
from dist_mtl.tools.report.charts import Whisker, whiskers
from dist_mtl.tools.report.number_format import MISSING, NBSP, count, duration, fixed, known, plural
from dist_mtl.tools.report.svg import tone
from dist_mtl.tools.study.results import Results
from dist_mtl.tools.study.seed_statistics import Difference

MARK = {1: " ▲", 0: "", -1: " ▼"}
TONE = {1: "good", 0: "plain", -1: "bad"}
ALL = "all backbones"
DIGITS = 5  # of a difference: a tenth of the smallest that five seeds usually tell


def sections(found: Results) -> tuple[Section, ...]:
    """The whole study, the answer first."""
    parts = [_summary(found), *(_metric(found, metric) for metric in found.differences), _details(found)]
    if found.choices:
        parts.append(_tuning(found))
    parts += [_settings(found), _runs(found)]
    if found.failures or found.unfinished:
        parts.insert(0, _trouble(found))
    return tuple(parts)


def signed(x: float, digits: int = DIGITS) -> str:
    """+0.00063, −0.00012."""
    return f"{'+' if known(x) and x >= 0 else ''}{fixed(x, digits)}"


def between(one: Difference) -> str:
    return f"{signed(one.low)} to {signed(one.high)}" if known(one.low) else MISSING


def p_words(p: float) -> str:
    return MISSING if not known(p) else "<0.001" if p < 0.001 else fixed(p, 3)


# -------------------------------------------------------------------------------------------------------------- summary
def _summary(found: Results) -> Section:
    names = [name for name in found.study["methods"] if name != found.baseline]
    columns = (Column("method", numeric=False), *map(Column, found.aims), Column("above in any, below in none"))
    rows = []
    for name in names:
        cells, signs = [], []
        for metric in found.aims:
            by_backbone = {b: row[name].sign for b, row in found.differences[metric].items() if name in row}
            signs.append(by_backbone)
            above, below = (sum(sign == s for sign in by_backbone.values()) for s in (1, -1))
            cells.append(Cell(f"{above} above, {below} below", f"of {len(by_backbone)}"))
        backbones = [b for b in found.study["backbones"] if all(b in one for one in signs)]
        good = sum(any(one[b] > 0 for one in signs) and all(one[b] >= 0 for one in signs) for b in backbones)
        tone_ = "good" if backbones and good == len(backbones) else "plain"
        rows.append((Cell(name), *cells, Cell(f"{good} of {len(backbones)}", tone=tone_)))
    lede = (
        f"On how many backbones a method is above or below {found.baseline}: the 95{NBSP}% interval of the mean paired "
        f"difference over {plural(len(found.study['seeds']), 'seed')} lies off zero. The runs of a pair share their "
        f"rows, their order and their initial weights."
    )
    return Section("summary", "Summary", (Table(columns, tuple(rows)),), lede)


# -------------------------------------------------------------------------------------------------------------- metrics
def _metric(found: Results, metric: str) -> Section:
    names = [name for name in found.study["methods"] if name != found.baseline]
    columns = (Column("backbone", numeric=False), Column(found.baseline), *map(Column, names))
    rows = []
    for backbone, row in found.differences[metric].items():
        spread = found.spreads[metric][backbone].get(found.baseline)
        base = Cell() if spread is None else Cell(fixed(spread.mean), f"± {fixed(spread.deviation)}")
        rows.append((Cell(backbone), base, *(_difference(row.get(name)) for name in names)))
    combined = found.combined[metric]
    rows.append((Cell(ALL), Cell(""), *(_difference(combined.get(name)) for name in names)))
    lede = (
        f"{found.baseline}: mean and standard deviation over seeds. Others: mean difference to it, + is better, its "
        f"95{NBSP}% interval, and the seeds with a gain. ▲ above, ▼ below: the interval lies off zero."
    )
    blocks: list[Block] = [Table(columns, tuple(rows))]
    figures = tuple(
        _chart(found, metric, name, colour)
        for colour, name in enumerate(names, start=1)
        if any(name in row for row in found.differences[metric].values())
    )
    if figures:
        blocks.append(Figures(figures))
    return Section(metric.replace(".", "-"), metric, tuple(blocks), lede)


def _difference(one: Difference | None) -> Cell:
    if one is None:
        return Cell()
    return Cell(f"{signed(one.mean)}{MARK[one.sign]}", f"{between(one)}, {one.gains} of {one.seeds}", TONE[one.sign])


def _chart(found: Results, metric: str, name: str, colour: int) -> Figure:
    differences = {b: row[name] for b, row in found.differences[metric].items() if name in row}
    rows = [_whisker(backbone, one) for backbone, one in differences.items()]
    rows.append(_whisker(ALL, found.combined[metric][name]))
    figure = whiskers(name, rows, ("change", "gains"), 0.0, tone(colour))
    return replace(figure, keys=(Key(found.baseline, 0, "", "rule"),))


def _whisker(name: str, one: Difference) -> Whisker:
    words = f"{name}: {signed(one.mean)}, 95 % interval {between(one)}, p = {p_words(one.p_value)}"
    low, high = (x if known(x) else None for x in (one.low, one.high))
    return Whisker(name, one.mean, low, high, f"{one.gains}/{one.seeds}", words)


# -------------------------------------------------------------------------------------------------------------- details
def _details(found: Results) -> Section:
    words, numbers = (
        ("metric", "backbone", "method"),
        ("difference", "95 % interval", "p", "p, Holm", "error, seeds", "error, rows", "gains"),
    )
    rows = []
    for metric, by_backbone in found.differences.items():
        everywhere = {**by_backbone, ALL: found.combined[metric]}
        rows += [_row(metric, backbone, name, one) for backbone, row in everywhere.items() for name, one in row.items()]
    lede = (
        f"p: of no difference, by the paired t-test over seeds; Holm's correction is over the methods of one backbone "
        f"and metric. Errors: the standard error of the mean over seeds, and of one seed's difference by the test "
        f"rows (paired DeLong; the same rows for every seed, so that more seeds do not shrink it). {ALL.capitalize()}: "
        f"the mean over backbones, each a stratum; it tells of these backbones only."
    )
    columns = (*(Column(name, numeric=False) for name in words), *map(Column, numbers))
    return Section("details", "Every difference", (Table(columns, tuple(rows)),), lede)


def _row(metric: str, backbone: str, name: str, one: Difference) -> tuple[Cell, ...]:
    texts = (between(one), p_words(one.p_value), p_words(one.adjusted))
    errors = (fixed(one.standard_error, DIGITS), fixed(one.row_error, DIGITS))
    counted = f"{one.gains} of {one.seeds}"
    first = Cell(f"{signed(one.mean)}{MARK[one.sign]}", tone=TONE[one.sign])
    return (*map(Cell, (metric, backbone, name)), first, *map(Cell, (*texts, *errors, counted)))


# --------------------------------------------------------------------------------------------------------------- tuning
def _tuning(found: Results) -> Section:
    tune = found.study["tune"]
    rows = []
    for one in found.choices:
        for number, (words, score) in enumerate(zip(one.candidates, one.scores, strict=True), start=1):
            best = number == one.best
            cells = (Cell(one.backbone), Cell(one.method), Cell(words), Cell(fixed(score, DIGITS)))
            rows.append((*cells, Cell("chosen" if best else "", tone="good" if best else "plain")))
    mix = " + ".join(f"{weight:g} x {name}" for name, weight in tune["metrics"].items())
    budgets = sorted({len(one.candidates) for one in found.choices})
    lede = (
        f"Each candidate was trained on {tune['fit']} and judged on {tune['validation']} by {mix}, "
        f"{plural(len(tune['seeds']), 'seed')} each; {'/'.join(map(str, budgets))} candidates a method. The test rows "
        f"were not seen."
    )
    columns = tuple(Column(name, numeric=name == "score") for name in ("backbone", "method", "candidate", "score", ""))
    return Section("tuning", "Tuning", (Table(columns, tuple(rows)),), lede)


# ---------------------------------------------------------------------------------------------------- settings, trouble
def _settings(found: Results) -> Section:
    lines = tuple(
        f"{backbone} x {method}: {' '.join(settings) or 'nothing'}"
        for backbone, row in found.settings.items()
        for method, settings in row.items()
    )
    study = found.study
    lede = (
        f"Every final cell is the base with what stands below, seeds {', '.join(map(str, study['seeds']))}, "
        f"{plural(study['threads'], 'thread')} a process. The command of each cell, with all its settings, is "
        "in study.json."
    )
    base = Code(f"The base: {study['base']} with the settings of every cell, complete", found.base)
    return Section("settings", "Settings", (Code("What each backbone and method sets", lines), base), lede)


def _runs(found: Results) -> Section:
    done = [cell for cell in found.cells if cell.seconds is not None]
    seconds = sum(cell.seconds for cell in done)
    versions = tuple(f"{name} {version}" for one in found.versions for name, version in one.items())
    lede = (
        f"{count(len(done))} of {count(len(found.cells))} cells finished, {duration(seconds)} of training and "
        f"evaluation together, {duration(seconds / len(done)) if done else MISSING} each, on a machine of "
        f"{count(found.cores)} cores. By {'; '.join(found.codes) or MISSING}."
    )
    if len(found.codes) > 1 or len(found.versions) > 1:
        lede += " The programs have changed between cells: remove the folders of the older ones to have one of all."
    return Section("runs", "Runs", (Code("The command", (found.command,)), Code("Releases", versions)), lede)


def _trouble(found: Results) -> Section:
    rows = tuple((Cell(one.name), Cell(one.reason, one.log, "bad")) for one in found.failures)
    columns = (Column("cell", numeric=False), Column("what it said", numeric=False))
    blocks: list[Block] = [Table(columns, rows)] if rows else []
    if found.unfinished:
        blocks.append(Code(f"Not finished: {count(len(found.unfinished))}", found.unfinished))
    return Section("trouble", "Not complete", tuple(blocks), "The tables hold what is finished. Run the study again.")
