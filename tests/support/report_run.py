"""A realistic run's events (restarts, skips, slices, groups, diagnoses), and a reader of its page."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from dist_mtl.tools.report import event_log, page

BEGAN = 1_795_000_000.0
TASKS = {"ctr": (200_000, 12_117, 0.7804), "cvr": (12_117, 1_408, 0.8282), "ctcvr": (200_000, 1_408, 0.9261)}


def metrics(rows: float, positives: float, auc: float, pcoc: float, rng: np.random.Generator) -> dict:
    """A task's metrics, with intervals and bins as wide as so many rows make them."""
    error = 0.45 / math.sqrt(max(positives, 1))
    rate = positives / rows
    predicted = rate * np.exp(np.linspace(-2.6, 2.2, 20)) / np.exp(np.linspace(-2.6, 2.2, 20)).mean()
    observed = rng.binomial(int(rows / 20), np.clip(predicted / pcoc, 0, 1)) / int(rows / 20)
    bins = [
        {"weight": rows / 20, "predicted": float(p), "observed": float(o)}
        for p, o in zip(predicted, observed, strict=True)
    ]
    return {
        "rows": rows,
        "positives": positives,
        "auc": {
            "value": auc,
            "error": 2e-5,
            "standard_error": error,
            "low": auc - 1.96 * error,
            "high": auc + 1.96 * error,
        },
        "logloss": 0.2019,
        "normalised_entropy": 1.4 - 0.7 * auc,
        "pcoc": pcoc,
        "pcoc_interval": [pcoc * math.exp(end / math.sqrt(max(positives, 1))) for end in (-1.96, 1.96)],
        "calibration_error": abs(1 - pcoc) * rate,
        "reliability": bins,
    }


def evaluation(step: int, steps: int, rng: np.random.Generator, final: bool = False) -> dict:
    """Better from step to step, sliced by day and position, grouped by search."""
    grown = 1 - math.exp(-4 * step / steps)
    tasks, slices, groups = {}, {"day": {}, "position": {}}, {"search": {}}
    for (task, (rows, positives, ceiling)), pcoc in zip(TASKS.items(), (0.981, 0.862, 0.846), strict=True):
        auc = 0.5 + 0.92 * grown * (ceiling - 0.5)
        tasks[task] = metrics(rows, positives, auc, pcoc, rng)
        for column, values in (("day", 7), ("position", 10)):
            for value in range(values):
                share = (values - value) / (values * (values + 1) / 2)
                moved = auc + 0.01 * rng.standard_normal() - (0.05 if column == "position" else 0)
                part = metrics(rows * share, positives * share, moved, pcoc * (1 + 0.05 * rng.standard_normal()), rng)
                part.pop("reliability")
                slices[column].setdefault(str(value), {})[task] = part
        groups["search"][task] = {
            "groups": 8_120, "groups_with_positive": 9_204, "groups_total": 20_000, "rows": rows * 0.41,
            "gauc": auc - 0.031, "gauc_error": 0.0021, "gauc_unweighted": auc - 0.036, "gauc_unweighted_error": 0.0023,
            "ndcg": {"5": 0.402, "10": 0.463}, "ndcg_error": {"5": 0.0034, "10": 0.0031},
            "mrr": 0.371, "mrr_error": 0.004,
        }  # fmt: skip
    return {
        "event": "evaluation", "step": step, "seconds": 1.4, "data": "data/shop/test", "final": final,
        "score": tasks["ctcvr"]["auc"]["value"], "tasks": tasks, "slices": slices if final else {},
        "groups": groups if final else {}, "ceiling": {task: ceiling for task, (_, _, ceiling) in TASKS.items()},
        "rows": 200_000, "dropped": 0, "clamped": 0,
    }  # fmt: skip


def step_event(step: int, steps: int, rng: np.random.Generator) -> dict:
    grown = 1 - math.exp(-5 * step / steps)
    noise = rng.standard_normal(8)
    window = {}
    for k, (task, (_, _, ceiling)) in enumerate(TASKS.items()):
        auc = 0.5 + 0.93 * grown * (ceiling - 0.5) + 0.004 * noise[k]
        wide = (0.004, 0.016, 0.01)[k]
        window[task] = {
            "rows": 200_000, "auc": auc, "auc_low": auc - wide, "auc_high": auc + wide, "logloss": 0.2,
            "normalised_entropy": 1.42 - 0.7 * auc, "pcoc": 1 + 1.8 * math.exp(-20 * step / steps) + 0.03 * noise[k],
        }  # fmt: skip
    click, conversion = 0.19 + 0.5 * math.exp(-14 * step / steps), 0.027 + 0.4 * math.exp(-22 * step / steps)
    losses = {"click": click + 0.004 * noise[3], "conversion": conversion * (1 + 0.07 * noise[4])}
    speed = 47_000 + 1_800 * noise[5]
    total = 4096 / speed
    parts = {"data": 0.04, "forward": 0.34, "agree": 0.03, "backward": 0.42, "update": 0.13, "metrics": 0.04}
    pauses = {"evaluation": 1.4 * (step % 240 == 0), "commit": 1.9 * (step % 120 == 0)}
    return {
        "event": "step", "step": step, "steps": steps, "loss": sum(losses.values()), "losses": losses,
        "rows_per_second": speed, "data_wait": 0.04, "eta_seconds": 1.0, "window": window,
        "seconds": {name: total * share * (1 + 0.05 * noise[6]) for name, share in parts.items()},
        "pauses": pauses,
        "memory": {"host_bytes": 1.31e9 + 4e7 * grown, "device_bytes": None},
    }  # fmt: skip


