"""Rules for tables and for the features that are looked up in them; see `rules`."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from dist_mtl.errors import nearest

if TYPE_CHECKING:
    from dist_mtl.config import Config, TableConfig

POINTWISE = ("adagrad", "sgd", "adam")  # optimizers whose state is per element, so that columns can live apart

# A table is a member of a torch.nn.ModuleDict, which refuses the names of its own attributes. Written out, because a
# configuration imports no torch; a test compares them. Its private ones change with the version: no name begins with _.
TAKEN = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items
    keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty
    train training type update values xpu zero_grad
    """.split()
)


def table_name_for(wanted: str, used: Collection[str]) -> str:
    """`wanted`, or the nearest name that a table can have: `type` -> `type_`, `2nd` -> `t2nd`; never one of `used`."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
    if not re.match(r"[A-Za-z]", name):
        name = f"t{name}"
    while name in TAKEN or name in used:
        name += "_"
    return name


def _table_names(config: "Config") -> Iterator[str]:
    tables = config.all_tables
    for name in tables:
        if table_name_for(name, ()) == name:
            continue
        others = {*tables, *config.features} - {name}
        other = table_name_for(name, others)
        reason = "torch keeps it for itself" if name in TAKEN else "it must be letters, digits and _, a letter first"
        if name in config.tables:
            users = [feature for feature in config.features if config.table_of(feature) == name]
            told = "".join(f', and set features.{feature}.table = "{other}"' for feature in users)
            yield f"tables.{name}: no name for a table: {reason}. Call it tables.{other}{told}"
        else:
            column = config.columns_of(name)[0]
            yield (
                f"features.{name}: no name for the table that it makes: {reason}. "
                f'Call it features.{other}, with column = "{column}"'
            )


def _features(config: "Config") -> Iterator[str]:
    used = Counter()
    for name, feature in config.features.items():
        table = config.table_of(name)
        if table is None:
            continue
        used[table] += 1
        if feature.own_table() is not None:
            if getattr(feature, "table", None) is not None or name in config.tables:
                what = {"bucket": "a bucketised feature", "custom": "a custom feature"}[feature.kind]
                yield f"features.{name}: {what} makes its own table; remove `table` and tables.{name}"
        elif table not in config.tables:
            hint = nearest(table, config.tables)
            yield f"features.{name}: there is no table `{table}`; {hint or f'add tables.{table} = {{ rows = ... }}'}"
        if feature.kind == "cross":
            yield from _parts(config, name)
    for table in config.tables:
        if not used[table]:
            yield f"tables.{table}: no feature is looked up in it; remove it, or name it in a feature's `table`"


def _parts(config: "Config", name: str) -> Iterator[str]:
    """What a cross is made of. A name that is no feature is a column; the schema tells whether it is there."""
    why = {
        "custom": "a function makes its ids; cross them there, or name a column of ids",
        "dense": "a dense number has no ids; bucketise it, or name a column of ids",
        "bag": "a bag has many ids a row, and a cross is of one id each; cross them where the data are made",
        "cross": "it is a cross itself; name the parts that it is made of",
    }
    for part in config.features[name].of:
        if part in config.features and (reason := why.get(config.features[part].kind)):
            yield f"features.{name}.of: `{part}`: {reason}"


# Rows of a dynamic table: a segment of 64 beside the largest fallback part; segments that 31 bits can number.
LEAST_DYNAMIC, MOST_DYNAMIC = 128, 2**37


def _dynamic(config: "Config") -> Iterator[str]:
    for name, feature in config.features.items():
        table = config.tables.get(config.table_of(name))
        is_dynamic = getattr(feature, "policy", None) == "dynamic"
        if table is None or is_dynamic == (table.dynamic is not None):
            continue
        place = config.table_of(name)
        if is_dynamic:
            yield f"features.{name}: policy `dynamic` needs tables.{place}.dynamic; set it, {{}} for its defaults"
        else:
            yield (
                f"features.{name}: tables.{place}.dynamic gives rows to ids as they come, so every feature of that "
                f"table needs policy = 'dynamic'; set it, or remove tables.{place}.dynamic"
            )
    for name, table in config.tables.items():
        if table.dynamic is None:
            continue
        if not LEAST_DYNAMIC <= table.rows <= MOST_DYNAMIC:
            yield f"tables.{name}.rows: a dynamic table has {LEAST_DYNAMIC} to 2**37 rows; got {table.rows}"
        if table.dynamic.evict == "lru" and table.dynamic.half_life is not None:
            yield f"tables.{name}.dynamic.half_life: lru counts nothing that decays; remove it, or use evict = 'lfu'"


def _sharding(config: "Config") -> Iterator[str]:
    kind = config.optim.embedding.kind
    if kind == "sgd" and config.optim.embedding.eps is not None:
        yield "optim.embedding.eps: sgd divides by nothing; remove it"
    for name, table in config.tables.items():
        yield from misplaced(name, table, kind)


def misplaced(name: str, table: "TableConfig", kind: str) -> Iterator[str]:
    """Why a table can not live as it is to, under an embedding optimizer of this kind, whatever the device."""
    yield from _cut(name, table, kind)
    if table.cache_share is not None and table.kernel != "uvm_caching":
        yield (
            f"tables.{name}.cache_share: only kernel = 'uvm_caching' has a cache, and this one is '{table.kernel}'; "
            f"set tables.{name}.kernel = 'uvm_caching', or remove it"
        )
    if table.kernel == "key_value":
        yield (
            f"tables.{name}.kernel: the rows of `key_value` are in a database of TorchRec's own, not in tensors: they "
            f"can neither be given their initial values nor be committed, so a run could not resume; "
            f"use 'uvm' or 'uvm_caching'"
        )
    if table.kernel == "uvm_caching" and table.dynamic is not None:
        yield (
            f"tables.{name}.kernel: rows of a dynamic table begin anew when they change hands, which a copy in the "
            f"cache of `uvm_caching` would not see; use 'uvm' or 'fused'"
        )
    if table.traits.replicated:
        if table.kernel != "auto":
            yield (
                f"tables.{name}.kernel: a data_parallel table is held whole by every device, kernel '{table.kernel}' "
                f"is for parts of it; remove it, or use another sharding"
            )
        if table.precision == "fp16":
            yield (
                f"tables.{name}.precision: the optimizer of a data_parallel table keeps its states in the precision of "
                f"the weights, where eps = 1e-8 is 0; use 'fp32', or another sharding"
            )


def _cut(name: str, table: "TableConfig", kind: str) -> Iterator[str]:
    """The same of its sharding."""
    if table.traits.splits_columns and kind not in POINTWISE:
        # Measured: the row statistic is then one per column shard, weights differ by 0.2 after 4 steps.
        yield (
            f"tables.{name}: {table.sharding} would change the maths of {kind}, whose state is one number a row; "
            f"use optim.embedding.kind = 'adagrad' or 'sgd', or another sharding"
        )
    if table.traits.replicated and kind in ("adam", "partial_rowwise_adam"):
        yield (
            f"tables.{name}: data_parallel would change the maths of {kind}: the fused kernel moves only the rows "
            f"that a step looks up, a dense one all rows; use another sharding, or "
            f"'rowwise_adagrad', 'adagrad' or 'sgd'"
        )
    if table.traits.splits_columns and table.dim % 8:
        yield f"tables.{name}: {table.sharding} needs a dim that is a multiple of 8 (two shards of a multiple of 4)"


TABLE_RULES = (_table_names, _features, _dynamic, _sharding)
