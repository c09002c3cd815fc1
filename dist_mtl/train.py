"""THE LOOP: a configuration -> trained weights, committed and evaluated on the way, and their final evaluation."""

from dataclasses import asdict, dataclass, replace

from dist_mtl.build import build, check_world
from dist_mtl.checkpoint.disk_space import warning_of_space
from dist_mtl.checkpoint.manager import Committer
from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.config import Config
from dist_mtl.data.loader import Dataset
from dist_mtl.data.order import Order, Partitions
from dist_mtl.errors import DistMtlError, Preempted
from dist_mtl.model.loss import Objective
from dist_mtl.parallel.feed import batches
from dist_mtl.parallel.runtime import runtime
from dist_mtl.parallel.train_step import train_step
from dist_mtl.scoring.evaluate import Evaluation
from dist_mtl.training import ending
from dist_mtl.training.crash_loop import attempt
from dist_mtl.training.datasets import check_classes, open_data
from dist_mtl.training.leakage import FirstRows
from dist_mtl.training.monitor import Pace
from dist_mtl.training.nonfinite import skip
from dist_mtl.training.session import Session, observing


def train(config: Config, embedded: bool = False) -> Evaluation | None:
    """Train to the end, from the newest commit if there is one, and evaluate `data.test`, by the best commit's weights.

    The same on every rank; None without `data.test`. `embedded`: in a process that lives on, see `runtime`. Raises any
    DistMtlError, on all ranks alike wherever one rank's fault can be told to the others.
    """
    check_world(config)
    with runtime(config.run, embedded) as rt, observing(config, rt) as observer, attempt(config.run, rt, observer):
        config, data = open_data(config, rt, observer)
        check_classes(data, config, rt, observer)
        rt.honour_stop()
        due = Due(config, num_steps(config, data.train), data.train.order)
        objective = Objective.of(config)
        model = build(config, rt, due.steps)
        pace = Pace(config, rt, observer, due.steps, objective.names, model.ids)
        committer = Committer(config, rt, observer, model, data.train)
        first = FirstRows(config, min(due.steps, data.train.order.steps_per_epoch))  # each row once
        session = Session(config, rt, observer, data, model, pace, due.steps, first, committer)
        progress = session.resume()
        rt.honour_stop()
        observer.event("start", **session.summary())
        if message := config.few_steps(due.steps):
            observer.event("advice", message=message)
        if message := warning_of_space(model, pace.window_state(), config, rt):
            observer.event("warning", message=message)
        with observer.progress(progress.step, due.steps):
            try:
                if not progress.judged and due.evaluation(progress):
                    progress = session.judge(progress)
                source = batches(data.train, rt, progress.step, due.last_step(progress), progress.lost)
                source = model.ahead.over(source, due.drained)
                rt.remains.callback(source.close)
                for batch in pace.timed(source):
                    ending.check_folder(session)
                    progress = session.look_ahead(progress, batch.step)
                    read, batch = batch, model.ahead.on_device(model.learn_ids(batch))
                    pace.watch.lap("ids")
                    diagnose = due.diagnosis(batch.step)
                    outcome = train_step(model, objective, batch, rt, pace.watch, diagnose, True, pace.skipped)
                    if outcome.flaw is not None:
                        skip(outcome, pace.skipped, data.train, config, rt, observer)
                    session.examine(read, outcome)  # with its keys: ids without a row of their own would look like one
                    pace.after(outcome, batch)
                    progress = committer.look(replace(progress, step=outcome.step))
                    progress = replace(progress, judged=not due.evaluation(progress))
                    if outcome.stop:
                        raise Preempted
                    if not progress.judged:
                        progress = session.judge(progress)
                    if reason := due.commit(progress):
                        progress = ending.commit(session, progress, reason)
                    if progress.selection.stops(config.select):
                        break
                source.close()
            except Preempted:
                model.ahead.clear()
                raise ending.stopped(session, progress, due.is_exact(progress.step)) from None
            except DistMtlError as error:
                if error.all_ranks:
                    committer.settle(progress)
                raise
        if progress.selection.stops(config.select):
            observer.event("early_stop", step=progress.step, **asdict(progress.selection))
        pace.finish(progress.step)
        return session.conclude(progress)


def num_steps(config: Config, dataset: Dataset) -> int:
    """Global steps of the whole run."""
    steps = config.train.epochs * dataset.order.steps_per_epoch
    return min(steps, config.train.max_steps or steps)


@dataclass(frozen=True)
class Due:
    """What is to be done after a step; a function of the progress alone, so that every rank does the same."""

    config: Config
    steps: int
    order: Order | Partitions

    def last_step(self, progress: Progress) -> int:
        """Where training ends: at once for a run that has stopped early before."""
        return progress.step if progress.selection.stops(self.config.select) else self.steps

    def evaluation(self, progress: Progress) -> bool:
        """Every so many steps, and at the end, unless that would be the final evaluation."""
        every = self.config.evaluation_steps
        if every is None:
            return False
        if progress.step == self.steps:
            return self.config.select is not None or self.config.data.validation is not None
        return progress.step % every == 0

    def drained(self, step: int) -> bool:
        """Whether a commit or an evaluation may follow: a look-ahead never goes beyond such a step, so that what is
        trained behind it is a function of what a commit holds. Nor beyond the first step of a partition, which is
        evaluated when that step's batch is at hand, and the next would be on its way."""
        part = isinstance(self.order, Partitions) and any(map(self.order.starts_part, (step, step + 1)))
        periodic = step % self.config.train.checkpoint_every == 0
        return step == self.steps or periodic or part or self.evaluation(Progress(step))

    def is_exact(self, step: int) -> bool:
        """Whether a run that goes on from a commit of this step has the bits of one that was never stopped."""
        return self.config.sharding.pipeline != "semi_sync" or self.drained(step)

    def diagnosis(self, step: int) -> bool:
        """Every so many steps."""
        return self.config.diagnose.every is not None and step % self.config.diagnose.every == 0

    def commit(self, progress: Progress) -> str | None:
        """The reason for a commit, if there is one."""
        if progress.selection.stops(self.config.select):
            return "stopped"
        if progress.step == self.steps:
            return "end"
        if progress.selection.best_step == progress.step:
            return "best"
        if isinstance(self.order, Partitions) and self.order.starts_part(progress.step + 1):
            return "partition"
        return "periodic" if progress.step % self.config.train.checkpoint_every == 0 else None