def diagnosis(step: int, steps: int, rng: np.random.Generator) -> dict:
    logits = rng.standard_normal(4) * 0.15 + np.array([0.1, 0.9, -0.5, 0.2]) * step / steps
    gates = {
        "click": (np.exp(logits) / np.exp(logits).sum()).tolist(),
        "conversion": (np.exp(-logits) / np.exp(-logits).sum()).tolist(),
    }
    edges = np.linspace(0.05, 1.0, 41)
    heights = np.histogram(0.05 + 0.95 * rng.beta(2.2, 4, 4096), edges)[0]
    related = np.histogram(rng.beta(4, 2.2, 4096), np.linspace(0, 1, 41))[0]
    return {
        "event": "diagnosis", "step": step, "gates": gates, "gate_entropy": {"click": 0.86, "conversion": 0.91},
        "gradient_cosine": {"click|conversion": 0.3 - 0.35 * step / steps + 0.06 * rng.standard_normal()},
        "gradient_norm": {"click": 0.4 + 0.05 * rng.random(), "conversion": 0.09 + 0.02 * rng.random()},
        "temperature": {"click|conversion": {"edges": edges.tolist(), "counts": heights.tolist()}},
        "relatedness": {"click|conversion": {"edges": np.linspace(0, 1, 41).tolist(), "counts": related.tolist()}},
        "similarity": {"click|conversion": {"positive": 0.5 + step / steps / 3, "negative": 0.45 - step / steps / 5}},
        "violated": {"converted > clicked": 0.5 - 0.2 * step / steps, "converted > not": 0.3 - 0.2 * step / steps},
    }  # fmt: skip


TABLES = {"user": 2_000_000, "item": 500_000, "category": 4_200, "brand": 31_000, "hour": 24, "position": 10}


def start_event(steps: int, world: int = 4) -> dict:
    plan = []
    for k, (table, rows) in enumerate(TABLES.items()):
        if rows > 100_000:
            cut = rows // world
            shards = [{"rank": r, "offset": [r * cut, 0], "size": [cut, 16]} for r in range(world)]
            plan.append({"table": table, "sharding": "row_wise", "kernel": "fused", "shards": shards})
        else:
            shards = [{"rank": k % world, "offset": [0, 0], "size": [rows, 16]}]
            plan.append({"table": table, "sharding": "table_wise", "kernel": "fused", "shards": shards})
    columns = {name: "int64" for name in (*TABLES, "search", "day")} | {"tags": "list<int64>", "price": "float"}
    folders = {
        split: {"folder": f"data/shop/{split}", "rows": rows, "files": files, "bytes": rows * 31.5,
                "digest": "9f2c41d0" * 8, "columns": columns}
        for split, rows, files in (("train", 1_500_000, 12), ("test", 200_000, 2))
    }  # fmt: skip
    return {
        "event": "start", "rows": 1_500_000, "steps": steps, "global_batch": 4096, "world": world, "device": "cuda",
        "idle_gpus": 0, "table_bytes": sum(TABLES.values()) * 64, "plan": plan,
        "config": {
            "seed": 1, "run": {"dir": "runs/shop-esmm", "device": "auto", "threads": None},
            "data": {"train": "data/shop/train", "test": "data/shop/test", "labels": ["click", "conversion"]},
            "model": {"backbone": {"kind": "mmoe", "experts": 4, "hidden": [256, 128]}, "head": "esmm", "dropout": 0.0},
            "optim": {"embedding": {"kind": "rowwise_adagrad", "lr": 0.02}, "dense": {"lr": 0.001}},
            "train": {"global_batch": 4096, "epochs": 4},
        },
        "versions": {"dist_mtl": "0.1.0", "torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"},
        "data": folders,
    }  # fmt: skip


