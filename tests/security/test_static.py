"""R8, read off the source: what can run code from data is nowhere but in the lines that are listed here."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "dist_mtl").rglob("*.py"), *(ROOT / "launch").rglob("*.py")])
RISKS = {
    "pickle": r"\b(?:pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b",
    "eval or exec": r"(?<![\w.])(?:eval|exec)\s*\(",
    "yaml.load": r"\byaml\b",
    "torch.load": r"\btorch\s*\.\s*load\s*\(|\bweights_only\s*=\s*False",
    "a shell": r"\bshell\s*=\s*True|\bos\s*\.\s*(?:system|popen)\b|\bgetoutput\b|\bgetstatusoutput\b",
    "numpy's pickles": r"\ballow_pickle\b",
    "an import by name": r"__import__|\bimport_module\b|\brunpy\b|\bspec_from_file_location\b|\bload_module\b",
    "torch's checkpoints": r"\btorch\s*\.\s*distributed\s*\.\s*checkpoint\b|\bdistributed\s+import\s+checkpoint\b",
    "objects between ranks": r"\b(?:all_gather|broadcast|gather|scatter)_object(?:_list)?\b",
    "Arrow's own objects": r"\bpa\s*\.\s*(?:deserialize|register_extension_type|PyExtensionType)\b",
    "a way past a type": r"\bctypes\b|\bgetattr\s*\(\s*(?:builtins|__builtins__)",
}
# (file, line as it stands without its indent) -> the reason why it is safe. A line that is edited is looked at again.
ALLOWED = {
    ("dist_mtl/parallel/runtime.py", "dist.broadcast_object_list(shared, src=0, group=self.group)"): (
        "pickles of our own making, between the ranks of one job, over the loopback where they are on one node"
    ),
    ("dist_mtl/parallel/runtime.py", "dist.all_gather_object(told, value, group=self.group)"): "the same",
    ("dist_mtl/parallel/malloc.py", "import ctypes"): "for one function of the C library",
    ("dist_mtl/parallel/malloc.py", "mallopt = ctypes.CDLL(None).mallopt"): "two constant numbers go in, no data",
    ("dist_mtl/parallel/malloc.py", "libc = ctypes.CDLL(None)"): "the same, at the end",
}


def code_lines(text: str) -> dict[int, str]:
    """Line number -> the line with its comments and strings blanked: what is said is not what is done."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING):
            continue
        (first, start), (last, stop) = token.start, token.end
        for number in range(first, last + 1):
            line = lines[number - 1]
            begin, end = start if number == first else 0, stop if number == last else len(line)
            lines[number - 1] = line[:begin] + " " * (end - begin) + line[end:]
    return dict(enumerate(lines, start=1))


def risky(text: str) -> list[tuple[int, str]]:
    """(line number, kind of risk) of what the source does."""
    found = code_lines(text).items()
    return [(number, kind) for number, line in found for kind, sign in RISKS.items() if re.search(sign, line)]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import pickle", "pickle"),
        ("from marshal import loads", "pickle"),
        ("x = eval (text)", "eval or exec"),
        ("exec(open(f).read())", "eval or exec"),
        ("yaml.load(f)", "yaml.load"),
        ("torch.load(f)", "torch.load"),
        ("f(weights_only=False)", "torch.load"),
        ("subprocess.run(c, shell=True)", "a shell"),
        ("os.system(c)", "a shell"),
        ("np.load(f, allow_pickle=True)", "numpy's pickles"),
        ("__import__(name)", "an import by name"),
        ("importlib.import_module(name)", "an import by name"),
        ("import torch.distributed.checkpoint as dcp", "torch's checkpoints"),
        ("dist.all_gather_object(a, b)", "objects between ranks"),
    ],
)
def test_the_signs_are_seen(source: str, kind: str) -> None:
    assert [found for _, found in risky(source)] == [kind]
    assert risky(f"# {source}\nx = '''\n{source}\n'''") == []


@pytest.mark.parametrize("source", ["model.module.eval()", "re.compile(x)", "self.exec", "evaluate(x)", "x.pickled"])
def test_what_only_looks_like_one_is_not(source: str) -> None:
    assert risky(source) == []


def test_the_package_runs_no_code_from_data() -> None:
    found: set[tuple[str, str]] = set()
    for path in FILES:
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        for number, kind in risky(text):
            line = text.splitlines()[number - 1].strip()
            assert (name, line) in ALLOWED, f"{name}:{number}: {kind}: {line}"
            found.add((name, line))
    assert found == ALLOWED.keys(), f"allowed and no longer there: {ALLOWED.keys() - found}"
    print(f"{len(FILES)} files, {len(found)} allowed lines of {len(RISKS)} kinds of risk")
    assert len(FILES) > 100


def test_processes_are_started_from_lists_of_words() -> None:
    """Each call of subprocess begins with a list, or a name that this test knows to be one."""
    lists = ("[", "command", "(")
    for path in FILES:
        for call in re.finditer(r"subprocess\.(?:run|Popen|call|check_\w+)\(\s*(\S+)", path.read_text()):
            assert call.group(1).startswith(lists), f"{path.name}: {call.group(0)}"
