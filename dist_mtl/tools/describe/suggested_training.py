"""How to train on a described dataset: the model, the rates, the steps and what the best commit is chosen by."""

from dist_mtl.tools.describe.description import Description
from dist_mtl.tools.describe.recipe import Recipe
from dist_mtl.tools.starter_config import quoted

FEWEST = 50  # validation rows of a label's rarer value: the AUC of fewer is off by 0.04, and would choose by chance


def settings_of(
    d: Description, by: Recipe, labels: tuple[str, ...], funnel: bool, held_out: dict[str, str]
) -> dict[str, tuple[str, ...]]:
    rows = d.counts.rows
    steps = -(-rows // by.batch)
    model = [
        f'head = "{"esmm" if funnel or len(labels) == 1 else "independent"}"',
        f'backbone = {{ kind = "mmoe", experts = {by.experts}, hidden = {list(by.hidden)} }}',
        f"tower = {list(by.tower)}",
        *([f"dropout = {by.dropout}"] if by.dropout else []),
    ]
    optim = [
        f'embedding = {{ kind = "rowwise_adagrad", lr = {by.embedding_lr} }}',
        f"dense = {{ lr = {by.dense_lr}, weight_decay = {by.weight_decay} }}",
    ]
    train = [f"global_batch = {by.batch}  # {steps:,} steps an epoch"]
    metrics = _metrics(d, labels, funnel) if "validation" in held_out else ""
    if not metrics:  # the end is known, so the rates can fall to it: AUC 0.003 better on 50,000 rows (measured)
        optim.insert(0, 'decay = "linear"')
    train.append(f"epochs = {by.most_epochs}  # at most: `select` ends the run" if metrics else f"epochs = {by.epochs}")
    if "validation" in held_out:
        train.append(f"evaluate_every_rows = {max(by.batch, -(-rows // by.evaluations))}")
    if "validation" in held_out and not metrics:
        train.append(f"# No early stopping: no label has {FEWEST} validation rows of both values to stop by.")
    settings = {"model": model, "optim": optim, "train": train}
    if metrics:
        settings["select"] = [f"metrics = {{ {metrics} }}", f"patience = {by.patience}"]
    return {section: tuple(lines) for section, lines in settings.items()}


def _metrics(d: Description, labels: tuple[str, ...], funnel: bool) -> str:
    """What the best commit is chosen by: the labels of which the validation rows say something."""
    counts = d.beside["validation"].counts
    found = []
    for place, label in enumerate(labels):
        positives = counts.labels[d.outcomes.labels.index(label)].positives
        task = ("ctr", "ctcvr")[place] if funnel and len(labels) == 2 else label
        if min(positives, counts.rows - positives) >= FEWEST:
            found.append(f"{quoted(f'{task}.auc')} = 1.0")
    return ", ".join(found)
