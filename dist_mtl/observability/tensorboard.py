"""The scalars of a run for TensorBoard: what curves are drawn of, from the same events as the report."""

import math
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dist_mtl.errors import ConfigError

FOLDER = "tensorboard"
NOT_IN_A_TAG = re.compile(r"[^-/\w.]+")  # the pair click|conversion is click-conversion
INSTALL = "pip install tensorboardX"


class TensorBoard:
    """Writes below RUN/tensorboard. Of a step trained twice, TensorBoard shows the later one.

    Not through tensorboardX's SummaryWriter: its thread ends at a full disk, and the queue to it then blocks for ever.
    Raises ConfigError where tensorboardX is not installed or the folder can not be written; later, OSError.
    """

    def __init__(self, run_dir: str) -> None:
        try:
            from tensorboardX import event_file_writer  # an extra: a run without it must not need it
        except ImportError:
            raise ConfigError(
                f"run.tensorboard = true needs the package tensorboardX: `{INSTALL}`, or leave the key out"
            ) from None
        self._module: Any = event_file_writer
        self._folder = Path(run_dir) / FOLDER
        self._writer: Any = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run.dir = '{run_dir}': {error.strerror}; choose a folder to write to") from None

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Write the scalars of an event; those that are not finite are left out."""
        if name == "resume":
            self._open(fields["step"] + 1)
            return
        found = [(tag, x) for tag, x in scalars(name, fields) if x is not None and math.isfinite(x)]
        if not found:
            return
        if self._writer is None:
            self._open(1)  # what an earlier start without a commit may have left is void
        values = [{"tag": NOT_IN_A_TAG.sub("-", tag), "simple_value": x} for tag, x in found]
        self._write(step=fields["step"], summary={"value": values})

    def _open(self, first_step: int) -> None:
        """Begin a file, which makes TensorBoard drop what older ones hold from `first_step` on.

        The file's name begins with the second it is made in; the suffix tells two of the same second apart.
        """
        self.close()
        count = len(list(self._folder.iterdir()))
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{count:04d}"
        self._writer = self._module.RecordWriter(str(self._folder / name))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log={"status": "START"})

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._module.event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def scalars(name: str, fields: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    """(tag, value) of everything in an event that makes a curve; nothing for events without a step's numbers."""
    match name:
        case "step":
            yield from _each("train/loss", fields["losses"])
            yield "train/loss/total", fields.get("loss")
            yield "speed/rows_per_second", fields["rows_per_second"]
            yield "speed/data_wait", fields["data_wait"]
            yield from _each("speed/seconds", fields.get("seconds", {}))
            yield from _each("memory", fields.get("memory", {}))
            for task, metrics in fields.get("window", {}).items():
                yield from _each(f"window/{task}", metrics)
        case "evaluation":
            # The final evaluation may be of other data, and of an older step's weights.
            kind = "final" if fields.get("final") else "evaluation"
            yield f"{kind}/score", fields.get("score")
            for task, metrics in fields["tasks"].items():
                yield from ((f"{kind}/{task}/{key}", metrics[key]) for key in METRICS)
                yield from ((f"{kind}/{task}/auc{end}", metrics["auc"][key]) for end, key in ENDS)
        case "diagnosis":
            for kind in ("gate_entropy", "gradient_cosine", "gradient_norm", "violated"):
                yield from _each(kind, fields.get(kind, {}))
            for task, weights in fields.get("gates", {}).items():
                yield from _each(f"gates/{task}", dict(enumerate(weights)))
            for pair, each in fields.get("similarity", {}).items():
                yield from _each(f"similarity/{pair}", each)


METRICS = ("logloss", "normalised_entropy", "pcoc", "calibration_error")
ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))


def _each(prefix: str, values: dict[Any, float | None]) -> Iterator[tuple[str, float | None]]:
    return ((f"{prefix}/{key}", x) for key, x in values.items())
