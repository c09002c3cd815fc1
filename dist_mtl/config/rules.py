"""Rules between the values of a `Config`: each names the keys, the reason and what to do."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dist_mtl.config.dataset_uri import Place, overlap
from dist_mtl.config.sharding import SHARDINGS
from dist_mtl.config.table_rules import TABLE_RULES
from dist_mtl.errors import nearest
from dist_mtl.terminal.wording import plural

if TYPE_CHECKING:
    from dist_mtl.config import Config


MOST_TOLD = 50  # mistakes that one error lists; looking for each takes a time that grows with the configuration


def check(config: "Config") -> None:
    """Raise ValueError with every rule that is broken, one a line; the first ones, if they are many."""
    found = (problem for rule in RULES for problem in rule(config))
    if problems := list(islice(found, MOST_TOLD)):
        raise ValueError("\n".join(problems))


def _data(config: "Config") -> Iterator[str]:
    data = config.data
    if not Place.parse(config.run.dir).is_local:
        yield f"run.dir: `{config.run.dir}` is a URL; a run is written to a local folder, name one"
    for key, folder in (("test", data.test), ("validation", data.validation)):
        if folder is not None and overlap(folder, data.train):
            yield (
                f"data.{key}: `{folder}` is data.train or a part of it; metrics on trained rows mean nothing. "
                f"Remove it, or name other rows"
            )
    if data.quarantine and data.stream is not None:
        yield (
            "data.quarantine: a stream tests each partition before it trains it, and an evaluation skips nothing; "
            "remove it, and restore what is damaged"
        )
    if data.quarantine and data.verify == "full":
        yield (
            "data.quarantine: data.verify = 'full' refuses a damaged file before step 1, so there would be nothing to "
            "skip; set data.verify = 'footer', which checks every row group when it is read"
        )
    for folder in (data.train, data.test):
        place = Place.parse(folder or "")
        if data.sample is not None and (place.ranges or not place.is_local):
            yield f"data.sample: sample logs are made in a local folder, and `{folder}` is none; name a plain path"
    if data.kept is not None and len(data.kept) != len(data.labels):
        yield (
            f"data.kept: {plural(len(data.kept), 'share')} for the {plural(len(data.labels), 'label')} "
            f"{list(data.labels)}"
        )
    labels = config.data.labels
    if len(set(labels)) != len(labels):
        yield "data.labels: a column stands there twice"
    for name in config.features:
        for column in set(config.columns_of(name)) & set(labels):
            yield f"features.{name}: column `{column}` is a label; a model that sees it learns nothing"
    weights = config.model.task_weights
    if weights is not None and len(weights) != len(labels):
        yield (
            f"model.task_weights: {plural(len(weights), 'weight')} for the {plural(len(labels), 'label')} "
            f"{list(labels)}"
        )


def _model(config: "Config") -> Iterator[str]:
    tables = config.all_tables  # once: it is made anew each time
    dims = {tables[t].dim for f in config.features if (t := config.table_of(f)) in tables}
    if not dims:
        yield "features: at least one must be an id, a bag or a bucketised number"
    spec = config.model.interaction
    if spec.kind == "dot" and spec.bottom is not None:
        if all(config.table_of(name) is not None for name in config.features):
            yield "model.interaction.bottom: there is no dense feature for the bottom MLP to read; remove it"
    if spec.kind == "dot" and len(dims) > 1:
        yield f"model.interaction: dot products need one dim for all tables; they have {sorted(dims)}"


MOST_LAYERS = 10_000  # each is products of its own at every step: so many take a second, and as long to lay out


def _layers(config: "Config") -> Iterator[str]:
    spec, tasks = config.model.backbone, len(config.data.labels)
    match spec.kind:
        case "ple":
            stacks = spec.levels * (tasks * spec.task_experts + spec.shared_experts)
        case "mmoe" | "omoe":
            stacks = spec.experts
        case "shared_bottom":
            stacks = 1
        case _:
            stacks = tasks
    layers = stacks * len(getattr(spec, "hidden", ())) + tasks * len(config.model.tower)
    if layers > MOST_LAYERS:
        yield (
            f"model.backbone: {layers:,} layers in {stacks:,} networks and {tasks} towers, of which there may be "
            f"{MOST_LAYERS:,}; use fewer experts, levels or layers"
        )


def _head(config: "Config") -> Iterator[str]:
    data, model = config.data, config.model
    if not data.funnel and model.head != "independent":
        yield (
            f"model.head: `{model.head}` reads the labels as a funnel, and data.funnel is false; "
            f"set model.head = 'independent' (each label has a logit of its own, over all rows)"
        )
    if data.funnel and model.head == "independent":
        yield (
            "model.head: `independent` is for labels of which none implies another; set data.funnel = false if that is "
            "so, else use 'ctcvr', which has the same towers and losses and is read as a funnel"
        )
    if not data.funnel and data.kept is not None:
        yield "data.kept: shares kept by level need a funnel, and data.funnel is false; remove it"
    if not data.funnel and data.violations == "drop":
        yield "data.violations: with data.funnel = false no row can break the funnel; remove it"
    if model.counterfactual is not None:
        if model.head != "esmm":
            yield (
                f"model.counterfactual: ESCM2 corrects the conversion tower of `esmm`; with head `{model.head}` remove "
                f"it, or set model.head = 'esmm'"
            )
        if len(data.labels) == 1:
            yield f"model.counterfactual: there is no conversion behind the only label `{data.labels[0]}`; remove it"
    if model.backbone.kind == "aitm" and model.backbone.calibrator and model.head != "ctcvr":
        reason = (
            "nothing bounds one label by another" if not data.funnel else "no P(label) can exceed the one before it"
        )
        yield f"model.backbone.calibrator: with head `{model.head}` {reason}; remove it, or use 'ctcvr' on a funnel"


def _alignment(config: "Config") -> Iterator[str]:
    labels, spec = config.data.labels, config.model.alignment
    if spec.kind == "off":
        return
    if len(labels) == 1:
        yield f"model.alignment: there is only one task, `{labels[0]}`; remove it"
    for pair in spec.pairs or ():
        for label in pair:
            if label not in labels:
                hint = nearest(label, labels) or list(labels)
                yield f"model.alignment.pairs: `{label}` is not among data.labels; {hint}"
        if pair[0] == pair[1]:
            yield f"model.alignment.pairs: `{pair[0]}` can not be compared with itself"
    if len(set(spec.pairs or ())) != len(spec.pairs or ()):
        yield "model.alignment.pairs: a pair stands there twice"
    if spec.negatives == "sampled" and spec.num_negatives >= config.train.global_batch:
        yield (
            f"model.alignment.num_negatives: {spec.num_negatives} of "
            f"{plural(config.train.global_batch, 'row')} of a global "
            f"batch; use fewer, or negatives = 'all'"
        )
    if spec.kind in ("pico", "adaftr") and spec.temperatures[0] >= spec.temperatures[1]:
        yield f"model.alignment.temperatures: low, then high; got {list(spec.temperatures)}"
    if spec.kind == "adaftr" and spec.target == "conversion_given_click" and not config.data.funnel:
        yield (
            "model.alignment.target: with data.funnel = false no label waits for another; "
            "use 'agreement' or 'gradient_agreement'"
        )


def _beside(config: "Config") -> Iterator[str]:
    labels, model = config.data.labels, config.model
    if model.pairwise.kind == "pwiser":
        if len(labels) == 1:
            yield f"model.pairwise: no label follows `{labels[0]}`, so there is nothing to rank; remove it"
        if not config.data.funnel:
            yield "model.pairwise: it ranks the stages of a funnel, and data.funnel is false; remove it"
        if model.pairwise.on == "probability" and max(model.pairwise.margins) >= 1:
            yield "model.pairwise.margins: probabilities are never 1 apart; use margins below 1, or on = 'logit'"
    if model.balance == "uncertainty" and model.task_weights is not None:
        yield "model.task_weights: model.balance = 'uncertainty' learns the weights; remove one of the two"
    if model.balance == "pcgrad" and len(labels) == 1:
        yield f"model.balance: `{labels[0]}` is alone, no task can conflict with it; remove it"


def _sizes(config: "Config") -> Iterator[str]:
    if config.data.shuffle_rows < config.train.global_batch:
        yield f"data.shuffle_rows: {config.data.shuffle_rows} is less than one step, train.global_batch"


def _stream(config: "Config") -> Iterator[str]:
    if config.data.stream is None:
        return
    if config.train.epochs > 1:
        yield (
            f"train.epochs: {config.train.epochs} with data.stream: a stream is passed once, for each partition is "
            f"tested before it is trained; set train.epochs = 1"
        )
    if config.data.sample is not None:
        yield "data.stream: sample logs have no partitions; remove data.sample or data.stream"


def _evaluation(config: "Config") -> Iterator[str]:
    train = config.train
    if train.evaluate_every is not None and train.evaluate_every_rows is not None:
        yield "train.evaluate_every: set with train.evaluate_every_rows; keep one of the two"
    if config.evaluation_steps is not None and config.validation is None:
        yield "train.evaluate_every: there is nothing to evaluate; name data.validation or data.test"
    if config.data.validation is not None and config.evaluation_steps is None:
        yield "data.validation: it is evaluated on the way, so set train.evaluate_every or train.evaluate_every_rows"
    for key, columns in (("slices", config.metrics.slices), ("groups", config.metrics.groups)):
        if len(set(columns)) != len(columns):
            yield f"metrics.{key}: a column stands there twice"
        for name in columns:
            if name in config.features and config.features[name].kind == "cross":
                parts = " or ".join(f"`{column}`" for column in config.columns_of(name))
                yield f"metrics.{key}: `{name}` is a cross and no column; name {parts}"
    if config.select is None:
        return
    if config.evaluation_steps is None:
        yield "select: there is nothing to select among; set train.evaluate_every or train.evaluate_every_rows"
    known = readings(config)
    for name in config.select.metrics:
        if name not in known:
            hint = nearest(name, known) or f"known: {', '.join(known)}"
            yield f"select.metrics: `{name}` is no metric of this run; {hint}"


def _travel(config: "Config") -> Iterator[str]:
    sharding = config.sharding
    if sharding.replicas > 1:
        # Averages of what Adagrad did apart are no step of Adagrad, and TorchRec's DMPCollection exists on CUDA only.
        yield (
            f"sharding.replicas: {sharding.replicas}: TorchRec's groups of ranks train copies of the tables apart and "
            f"average their weights and optimizer states, so the losses would depend on the number of groups; "
            f"set sharding.replicas = 1"
        )
    kinds = {table.sharding for table in config.tables.values()}
    yield from summed(config, kinds)
    pipeline = sharding.pipeline
    dynamic = [name for name, table in config.tables.items() if table.dynamic is not None]
    if pipeline != "base" and dynamic:
        yield (
            f"sharding.pipeline: `{pipeline}` sends ids before the step that comes first, and tables.{dynamic[0]} is "
            f"dynamic: its ids get their rows step by step; use 'base'"
        )
    if pipeline == "semi_sync" and any(table.traits.replicated for table in config.tables.values()):
        yield (
            "sharding.pipeline: `semi_sync` looks a batch up before the update of the last one, and a data_parallel "
            "table's gradient is summed over ranks behind each lookup; use another sharding, or 'sparse_dist'"
        )
    counting = config.optim.embedding.kind in ("adam", "partial_rowwise_adam")
    if pipeline == "semi_sync" and counting and config.train.skip_nonfinite:
        yield (
            "train.skip_nonfinite: under `semi_sync` Adam counts a step before it is known whether the one before it "
            "is skipped; set it to 0, or use 'sparse_dist'"
        )
    if pipeline == "prefetch" and not {"auto", "uvm_caching"} & {table.kernel for table in config.tables.values()}:
        yield (
            "sharding.pipeline: `prefetch` fills the cache of a table with kernel = 'uvm_caching', and there is none; "
            "use 'sparse_dist'"
        )


def summed(config: "Config", kinds: Iterable[str]) -> Iterator[str]:
    """What can not travel between ranks as int8 under these shardings."""
    for key in ("forward", "backward"):
        wrong = sorted(kind for kind in {*kinds} & SHARDINGS.keys() if SHARDINGS[kind].sums)
        if getattr(config.sharding, key) == "int8" and wrong:
            yield (
                f"sharding.{key}: int8 can not be summed over ranks, as `{wrong[0]}` does; use 'fp16', or table_wise "
                f"or column_wise for every table"
            )


def readings(config: "Config") -> list[str]:
    """Every name that `select.metrics` may hold."""
    within = ("gauc", "mrr", *(f"ndcg@{k}" for k in config.metrics.ndcg_at))
    names = [f"{task}.{metric}" for task in config.tasks for metric in ("auc", "logloss", "ne", "pcoc", "ece")]
    return names + [f"{t}.{column}.{m}" for t in config.tasks for column in config.metrics.groups for m in within]


RULES = (*TABLE_RULES, _travel, _data, _model, _layers, _head, _alignment, _beside, _sizes, _stream, _evaluation)
