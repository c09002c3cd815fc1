"""The last module that the fork server imports: what the ranks would otherwise each do again."""

import contextlib
import gc

import numpy as np
import pyarrow as pa

with contextlib.suppress(ImportError):
    import pandas  # noqa: F401  pyarrow imports it at its first conversion, which costs a rank 0.3 s

pa.array([1, None]).to_numpy(zero_copy_only=False)
np.random.default_rng(0)
gc.collect()
gc.freeze()  # a rank's own gc.collect() then leaves the shared pages alone: 0.3 s less for each rank
