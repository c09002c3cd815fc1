"""Events as lines for a person."""

import math
from typing import Any

from dist_mtl.terminal.wording import plural


def _step_line(e: dict[str, Any]) -> str:
    aucs = " ".join(f"{task} {_auc(metrics['auc'])}" for task, metrics in e["window"].items())
    wait = f"data wait {e['data_wait']:.0%}"
    speed = f"{e['rows_per_second']:,.0f} rows/s"
    loss = "--" if math.isnan(e["loss"]) else f"{e['loss']:.4f}"
    return f"loss {loss} | AUC {aucs} | {speed} | {wait} | {_duration(e['eta_seconds'])} left"


def _auc(value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.4f}".removeprefix("0")


def _line(name: str, e: dict[str, Any]) -> str | None:
    """The line for a person, or None for events that only the stream keeps."""
    match name:
        case "sample_logs":
            return f"sample logs  {e['train']} and {e['test']} made in {e['seconds']:.1f} s"
        case "fitted":
            names = ", ".join(e["features"])
            return f"fitted       to the training rows in {e['seconds']:.1f} s: {names}"
        case "base_rates":
            rates = ", ".join(f"{label} {rate:.3g}" for label, rate in e["rates"].items())
            return f"base rates   counted in {e['seconds']:.1f} s, the towers begin there: {rates}"
        case "start":
            return (
                f"start        {plural(e['rows'], 'row')}, {plural(e['steps'], 'step')} of "
                f"{plural(e['global_batch'], 'row')} "
                f"on {plural(e['world'], 'rank')}, {e['device']}; tables {e['table_bytes'] / 1e6:,.1f} MB"
                + (
                    f"\nnote         {plural(e['idle_gpus'], 'GPU stays', 'GPUs stay')} idle: more ranks than "
                    "GPUs on a node" * bool(e["idle_gpus"])
                )
            )
        case "warning" | "advice":
            return f"{name:<12} {e['message']}"
        case "selection_reset":
            return (
                f"selection    begins anew: `select` or the validation rows have changed (the best was step "
                f"{e['best_step']:,})"
            )
        case "resume":
            return f"resume       from step {e['step']:,} ({e['folder']})"
        case "step":
            return f"step {e['step']:>7,}/{e['steps']:,} {_step_line(e)}"
        case "evaluation" if not e["final"]:
            aucs = " ".join(f"{task} {_auc(metrics['auc']['value'])}" for task, metrics in e["tasks"].items())
            score = "" if e["score"] is None else f" | score {e['score']:.5f}"
            where = f" on {e['partition']}" if "partition" in e else ""
            rest = f"{aucs}{score} | {plural(e['rows'], 'row')} in {e['seconds']:.1f} s"
            return f"evaluation   step {e['step']:,}{where} AUC {rest}"
        case "progressive":
            aucs = " ".join(
                f"{task} {_auc(m['auc'])} (lowest {_auc(m['lowest_auc'])}, {e['by']} {m['lowest_partition']})"
                for task, m in e["tasks"].items()
                if m["auc"] is not None
            )
            return f"progressive  {e['partitions']} x {e['by']}, each before it was trained: mean AUC {aucs}"
        case "counts" if e["dropped"] or e["clamped"] or e["lost"] or e["skipped"] or e.get("dynamic"):
            told = (
                f"counts       {plural(e['dropped'], 'row')} dropped (label rules), {plural(e['clamped'], 'id')} "
                "clamped"
            )
            if e["lost"]:
                groups = plural(e["lost"], "damaged row group")
                told += f", {plural(e['quarantined'], 'row')} of {groups} skipped (data.quarantine)"
            if e["skipped"]:
                told += f", {plural(e['skipped'], 'step')} not trained (train.skip_nonfinite)"
            return "\n".join([told, *(_ids_line(table, of) for table, of in e.get("dynamic", {}).items())])
        case "done":
            return f"done         {plural(e['steps'], 'step')} in {e['seconds']:.1f} s"
    return _commit_or_fault_line(name, e)


def _commit_or_fault_line(name: str, e: dict[str, Any]) -> str | None:
    """The same for the commits, and for what a run survives or stops by."""
    match name:
        case "commit":
            why = "" if e["reason"] == "periodic" else f" ({e['reason']})"
            behind = f", training waited {e['blocked']:.2f} s" if e["blocked"] < 0.9 * e["seconds"] else ""
            return f"commit       step {e['step']:,} in {e['seconds']:.1f} s{behind}{why}"
        case "commit_failed":
            return (
                f"NO COMMIT    of step {e['step']:,}: {e['message']}. {e['failed']} in a row; more than {e['allowed']} "
                f"end the run (train.failed_commits)"
            )
        case "damaged_commit":
            return f"DAMAGED      {e['message']}. It is now {e['folder']}; the run goes on from an older commit"
        case "skip":
            return f"SKIPPED      {e['reason']} ({e['skipped']} of {e['allowed']}, train.skip_nonfinite)"
        case "early_stop":
            return (
                f"stopped      {plural(e['stale'], 'evaluation')} without a gain; the best is step {e['best_step']:,}, "
                f"score {e['best_score']:.5f}"
            )
        case "quarantine":
            return (
                f"quarantine   {e['path']}, row group {e['row_group']}: "
                f"{plural(e['rows'], 'row is', 'rows are')} skipped from step "
                f"{e['step']:,} on. {e['reason']}"
            )
    return None


def _ids_line(table: str, of: dict[str, int]) -> str:
    taken, without = of["occupied"] / of["rows"], of["fallback"] / max(1, of["lookups"])
    return (
        f"dynamic ids  {table}: {taken:.0%} of {plural(of['rows'], 'row')} taken, "
        f"{plural(of['admitted'], 'id')} admitted, "
        f"{of['evicted']:,} evicted; {without:.1%} of the lookups had no row of their own"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"
