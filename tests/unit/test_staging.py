"""Copies of what a commit in the background is to write: only a lack of memory is a commit that failed."""

from pathlib import Path

import pytest
import torch

from dist_mtl.checkpoint.index import Index
from dist_mtl.checkpoint.staging import Staging
from dist_mtl.errors import CheckpointError


def staging(tensor: torch.Tensor) -> Staging:
    return Staging(Path("x"), 3, 0, Index({}), {"model/a": tensor})


def test_a_copy_that_the_memory_has_no_room_for() -> None:
    room = {"model/b": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="step 3: no copy could be made in memory: .*can't allocate memory"):
        staging(torch.zeros(1).expand(1 << 50)).copied(room)
    assert not room


def test_another_fault_is_not_called_a_lack_of_memory() -> None:
    with pytest.raises(NotImplementedError, match="meta tensor"):
        staging(torch.zeros(1, device="meta")).copied({})