def full_run(steps: int = 1464, every: int = 12) -> list[dict]:
    """Killed twice, with six steps skipped, then finished: 1,464 steps of 4,096 rows."""
    rng = np.random.default_rng(7)
    events: list[dict] = [{"event": "sample_logs", "train": "data/shop/train", "seconds": 5.6}]
    time = BEGAN
    for attempt, (first, last) in enumerate(((0, 540), (480, 960), (840, steps))):
        time += 95 if attempt else 0
        if attempt:
            events.append(
                {"event": "resume", "time": time, "step": first, "folder": f"runs/shop-esmm/step-{first:010d}"}
            )
        events.append(start_event(steps) | {"time": time})
        for step in range(first + every, last + 1, every):
            time += every * 4096 / 47_000
            events.append(step_event(step, steps, rng) | {"time": time})
            if step % 120 == 0:
                events.append(
                    {"event": "commit", "time": time, "step": step, "seconds": 1.9, "folder": "f", "reason": "periodic"}
                )
            if step % 240 == 0:
                events.append(evaluation(step, steps, rng) | {"time": time})
            if step % 60 == 0:
                events.append(diagnosis(step, steps, rng) | {"time": time})
            if attempt == 1 and step in (684, 696):
                events.append({"event": "skip", "time": time, "step": step, "reason": "the gradient is not finite"})
    commit = {"event": "commit", "time": time, "step": steps, "seconds": 2.1, "folder": "f", "reason": "end"}
    events += [commit, evaluation(steps, steps, rng, final=True) | {"time": time + 2}]
    return [*events, {"event": "counts", "dropped": 14, "clamped": 0}, {"event": "done", "steps": 624, "seconds": 54.0}]


HOSTILE = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror="window.pwned=1">',
    "'--><svg/onload=window.pwned=1>",
    "</style><script>window.pwned=1</script>",
    "{{ 7 * 7 }}{% raw %}",
    "a&b;&lt;",
    "https://example.org/\u202e\u0000x",
    "x" * 3000,
)


def hostile_run() -> list[dict]:
    """A run whose every name is an attack, or very long."""
    names = iter(HOSTILE * 40)
    events = full_run()
    for event in events:
        match event["event"]:
            case "start":
                for table in event["plan"]:
                    table["table"], table["sharding"], table["kernel"] = next(names), next(names), next(names)
                event["data"] = {
                    next(names): {"folder": next(names), "digest": next(names), "columns": {n: n for n in HOSTILE}}
                }
                event["config"] = {next(names): {n: n for n in HOSTILE}, "data": {"test": next(names)}}
                event["versions"] = {n: n for n in HOSTILE}
                event["device"] = HOSTILE[0]
            case "step":
                event["losses"] = dict.fromkeys(HOSTILE, 0.1)
                event["seconds"] = dict.fromkeys(HOSTILE, 0.01)
                event["window"] |= {HOSTILE[1]: {"auc": 0.6}}
            case "evaluation":
                event["data"] = HOSTILE[0]
                event["tasks"] |= {name: event["tasks"]["ctr"] for name in HOSTILE[:3]}
                event["slices"] = {name: {value: event["tasks"] for value in HOSTILE} for name in HOSTILE[:3]}
                event["groups"] = {
                    name: {value: {"gauc": 0.6, "ndcg": {value: 0.5}} for value in HOSTILE} for name in HOSTILE[:2]
                }
            case "skip" | "commit":
                event["reason"] = next(names)
            case "resume":
                event["folder"] = next(names)
            case "diagnosis":
                event["gradient_cosine"] = dict.fromkeys(HOSTILE, 0.1)
                event["gates"] = dict.fromkeys(HOSTILE[:3], [0.5, 0.5])
                event["temperature"] = dict.fromkeys(HOSTILE[:3], {"edges": [0, 0.5, 1], "counts": [3, 4]})
    return events  # fmt: skip


def write(folder: Path, events: list[dict]) -> Path:
    """A run's folder with these events, stamped where they have no time."""
    folder.mkdir(parents=True, exist_ok=True)
    time, lines = BEGAN, []
    for event in events:
        time = event.get("time", time)
        lines.append(json.dumps({"event": event["event"], "time": time} | event))
    (folder / event_log.STREAM).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def rendered(folder: Path) -> str:
    return page.write(str(folder)).read_text(encoding="utf-8")


class Document(HTMLParser):
    """Every attribute and every word of a page; raises on tags that do not close in order."""

    VOID = ("meta", "link", "br")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.css = ""
        self.feed(html)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes {self.open[-3:]} at line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.css += data
        else:
            self.words.append(data)

    def titles(self) -> list[str]:
        """The headings of its sections."""
        return [value for tag, name, value in self.attributes if tag == "section" and name == "id"]
