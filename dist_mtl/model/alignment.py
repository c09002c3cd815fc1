"""Inter-task alignment (AdaFTR and PICO, arXiv 2208.13442 v2 and v1), our reading: InfoNCE between the tasks of a row.

For each ordered pair of tasks (t, s), h the representations, over the rows i of the global batch with weights w_i:

    L_align = sum_i w_i l_i / sum_i w_i
    l_i = log(exp(c_ii / tau_i) + sum_{j in N(i)} exp(c_ij / tau_i)) - c_ii / tau_i,   c_ij = cos(h_i^t, h_j^s)
    tau_i = tau_min + (tau_max - tau_min) (1 - r_i)

N(i): all other rows of the global batch, or K of them that all rows share. A row without weight (padding, or dropped)
is neither an anchor nor a negative. Several pairs: their mean. Legend: B rows here, G of the global batch, D width,
M candidates for a negative, T tasks, U unordered pairs of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dist_mtl.config import AdaFTR, AnyAlignment, FixedAlignment, LearnedAlignment
from dist_mtl.data.batch import Batch
from dist_mtl.data.hashing import signed_key
from dist_mtl.model.diagnostics import distribution
from dist_mtl.model.embedding import mix_
from dist_mtl.model.infonce import contrast, unit
from dist_mtl.model.mtl import Outputs
from dist_mtl.model.ranks import Ranks
from dist_mtl.model.relatedness import Teacher, standardised, temperature
from dist_mtl.model.term import Statistics, Term, inverse_of


@dataclass(frozen=True)
class Negatives:
    """Which M rows of the global batch are candidates, the same on every rank: all of them, or a sample."""

    place_K: Tensor | None  # of a sample: the row here, B for a row of another rank
    valid_M: Tensor  # 1 for a row with weight, else 0
    own_B: Tensor  # the candidate that is row i itself, -1 if it is none

    def collect(self, z: list[Tensor], ranks: Ranks) -> list[Tensor]:
        """Several (B, D) on each rank -> the candidates' (M, D) of each, by one collective. Autograd brings their
        gradients back to the rows' owners."""
        if self.place_K is None:
            return list(ranks.gather(torch.cat(z, dim=1)).chunk(len(z), dim=1)) if ranks.size > 1 else z
        place_K, mine_K1 = self.place_K.clamp(max=len(z[0]) - 1), (self.place_K < len(z[0]))[:, None]
        rows = torch.cat([x.index_select(0, place_K) for x in z], dim=1)
        return list(ranks.sum(rows * mine_K1).chunk(len(z), dim=1))


def all_rows(valid_G: Tensor, batch: Batch) -> Negatives:
    """Every row of the global batch."""
    return Negatives(None, valid_G, batch.slots_B)


def sampled_rows(count: int, seed: int, valid_G: Tensor, batch: Batch) -> Negatives:
    """The `count` rows with the lowest hashes of (seed, step, slot) among those with weight, or all if it has fewer."""
    keys_G = mix_(torch.arange(len(valid_G), device=valid_G.device) + signed_key(seed, batch.step, "negatives"))
    keys_G.masked_fill_(valid_G == 0, torch.iinfo(torch.int64).max)
    slots_K = keys_G.topk(min(count, len(keys_G)), largest=False).indices
    rows = len(batch.slots_B)
    place_K = slots_K - batch.slots_B[0]
    place_K = place_K.masked_fill((place_K < 0) | (place_K >= rows), rows)
    own_B = torch.full((rows + 1,), -1, device=valid_G.device)  # the last takes what is not here
    own_B[place_K] = torch.arange(len(slots_K), device=valid_G.device)
    return Negatives(place_K, valid_G[slots_K], own_B[:rows])


