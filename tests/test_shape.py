"""The shape of the source: sizes, words that may not stand in it, and who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "strategies").rglob("*.py")])
KERNEL = sorted((ROOT / "engine" / "kernel").glob("*.py"))
RULES = sorted(path for path in (ROOT / "strategies" / "exit_rules").glob("*.py") if path.stem != "__init__")
MOST_LINES, MOST_FUNCTION_LINES, MOST_COLUMNS = 400, 70, 140

# what may be called only in one file: the call, and that file; None: nowhere
BANNED = {
    "time.time": "clock.py", "time.time_ns": "clock.py", "time.monotonic": "clock.py", "time.monotonic_ns": "clock.py",
    "time.perf_counter": "clock.py",
    "time.perf_counter_ns": "clock.py", "datetime.now": "clock.py", "datetime.utcnow": None, "datetime.today": None, "date.today": None,
    "print": "cli.py", "input": "cli.py", "breakpoint": None, "eval": None, "os._exit": None, "sys.exit": "cli.py",
    "np.random.seed": None, "np.random.rand": None, "np.random.randn": None, "np.random.randint": None, "np.random.random": None,
    "np.random.normal": None,
    "np.random.choice": None, "np.random.shuffle": None, "random.random": None, "random.randint": None, "random.choice": None,
    "random.shuffle": None,
    "random.uniform": None, "random.gauss": None, "random.seed": None,
}
SEEDED = ("np.random.default_rng", "random.Random", "np.random.Generator", "np.random.Philox", "np.random.PCG64", "np.random.SeedSequence")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def faults(path: Path, text: str) -> list[str]:
    """Return every place at which a source file is out of shape."""
    tree, lines = ast.parse(text), text.splitlines()
    found = [f"{len(lines)} lines"] if len(lines) >= MOST_LINES else []
    found += [f"line {n}: {len(line)} columns" for n, line in enumerate(lines, 1) if len(line) > MOST_COLUMNS]
    found += [f"line {n}: ends in a blank" for n, line in enumerate(lines, 1) if line != line.rstrip()]
    found += [f"line {node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines" for node in functions(tree)
              if node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            banned = [word for word in BANNED if called == word or called.endswith(f".{word}") and "." in word]
            if any(BANNED[word] != path.name for word in banned):
                found.append(f"line {node.lineno}: calls {called}")
            if called in SEEDED and not node.args and not node.keywords:
                found.append(f"line {node.lineno}: {called} without a seed")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: a bare except")
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            found.append(f"line {node.lineno}: imports *")
    if path.name != "__init__.py" and not ast.get_docstring(tree):
        found.append("no docstring")
    return found


def imports(path: Path) -> set[str]:
    """Return what a file imports: absolute modules, and relative ones with their dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_in_shape(path):
    assert faults(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("text, expected", [
    ("x = 1\n", "no docstring"), ('"""D."""\n' + "x = 1\n" * 400, "401 lines"), ('"""D."""\nx = ' + "1" * 140, "line 2: 144 columns"),
    ('"""D."""\ndef f():\n' + "    x = 1\n" * 70, "line 2: f has 71 lines"), ('"""D."""\nprint(1)', "line 2: calls print"),
    ('"""D."""\ntime.time()', "line 2: calls time.time"), ('"""D."""\ndatetime.datetime.now()', "line 2: calls datetime.datetime.now"),
    ('"""D."""\nnp.random.default_rng()', "line 2: np.random.default_rng without a seed"),
    ('"""D."""\nnp.random.normal(3)', "line 2: calls np.random.normal"),
    ('"""D."""\ntry:\n    x\nexcept:\n    pass', "line 4: a bare except"), ('"""D."""\nx = 1 ', "line 2: ends in a blank"),
    ('"""D."""\nfrom math import *', "line 2: imports *")])
def test_a_fault_would_be_seen(text, expected):
    assert faults(Path("other.py"), text) == [expected]


def test_a_clock_may_be_read_and_a_line_printed_in_one_file():
    assert faults(Path("clock.py"), '"""D."""\ntime.time_ns()') == [] and faults(Path("cli.py"), '"""D."""\nprint(1)') == []


@pytest.mark.parametrize("path", KERNEL, ids=name_of)
def test_the_kernel_imports_nothing_else_of_the_engine(path):
    """Only its own files, math, numpy and numba: a snapshot of it runs alone."""
    for name in imports(path):
        assert name.split(".")[0] in ("", "math", "numpy", "numba"), name
        assert not name.startswith(".."), name
        if name.startswith("."):
            assert name.lstrip(".") == "votes" or (path.parent / f"{name.lstrip('.')}.py").is_file(), name


def test_the_kernel_imports_in_one_direction():
    """No file of it is imported by one it imports itself."""
    edges = {path.stem: {name.lstrip(".") for name in imports(path) if name.startswith(".")} for path in KERNEL}

    def reaches(start: str, seen: frozenset = frozenset()) -> set[str]:
        return set().union(*({each} | reaches(each, seen | {each}) for each in edges.get(start, ())
                             if each not in seen)) if edges.get(start) else set()

    assert [name for name in edges if name in reaches(name)] == []


@pytest.mark.parametrize("path", RULES, ids=name_of)
def test_a_rule_imports_math_and_dataclasses_only(path):
    assert imports(path) <= {"math", "dataclasses"}


def test_only_the_command_line_knows_the_command_line():
    """`cli` and `screen` are on top; nothing below imports them."""
    users = {name_of(path) for path in FILES for name in imports(path) if name in ("engine.cli", "engine.screen")}
    assert {name for name in users if Path(name).name not in ("cli.py", "screen.py")} == set()


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name != "exit_rules"], ids=name_of)
def test_public_functions_and_classes_are_described(path):
    """Each has a docstring; its first line is one sentence."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]
    bare = [node.name for node in public if not (ast.get_docstring(node) or "").split("\n")[0].endswith((".", ":", ";", ",")) and
            not (ast.get_docstring(node) or "").strip()]
    assert bare == []


def test_exit_codes_are_those_of_the_design():
    from engine import errors
    assert (errors.CheckFailed.exit_code, errors.BadInput.exit_code, errors.SourceFailed.exit_code) == (1, 2, 3)
