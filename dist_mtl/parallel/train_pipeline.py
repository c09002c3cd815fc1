"""The batch that comes next, as far as it may be on its way while the one before it is trained.

base         nothing is.
sparse_dist  its ids are sent to the ranks that have their rows. The same bits as base.
prefetch     the same; and its rows are taken into the caches of `uvm_caching`. The same bits as base.
semi_sync    it is looked up, too, before the update of the step at work: its rows are a step old.

TorchRec's own pipelines trace the model and run backward passes themselves, which a held one (`Cut`) can not have; here
are only the three calls of a sharded collection. Everything here is collective, in one order on all ranks.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dist_mtl.data.batch import Batch
from dist_mtl.model.embedding import PooledEmbeddings
from dist_mtl.parallel.step_timer import Stopwatch

Kind = Literal["base", "sparse_dist", "prefetch", "semi_sync"]


@dataclass
class _Coming:
    """A batch on its way, and how far it is."""

    source: Batch  # as it was read
    batch: Batch  # on the device, once `copied`
    copied: Any  # an event of the side stream; None: there is none, and the batch is there
    context: Any
    splits: Any  # awaits how many ids go where, then:
    values: Any = None  # awaits the ids, then:
    ids: Any = None  # those of all ranks whose rows are here, then:
    pooled: Any = None  # awaits the embeddings

    def record_stream(self, stream: Any) -> None:
        """Keep the memory of the batch until what `stream` has been given is done."""
        batch = self.batch
        for part in (batch.slots_B, batch.ids, batch.dense_BD, batch.labels_BT, batch.weight_B):
            part.record_stream(stream)


class LookAhead:
    """What is on its way. Its batches must be trained in the order in which they were sent, and nothing else between
    `send` and the forward pass but steps of training: an evaluation would find rows of another batch in the caches."""

    def __init__(self, module: nn.Module, kind: Kind, device: torch.device) -> None:
        self.kind, self._device = kind, device
        pooled = next(m for m in module.modules() if isinstance(m, PooledEmbeddings))
        pooled.prepared = self._take
        self._collection = pooled.collection
        self._coming: list[_Coming] = []
        self.watch: Stopwatch | None = None  # of the parts of a lookup that was not sent before
        is_aside = device.type == "cuda" and kind != "base"
        self._side = torch.cuda.Stream(device) if is_aside else None  # written, never run
        self._cache = torch.cuda.Stream(device) if is_aside and kind == "prefetch" else None

    def over(self, source: Iterator[Batch], is_drained: Callable[[int], bool]) -> Iterator[Batch]:
        """The batches of `source`, each with the next one sent before it, but for steps behind which nothing may be
        on its way (`is_drained`, of the step): commits and evaluations."""
        try:
            batch = next(source, None)
            while batch is not None:
                coming = None if self.kind == "base" or is_drained(batch.step) else next(source, None)
                if coming is not None:
                    self._send(coming)
                yield batch
                batch = next(source, None) if coming is None else coming
        finally:
            source.close()

    def on_device(self, batch: Batch) -> Batch:
        """The batch on the device, to be used at once: the very one that was sent, if it was."""
        sent = next((one for one in self._coming if one.source is batch), None)
        if sent is None:
            return batch.to(self._device)
        if sent.copied is not None:  # labels and weights are read before `_arrive` waits for the ids
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(sent.copied)
            sent.record_stream(stream)
        return sent.batch

    def is_early(self, step: int) -> bool:
        """Whether the batch behind that of `step`, which begins, is to be looked up before its update, and is not yet:
        the first step of a process may begin twice."""
        if self.kind != "semi_sync" or not self._coming:
            return False
        return self._coming[-1].batch.step == step + 1 and self._coming[-1].pooled is None

    def look_up(self) -> None:
        """Do so. Its learning rate is that of the kernels at this moment (FBGEMM keeps it with the lookup)."""
        self._look_up(self._coming[-1])

    def advance(self) -> None:
        """Go on with what is on its way, behind the forward pass of the step at work."""
        for one in self._coming:
            with self._aside(self._side):
                if one.values is None:
                    one.values = one.splits.wait()
            if self.kind == "prefetch" and one.ids is None:
                self._prefetch(one)

    def clear(self) -> None:
        """Let what is on its way arrive, and drop it: a run ends."""
        for one in self._coming:
            if one.ids is None:
                self._arrive(one)
        self._coming = []

    def _send(self, batch: Batch) -> None:
        with self._aside(self._side):
            here = batch.to(self._device)
            copied = None if self._side is None else self._side.record_event()
            context = self._collection.create_context()
            self._coming.append(_Coming(batch, here, copied, context, self._collection.input_dist(context, here.ids)))

    def _take(self, ids: KeyedJaggedTensor) -> KeyedTensor | None:
        """The pooled embeddings of a batch that was sent; None for any other."""
        one = next((one for one in self._coming if one.batch.ids is ids), None)
        if one is None:
            return None if self.watch is None else self._in_parts(ids, self.watch)
        self._coming.remove(one)
        if one.pooled is None:
            self._look_up(one)
        return one.pooled

    def _in_parts(self, ids: KeyedJaggedTensor, watch: Stopwatch) -> KeyedTensor:
        """A lookup as the collection does it, each part waited for."""
        watch.lap("forward")
        context = self._collection.create_context()
        arrived = self._collection.input_dist(context, ids).wait().wait()
        watch.lap("input_dist")
        pooled = self._collection.compute_and_output_dist(context, arrived)
        watch.lap("lookup")
        pooled = pooled.wait()
        watch.lap("output_dist")
        return pooled

    def _look_up(self, one: _Coming) -> None:
        if one.ids is None:
            self._arrive(one)
        if self._cache is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._cache)
        one.pooled = self._collection.compute_and_output_dist(one.context, one.ids)

    def _arrive(self, one: _Coming) -> None:
        with self._aside(self._side):
            values = one.splits.wait() if one.values is None else one.values
            one.ids = values.wait()
        if self._side is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_stream(self._side)
            for part in (one.batch.ids, one.ids, one.context):
                part.record_stream(stream)

    def _prefetch(self, one: _Coming) -> None:
        self._arrive(one)
        stream = torch.cuda.current_stream(self._device)
        self._cache.wait_stream(stream)
        with torch.cuda.stream(self._cache):
            one.ids.record_stream(self._cache)
            self._collection.prefetch(ctx=one.context, dist_input=one.ids, forward_stream=stream)

    @staticmethod
    def _aside(stream: Any) -> AbstractContextManager:
        return nullcontext() if stream is None else torch.cuda.stream(stream)
