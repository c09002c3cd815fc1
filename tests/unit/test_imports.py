"""The architecture, read from the source: imports run one way, and a few things have one place."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dist_mtl"

# Each name may import those before it; a prefix stands for all below it, the longest match counts. Names of one entry
# may import each other.
ORDER = [
    ["errors", "terminal"],
    ["bounded", "plan_bytes", "parallel.world", "observability.run_dir"],
    ["config"],
    ["data"],
    ["model"],
    ["parallel"],
    ["metrics"],
    ["observability"],
    ["checkpoint"],
    ["build"],
    ["scoring"],
    ["training"],
    ["train"],
    ["tools"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
# Tools beside the training system; nothing of it may import them.
APART = ("tools.doctor", "torchx_components", "__main__")


def module_of(path: Path) -> str:
    """`config` for config/__init__.py, `config.rules` for config/rules.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_of(path): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def level(module: str) -> int | None:
    """The place of a module in ORDER, by its longest known prefix."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((LEVEL[p] for p in prefixes if p in LEVEL), None)


def imports(tree: ast.AST) -> set[str]:
    """Every module that a source imports, wherever the statement stands; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(tree: ast.AST) -> set[str]:
    """The modules of this package that a source imports."""
    return {name.removeprefix("dist_mtl.") for name in imports(tree) if name.startswith("dist_mtl.")} & MODULES.keys()


def external(tree: ast.AST) -> set[str]:
    return {name for name in imports(tree) if not name.startswith("dist_mtl")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    if module.startswith(APART):
        return
    mine = level(module)
    assert mine is not None, f"{module} has no place in ORDER"
    for other in ours(MODULES[module]):
        assert module == "cli.doctor" or not other.startswith(APART), f"{module} imports {other}"
        theirs = level(other)
        assert theirs is not None and theirs <= mine, f"{module} imports {other}, which stands above it"


def reach(start: list[str]) -> set[str]:
    """Every module of this package that is imported when these are."""
    found, todo = set(), list(start)
    while todo:
        if (module := todo.pop()) not in found:
            found.add(module)
            todo += ours(MODULES[module])
    return found


@pytest.mark.parametrize("module", ["config.file", "data.order", "parallel.world"])
def test_no_torch_and_no_arrow(module: str) -> None:
    for name in reach([module]):
        heavy = {n.split(".")[0] for n in external(MODULES[name])} & {"torch", "torchrec", "pyarrow", "fbgemm_gpu"}
        assert not heavy, f"{module} reaches {name}, which imports {heavy}"


def at_import(tree: ast.Module) -> ast.Module:
    """A source without what is imported within functions, or for types only: of all else nothing is conditional."""
    return ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.If)], [])


def test_the_doctor_speaks_to_an_old_python() -> None:
    """What `python -m dist_mtl doctor` imports parses in 3.9, where annotations are code, and needs no package."""
    todo, seen = ["__main__", "cli.doctor", "tools.doctor", "tools.doctor.findings"], set()
    sources = {name: PACKAGE / f"{name.replace('.', '/')}.py" for name in MODULES}
    while todo:
        if (name := todo.pop()) in seen:
            continue
        seen.add(name)
        path = sources[name] if sources[name].exists() else PACKAGE / name.replace(".", "/") / "__init__.py"
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        assert not tree.body[1:] or "from __future__ import annotations" in path.read_text(), name
        top = at_import(tree)
        assert {other.split(".")[0] for other in external(top)} <= sys.stdlib_module_names, name
        todo += ours(top)
    assert "cli" in seen and "terminal.streams" in seen
    ast.parse((PACKAGE / "__init__.py").read_text(), feature_version=(3, 9))


def test_a_model_is_a_model_on_a_laptop() -> None:
    for name in (n for n in MODULES if n.startswith("model")):
        for other in external(MODULES[name]):
            assert not other.startswith(("torch.distributed", "torchrec.distributed")), f"{name} imports {other}"
        assert not [n for n in ours(MODULES[name]) if n.startswith("parallel")]


def test_parallel_names_no_feature_and_no_task() -> None:
    """It handles tables, ranks and losses by position."""
    words = {"click", "conversion", "ctr", "cvr", "ctcvr", "esmm", "impression"}
    for name in (n for n in MODULES if n.startswith("parallel")):
        strings = {n.value for n in ast.walk(MODULES[name]) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        names = {n.id for n in ast.walk(MODULES[name]) if isinstance(n, ast.Name)}
        assert not words & (strings | names), name


LAUNCHER = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


def test_the_rank_is_read_in_one_file() -> None:
    readers = set()
    for name, tree in MODULES.items():
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        calls = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        if strings & LAUNCHER or calls & {"get_rank", "get_world_size"}:
            readers.add(name)
    assert readers - {n for n in readers if n.startswith(APART)} == {"parallel.world"}


def test_no_code_from_configuration() -> None:
    """No eval, no import by name, no unpickling in the package."""
    for name, tree in MODULES.items():
        if name.startswith(APART):
            continue  # the doctor probes installations, which takes importlib
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not called & {"eval", "exec", "compile", "__import__"}, name
        assert not {"pickle", "importlib", "marshal", "shelve"} & external(tree), name


def test_launch_scripts_are_thin() -> None:
    for path in sorted((ROOT / "launch").glob("*.py")):
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 100, path.name
        assert not {n.split(".")[0] for n in external(tree)} & {"torch", "torchrec", "pyarrow"}, path.name
        assert path.stem not in sys.stdlib_module_names, f"{path.name} would hide the standard library's"
