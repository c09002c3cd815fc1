"""Dynamic tables over ranks: before a step its keys travel to the ranks that own them, and come back as rows.

One exchange for all tables of a run. It ends before the model sees the batch, so the sharding plan is none of its
business, and the rows that come out are the same under every plan and on any number of ranks.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata, TensorProperties
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_mtl.config import Config, TableConfig
from dist_mtl.data.features.idmap import TALLY, IdMap, Learnt, owned, owner_of, segment_of
from dist_mtl.data.features.key_store import firsts
from dist_mtl.errors import CheckpointError
from dist_mtl.parallel.runtime import Runtime

Answering = Callable[[np.ndarray, np.ndarray, np.ndarray], Learnt]  # of tables, keys, sightings
TABLE_BIT = 40  # where the number of the table begins in the word that a key travels with; below it, its sightings
NOTHING = np.zeros((0, 2), np.int64)


class DynamicIds:
    """This rank's part of the map from keys to rows. Every verb is collective.

    Invariant: what the ranks hold together is a function of the global batches learnt so far.
    """

    def __init__(
        self, tables: Mapping[str, TableConfig], table_of: Mapping[str, str], rt: Runtime, learns: bool
    ) -> None:
        self.map = IdMap(tables, rt.rank, rt.size, learns)
        number = {name: i for i, name in enumerate(self.map.names)}
        self._table_of = {feature: number[table] for feature, table in table_of.items() if table in number}
        self._rows = [table.rows for table in tables.values()]
        self._rt, self._learns = rt, learns
        self._scratch = np.zeros(0, np.int32)

    @classmethod
    def of(cls, config: Config, rt: Runtime, learns: bool) -> "DynamicIds | None":
        """The map of a configuration; None where no table is dynamic. Without `learns` it can only look up."""
        tables = {name: table for name, table in config.tables.items() if table.dynamic is not None}
        users = {feature: table for feature in config.features if (table := config.table_of(feature)) is not None}
        return cls(tables, users, rt, learns) if tables else None

    def look_up(self, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Rows in the place of the keys of the dynamic features; an unknown key gets its row of the fallback part."""
        return self._replaced(ids, lambda table_N, key_N, _: Learnt(self.map.look_up(table_N, key_N), NOTHING))[0]

    def learn(self, ids: KeyedJaggedTensor, step: int) -> tuple[KeyedJaggedTensor, dict[str, Tensor]]:
        """The same for a batch to train, which may give rows new owners: also those rows of each table, on all ranks.

        Call once a step, before its forward pass.
        """
        ids, renewed_E2 = self._replaced(ids, lambda *lookups: self.map.learn(*lookups, step))
        tables = np.unique(renewed_E2[:, 0])
        return ids, {self.map.names[t]: torch.from_numpy(np.sort(renewed_E2[renewed_E2[:, 0] == t, 1])) for t in tables}

    def status(self) -> dict[str, dict[str, int]]:
        """By table: rows, those that belong to a key, and the tally since the process began, over all ranks."""
        told = np.column_stack([self.map.occupied_T, self.map.tally_TX])
        whole = self._rt.all_reduce(torch.from_numpy(told).to(self._rt.device)).tolist()
        names = ("occupied", *TALLY)
        return {
            table: {"rows": rows} | dict(zip(names, row, strict=True))
            for table, rows, row in zip(self.map.names, self._rows, whole, strict=True)
        }

    def state(self) -> dict[str, dict[str, ShardedTensor | Tensor]]:
        """The map as tensors by table, cut by segments over the ranks, in the memory of the map itself.

        Of a map that does not learn only what a lookup needs. After they were filled from a commit call `filled`.
        """
        parts = {"key": self.map.rows.key_GW}
        if self._learns:
            waiting = self.map.waiting
            parts |= {"score": self.map.rows.score_GW, "age": self.map.age_G}
            parts |= {
                "waiting_key": waiting.key_GW,
                "waiting_score": waiting.score_GW,
                "waiting_seen": self.map.seen_GW,
            }
        return {
            table: {name: self._sharded(array, number) for name, array in parts.items()}
            for number, table in enumerate(self.map.names)
        }

    def filled(self) -> None:
        """Take up what was filled in. Raises CheckpointError, on every rank, for a key that belongs elsewhere."""
        wrong = torch.tensor([not self.map.refresh()], dtype=torch.int64, device=self._rt.device)
        if bool(self._rt.all_reduce(wrong)):
            error = CheckpointError(
                "dynamic tables: the commit has ids where they can not have been put: damaged. Take an older commit"
            )
            error.all_ranks = True
            raise error

    def _sharded(self, array: np.ndarray, number: int) -> ShardedTensor | Tensor:
        """A table's part of an array of segments, as one tensor over all ranks. Uneven, and a rank may have nothing."""
        if self._rt.group is None:
            return torch.from_numpy(array[self.map.part(number)])
        tail, total = list(array.shape[1:]), int(self.map.segments_T[number])
        ranges = [owned(total, rank, self._rt.size) for rank in range(self._rt.size)]
        places = [
            ShardMetadata([r.start] + [0] * len(tail), [len(r), *tail], f"rank:{rank}/cpu")
            for rank, r in enumerate(ranges)
        ]
        mine = torch.from_numpy(array[self.map.part(number)])
        shards = [Shard(mine, places[self._rt.rank])] if len(mine) else []
        properties = TensorProperties(dtype=mine.dtype)
        whole = ShardedTensorMetadata([p for p in places if p.shard_sizes[0]], torch.Size([total, *tail]), properties)
        return ShardedTensor._init_from_local_shards_and_global_metadata(shards, whole, process_group=self._rt.group)

    def _replaced(self, ids: KeyedJaggedTensor, answer: Answering) -> tuple[KeyedJaggedTensor, np.ndarray]:
        """`ids` with rows for keys, and (table, row) of those that changed hands on any rank."""
        ends = list(accumulate(ids.length_per_key(), initial=0))
        numbers = [self._table_of.get(feature) for feature in ids.keys()]
        spans = [
            (number, slice(*span)) for number, span in zip(numbers, pairwise(ends), strict=True) if number is not None
        ]
        values = ids.values().cpu().numpy().copy()
        key_N = np.concatenate([values[span] for _, span in spans])
        table_N = np.repeat([number for number, _ in spans], [span.stop - span.start for _, span in spans])
        row_N, renewed_E2 = self._asked(table_N, key_N, answer)
        done = 0
        for _, span in spans:
            count = span.stop - span.start
            values[span] = row_N[done : done + count]
            done += count
        lengths, weights = ids.lengths(), ids.weights_or_none()
        rows = torch.from_numpy(values).to(lengths.device)
        return KeyedJaggedTensor(ids.keys(), rows, weights, lengths, stride=ids.stride()), renewed_E2

    def _asked(self, table_N: np.ndarray, key_N: np.ndarray, answer: Answering) -> tuple[np.ndarray, np.ndarray]:
        """Ask the owners, each of most of the distinct keys once."""
        of_N = self._alike(table_N, key_N)
        one_N = of_N == np.arange(len(of_N))
        table, key, times = table_N[one_N], key_N[one_N], np.bincount(of_N, minlength=len(of_N))[one_N]
        if self._rt.size > 1:
            row, renewed_E2 = self._exchanged(table, key, times, answer)
        else:
            found = answer(table, key, times)
            row, renewed_E2 = found.row_N, found.renewed_E2
        return row[(np.cumsum(one_N) - 1)[of_N]], renewed_E2

    def _alike(self, table_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
        """For each lookup the number of an equal one; not the same for all equal ones: there is no sort.

        A key that is in the batch often is found by most of its likes; what is left the owner adds up.
        """
        wanted = 1 << (4 * len(key_N)).bit_length()
        if len(self._scratch) < wanted:
            self._scratch = np.zeros(wanted, np.int32)
        of_N = firsts(key_N & (wanted - 1), self._scratch)
        alike = (key_N[of_N] == key_N) & (table_N[of_N] == table_N)
        return np.where(alike, of_N, np.arange(len(key_N)))

    def _exchanged(
        self,
        table_N: np.ndarray,
        key_N: np.ndarray,
        times_N: np.ndarray,
        answer: Answering,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each lookup's row from its owner, and what changed hands anywhere."""
        size, segments_N = self._rt.size, self.map.segments_T[table_N]
        owner_N = owner_of(segment_of(key_N, segments_N), segments_N, size)
        order = np.argsort(owner_N, kind="stable")
        sent_W = np.bincount(owner_N, minlength=size)
        received_W = self._swap(sent_W, np.ones(size, np.int64), np.ones(size, np.int64))
        words_N2 = np.column_stack([key_N, table_N << TABLE_BIT | times_N])[order]
        asked_M2 = self._swap(words_N2, sent_W, received_W)
        found = answer(asked_M2[:, 1] >> TABLE_BIT, asked_M2[:, 0], asked_M2[:, 1] & ((1 << TABLE_BIT) - 1))
        # In front of the rows for each rank, how many have changed hands here: it spares a round of its own.
        heads = np.cumsum(received_W) - received_W
        told = self._swap(np.insert(found.row_N, heads, len(found.renewed_E2)), received_W + 1, sent_W + 1)
        heads = np.cumsum(sent_W + 1) - (sent_W + 1)
        row_N = np.empty(len(key_N), np.int64)
        row_N[order] = np.delete(told, heads)
        return row_N, self._gathered(found.renewed_E2, told[heads])

    def _swap(self, rows: np.ndarray, sent_W: np.ndarray, received_W: np.ndarray) -> np.ndarray:
        """The first rows go to rank 0, the next to rank 1, ...; what came, by rank."""
        device = self._rt.device
        here = torch.from_numpy(np.ascontiguousarray(rows, np.int64)).to(device)
        there = torch.empty(int(received_W.sum()), *rows.shape[1:], dtype=torch.int64, device=device)
        dist.all_to_all_single(there, here, received_W.tolist(), sent_W.tolist(), group=self._rt.group)
        return there.cpu().numpy()

    def _gathered(self, rows_E2: np.ndarray, counts_W: np.ndarray) -> np.ndarray:
        """The rows of all ranks, in their order; rank w has counts_W[w], which every rank knows."""
        most = int(counts_W.max())
        if not most:
            return rows_E2
        padded = torch.zeros(most, 2, dtype=torch.int64)
        padded[: len(rows_E2)] = torch.from_numpy(rows_E2)
        whole = torch.empty(self._rt.size * most, 2, dtype=torch.int64, device=self._rt.device)
        dist.all_gather_into_tensor(whole, padded.to(self._rt.device), group=self._rt.group)
        parts = whole.cpu().numpy().reshape(self._rt.size, most, 2)
        return np.concatenate([part[:count] for part, count in zip(parts, counts_W.tolist(), strict=True)])
