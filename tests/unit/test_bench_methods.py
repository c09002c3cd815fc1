"""What the methods cost: each beside the same plain model with its own defaults, and a floor that is the products."""

import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed import memory
from benchmarks.speed.compare import Found
from benchmarks.speed.memory import MB, Memory
from benchmarks.speed.methods import METHODS, chosen, configured, products, report_methods, tables
from benchmarks.speed.workload import Shape
from dist_mtl.config import PICO, AdaFTR, FixedAlignment, NoAlignment, NoPairwise, PWiseR
from dist_mtl.config.file import load
from dist_mtl.config.training import RunConfig
from dist_mtl.errors import ConfigError
from dist_mtl.model.infonce import contrast, unit
from dist_mtl.parallel.runtime import Runtime
from dist_mtl.parallel.world import World
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]
ALONE = Runtime(World.from_env(), torch.device("cpu"), None, RunConfig(dir="unused"))


class Products(TorchDispatchMode):
    """Counts the matrix products that run: their floating-point operations, and how many they are."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
            self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_method_has_its_defaults_and_is_alone() -> None:
    """Even in a configuration that has methods of its own."""
    base = load(
        ROOT / "configs/quickstart.toml", ["model.balance=pcgrad", "model.alignment={kind='fixed', weight=9.0}"]
    )
    found = {name: configured(base, name, 8192) for name in METHODS}
    models = {name: (c.model.alignment, c.model.pairwise, c.model.balance) for name, c in found.items()}
    assert models["plain"] == (NoAlignment(), NoPairwise(), "fixed")
    assert models["fixed"] == (FixedAlignment(kind="fixed"), NoPairwise(), "fixed")
    assert models["pico"] == (PICO(kind="pico"), NoPairwise(), "fixed")
    assert models["adaftr+pwiser"] == (AdaFTR(kind="adaftr"), PWiseR(kind="pwiser"), "fixed")
    assert models["adaftr_all"] == models["products"] == (AdaFTR(kind="adaftr", negatives="all"), NoPairwise(), "fixed")
    assert models["pcgrad"] == (NoAlignment(), NoPairwise(), "pcgrad")
    assert len({repr(model) for model in models.values()}) == len(METHODS) - 1
    off = {"alignment", "pairwise", "balance"}
    assert len({c.model.model_dump_json(exclude=off) + c.train.model_dump_json() for c in found.values()}) == 1
    assert found["plain"].train.global_batch == 8192


@pytest.mark.parametrize(("batch", "width"), [(8192, 64), (1000, 8)])
def test_the_floor_is_the_products_of_alignment_with_all_negatives(batch: int, width: int) -> None:
    shape = Shape(rows=10, batch=batch, tower=(width,))
    config = configured(shape.config("x"), "adaftr_all", batch)
    steps = products(config, ALONE)
    with Products() as floor:
        steps(1)
    draw = torch.Generator().manual_seed(1)
    h = [torch.randn(batch, width, generator=draw).requires_grad_() for _ in range(2)]
    ones, own = torch.ones(batch), torch.arange(batch)
    with Products() as ours:
        loss = contrast(h, [unit(x) for x in h], ones[:, None], ones / batch, ones, own, [(0, 1, 0), (1, 0, 0)])
        loss.backward()
    print(f"batch {batch}, width {width}: {ours.calls} products, {ours.flops / 1e9:.2f} GFLOP")
    assert (floor.calls, floor.flops) == (ours.calls, ours.flops)
    assert floor.flops == 2 * 3 * 2 * batch * batch * width


def test_ratios_are_within_a_round_and_the_floor_is_what_is_above_plain() -> None:
    """The second round was twice as slow for all."""
    known = Memory(int(300 * MB), int(400 * MB))
    plain = Found([1.0, 2.0], [0.5, 0.5], [0.0, 0.0], known)
    all_negatives = Found([1.6, 3.2], [0.7, 0.7], [9e3, 9e3], Memory(int(300 * MB), int(440 * MB)))
    floor = Found([0.5, 1.0], [0.1, 0.1], [0.0, 0.0], known)
    text = "\n".join(tables({"plain": plain, "adaftr_all": all_negatives, "products": floor}))
    print(text)
    assert "| adaftr_all | 2400.0 | 1.600 (1.600 to 1.600) | 700.0 | 1.400 (1.400 to 1.400) | 1.400 | 9,000 |" in text
    assert "| adaftr_all | 440 | 1.100 | +40 | 140 |" in text
    assert "| adaftr_all | 900.0 | 1.200 (1.200 to 1.200) | 200.0 | 2.000 (2.000 to 2.000) |" in text


def test_passes_are_pooled() -> None:
    small, large = Memory(100, 300), Memory(150, 310)
    found = Found.of([Found([1.0], [2.0], [3.0], large), Found([4.0], [5.0], [6.0], small)])
    assert found == Found([1.0, 4.0], [2.0, 5.0], [3.0, 6.0], large)


def test_what_is_compared_with_comes_along() -> None:
    assert chosen(None) == list(METHODS)
    assert chosen(["pwiser"]) == ["plain", "pwiser"]
    assert chosen(["adaftr_all"]) == ["plain", "adaftr_all", "products"]
    with pytest.raises(ConfigError, match="--only adaftrr: there is no such method; did you mean `adaftr`"):
        chosen(["adaftrr"])


def test_the_peak_is_that_since_the_last_reset() -> None:
    size = 200_000_000
    before = memory.reset_peak(os.getpid())
    block = bytearray(size)
    del block
    high = memory.peak(os.getpid())
    after = memory.reset_peak(os.getpid())
    print(f"before {before / MB:.0f} MB, peak {high / MB:.0f} MB, after {after / MB:.0f} MB")
    assert before + 0.9 * size < high < before + 1.5 * size
    assert memory.peak(os.getpid()) < high - 0.5 * size


def test_two_methods_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    samples.write_logs(tmp_path / "train", 640)
    config = samples.write_toml(tmp_path / "c.toml", samples.tree(tmp_path))
    options = Namespace(
        methods=str(config), only=["products"], batch=64, ranks=1, threads=1, rounds=2, steps=2, passes=1
    )
    text = report_methods(options)
    print(text)
    assert text.startswith("4 tables of 196 rows") and "mmoe 2 [16, 8], towers [8], global batch 64" in text
    assert text.count("| plain | ") == 2 and text.count("| products | ") == 1
    with pytest.raises(ConfigError, match="--batch 64: 3 ranks can not share it evenly"):
        report_methods(Namespace(**vars(options) | {"ranks": 3}))