@dataclass(frozen=True)
class AlignmentLoss(Term):
    """The loss of a configuration. Its terms: `align`; `relatedness`, the teacher's cross-entropy; `prior`."""

    spec: AnyAlignment
    seed: int
    ordered: tuple[tuple[int, int], ...]  # (anchor, compared with)
    pairs: tuple[tuple[int, int], ...]  # unordered: columns of the relatedness
    teacher: Teacher | None

    @classmethod
    def of(cls, spec: AnyAlignment, labels: tuple[str, ...], seed: int) -> "AlignmentLoss":
        """The loss that `spec` asks for."""
        teacher = Teacher.of(spec, labels) if isinstance(spec, AdaFTR) else None
        return cls(spec, seed, spec.ordered(labels), spec.pairs_of(labels), teacher)

    @property
    def names(self) -> tuple[str, ...]:
        learned = isinstance(self.spec, LearnedAlignment) and self.spec.prior_weight > 0
        return ("align", *["relatedness"] * (self.teacher is not None), *["prior"] * learned)

    @property
    def num_totals(self) -> int:
        return 0 if self.teacher is None else len(self.pairs)

    def totals(self, batch: Batch) -> Tensor:
        """(U,) float64: the weight of the teacher's rows; none without one."""
        return self.row_weights(batch).sum(dim=0, dtype=torch.float64)

    def row_weights(self, batch: Batch) -> Tensor:
        """(R, U): the weights of the teacher's rows, see `Teacher`; none without one."""
        if self.teacher is None:
            return batch.weight_B.new_empty(0, 0)
        return self.teacher.row_weights(batch)

    def factors(self, step: int) -> tuple[float, ...]:
        """The terms' factors in the loss at a step."""
        warm_up = self.spec.warmup_steps
        align = self.spec.weight * (min(1.0, step / warm_up) if warm_up else 1.0)
        inner = [1.0]
        if self.teacher is not None:
            inner.append(self.spec.target_weight)
        if len(self.names) > len(inner):
            inner.append(self.spec.prior_weight)
        return tuple(align * factor for factor in inner)

    def shares(self, outputs: Outputs, batch: Batch, total: Tensor, totals_U: Tensor, ranks: Ranks) -> Tensor:
        """(L,): this rank's share of each term. `total`, `totals_U`: weight of all rows, and of the teacher's."""
        share_B = batch.weight_B * inverse_of(total)
        taus_BU = self.temperatures(outputs, share_B, ranks)
        found = [self._contrast(outputs, batch, taus_BU, share_B, ranks)]
        logits_BU = outputs.training.relatedness_BU if outputs.training is not None else None
        if self.teacher is not None:
            found.append(self._taught(outputs, batch, logits_BU, totals_U))
        if len(self.names) > len(found):
            found.append((self._surprise(logits_BU) * share_B).sum())
        return torch.stack(found)

    @torch.no_grad()
    def statistics(
        self, labels: tuple[str, ...], outputs: Outputs, batch: Batch, share_B: Tensor, ranks: Ranks
    ) -> Statistics:
        """Relatedness (what the network says) and temperature (what is made of it): mean, deviation, histogram; mean
        cosines of a row with itself and with its negatives, for each ordered pair of tasks."""
        found: Statistics = {"similarity": {}}
        if isinstance(self.spec, LearnedAlignment):
            bounds = {"relatedness": (0.0, 1.0), "temperature": self.spec.temperatures}
            r_BU = torch.sigmoid(outputs.training.relatedness_BU)
            columns = {"relatedness": r_BU, "temperature": self.temperatures(outputs, share_B, ranks)}
            for kind, x_BU in columns.items():
                found[kind] = {
                    f"{labels[a]}|{labels[b]}": distribution(x_BU[:, column], share_B, *bounds[kind], ranks)
                    for column, (a, b) in enumerate(self.pairs)
                }
        representations, candidates, negatives = self.compared(outputs, batch, ranks)
        units = [None if h_BD is None else unit(h_BD) for h_BD in representations]
        own_B = negatives.own_B
        for t, s in self.ordered:
            positive_B = (units[t] * units[s]).sum(1)
            # The sum over candidates is one product with their sum; a row's own is taken out again.
            sum_B = units[t] @ (negatives.valid_M @ candidates[s]) - positive_B * (own_B >= 0)
            count_B = negatives.valid_M.sum() - (own_B >= 0).to(sum_B.dtype)
            means = torch.stack([positive_B @ share_B, (sum_B / count_B.clamp(min=1)) @ share_B])
            positive, negative = ranks.sum(means).tolist()
            found["similarity"][f"{labels[t]}>{labels[s]}"] = {"positive": positive, "negative": negative}
        return found

    def temperatures(self, outputs: Outputs, share_B: Tensor, ranks: Ranks) -> Tensor:
        """(B, U): the temperature of each row, for each unordered pair of tasks."""
        if isinstance(self.spec, FixedAlignment):
            return share_B.new_full((len(share_B), len(self.pairs)), self.spec.temperature)
        logits_BU = outputs.training.relatedness_BU
        if isinstance(self.spec, AdaFTR) and not self.spec.from_alignment:
            logits_BU = logits_BU.detach()
        if self.spec.standardise:
            logits_BU = standardised(logits_BU, share_B[:, None], ranks)
        return temperature(logits_BU, *self.spec.temperatures)

    def negatives(self, batch: Batch, ranks: Ranks) -> Negatives:
        """This step's candidates."""
        valid_G = ranks.gather((batch.weight_B > 0).to(batch.weight_B.dtype))
        if self.spec.negatives == "all":
            return all_rows(valid_G, batch)
        return sampled_rows(self.spec.num_negatives, self.seed, valid_G, batch)

    def _contrast(self, outputs: Outputs, batch: Batch, taus_BU: Tensor, share_B: Tensor, ranks: Ranks) -> Tensor:
        """Mean of the ordered pairs' InfoNCE."""
        h, candidates, negatives = self.compared(outputs, batch, ranks)
        pairs = [(t, s, self.pairs.index((min(t, s), max(t, s)))) for t, s in self.ordered]
        valid_M, own_B = negatives.valid_M, negatives.own_B
        return contrast(h, candidates, 1 / taus_BU, share_B, valid_M, own_B, pairs, self.spec.stop_gradient)

    def compared(
        self, outputs: Outputs, batch: Batch, ranks: Ranks
    ) -> tuple[list[Tensor | None], list[Tensor | None], Negatives]:
        """By task: the rows' representations, and the candidates' directions; None for a task that no pair needs."""
        given = outputs.representations if outputs.training is None else outputs.training.aligned
        needed = {task for pair in self.ordered for task in pair}
        h = [x if task in needed else None for task, x in enumerate(given)]
        others = sorted({s for _, s in self.ordered})
        sent = [given[s].detach() if self.spec.stop_gradient else given[s] for s in others]
        negatives = self.negatives(batch, ranks)
        found = negatives.collect(sent, ranks)
        by_task = dict(zip(others, map(unit, found), strict=True))
        return h, [by_task.get(task) for task in range(len(given))], negatives

    def _taught(self, outputs: Outputs, batch: Batch, logits_BU: Tensor, totals_U: Tensor) -> Tensor:
        """Cross-entropy of r against the teacher's target, mean over pairs of tasks."""
        rows = self.teacher.rows(batch)
        target_RU = self.teacher.targets(batch.labels_BT[rows], outputs.training.probe)
        losses_RU = functional.binary_cross_entropy_with_logits(logits_BU[rows], target_RU, reduction="none")
        weights_RU = self.teacher.row_weights(batch) * inverse_of(totals_U)
        return (losses_RU * weights_RU).sum() / len(self.pairs)

    def _surprise(self, logits_BU: Tensor) -> Tensor:
        """(B,): KL(r || prior), mean over pairs of tasks."""
        log_r, log_rest = functional.logsigmoid(logits_BU), functional.logsigmoid(-logits_BU)
        prior = logits_BU.new_tensor(self.spec.prior)
        kl_BU = log_r.exp() * (log_r - prior.log()) + log_rest.exp() * (log_rest - (1 - prior).log())
        return kl_BU.mean(dim=1)
