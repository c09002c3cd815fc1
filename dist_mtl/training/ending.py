"""How a run ends before its last step: a signal asks for it, or its folder was renamed or removed while it is at work.

What was trained is committed first, into the folder where it is by then. All verbs are collective.
"""

from dist_mtl.checkpoint.train_state import Progress
from dist_mtl.errors import CheckpointError, DistMtlError, Preempted
from dist_mtl.training.session import Session


def check_folder(session: Session) -> None:
    """Before a step: the first rank asks all for a stop at its end if the run's folder is not where it was. A system
    call, and no collective: the ranks agree on a stop at every step."""
    if session.observer.has_moved():
        session.rt.stop.ask("a rename")


def commit(session: Session, progress: Progress, reason: str) -> Progress:
    """`Session.commit` into the folder that the run began in. Raises CheckpointError, on every rank, if it has moved:
    an evaluation before the commit may have taken long."""
    if session.rt.from_first(session.observer.has_moved):
        raise _moved(session, progress, is_exact=True)
    return session.commit(progress, reason)


def stopped(session: Session, progress: Progress, is_exact: bool = True) -> DistMtlError:
    """Commit what was trained, now that the run is to stop. Returns the error to end with.

    An evaluation that is due but was not made is made when the run goes on. After the last step that would come too
    late for the commit, which has to name the best: such a run goes back to the commit before. So does one that
    would not go on with the same bits (not `is_exact`: the next batch of `semi_sync` has been looked up).
    """
    if session.rt.from_first(session.observer.has_moved):
        return _moved(session, progress, is_exact)
    became = _last_commit(session, progress, is_exact)
    told = f"stopped by a signal after step {progress.step:,}, which is {became}"
    return _for_all(Preempted(f"{told}; run the same command again to go on"))


def _moved(session: Session, progress: Progress, is_exact: bool) -> CheckpointError:
    """Commit into the run's folder where it is now. The error is none to start again by itself (75): the same command
    would begin anew under the old name."""
    old, step = session.config.run.dir, progress.step
    place = session.rt.from_first(session.observer.run_dir)
    if place is None:
        told = f"the folder was removed while the run was at work, at step {step:,}, and all commits with it"
        return _for_all(
            CheckpointError(f"run.dir = '{old}': {told}. Bring it back from a copy, or start again, which begins anew")
        )
    session.committer.move(place)
    became = _last_commit(session, progress, is_exact)
    told = f"the folder was renamed while the run was at work and is now {place}. Step {step:,} is {became} there"
    return _for_all(
        CheckpointError(
            f"run.dir = '{old}': {told}; to go on, start again with run.dir = '{place}', or undo the renaming"
        )
    )


def _last_commit(session: Session, progress: Progress, is_exact: bool) -> str:
    """Commit, if a run can go on from it. Returns what became of it."""
    if not (is_exact and progress.step and (progress.judged or progress.step < session.steps)):
        return "not committed"
    try:
        session.commit(progress, "preempted")
    except CheckpointError as error:  # on all ranks alike; the commit before is where the next start goes on
        return f"not committed: {error}"
    return "committed"


def _for_all(error: DistMtlError) -> DistMtlError:
    """An error that every rank comes to by itself."""
    error.all_ranks = True
    return error
