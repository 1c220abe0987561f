"""Find rule files, check them against the contract, and pack their parameters."""

import ast
import dataclasses
import itertools
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from engine.errors import BadInput, nearest
from engine.kernel.market import MARKET, N_EVIDENCE, POSITION
from engine.kernel.records import MISSING, record

SHIPPED = Path(__file__).resolve().parents[1] / "strategies" / "exit_rules"
MODES = {"off": 0, "alert": 1, "shadow": 2, "act": 3}
_TYPES = {float: "f8", int: "i8", bool: "i8"}
_ids = itertools.count()


@dataclass(frozen=True)
class Rule:
    """One rule file that keeps the contract."""

    name: str
    path: Path
    source: str
    module: ModuleType
    presets: dict
    params_fields: list
    state_fields: list
    evidence: list

    @property
    def doc(self) -> str:
        """The first line of the file's docstring."""
        return (self.module.__doc__ or "").strip().splitlines()[0]


@dataclass(frozen=True)
class Choice:
    """A rule as one run uses it: preset, changed parameters, mode."""

    rule: Rule
    preset: str
    params: object
    mode: str


def _load_module(path: Path, source: str) -> ModuleType:
    """Execute a rule file; say in one sentence where it broke."""
    name = f"tapeguard_rule_{path.stem}_{next(_ids)}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise BadInput(f"rule file {path}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except Exception as error:
        raise BadInput(f"rule file {path}, line {_line_in(error, path)}: {type(error).__name__}: {error}") from error
    return module


def _line_in(error: Exception, path: Path) -> int:
    """Return the last line of the rule file that an exception passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else 0


def _fields(path: Path, cls: type, what: str) -> list:
    """Return the record fields of a dataclass of plain numbers."""
    fields = []
    for field in dataclasses.fields(cls):
        if field.type not in _TYPES:
            raise BadInput(f"rule file {path}: {what}.{field.name} is {field.type!r}; use float, int or bool")
        if field.default is dataclasses.MISSING:
            raise BadInput(f"rule file {path}: {what}.{field.name} has no default")
        fields.append((field.name, _TYPES[field.type]))
    try:
        record(fields or [("unused_", "i8")])
    except ValueError as error:
        raise BadInput(f"rule file {path}: {what}: {error}; rename the field") from None
    return fields or [("unused_", "i8")]


def read_rule(path: Path) -> Rule:
    """Load one rule file and check that it keeps the contract, by running it once on an empty market."""
    source = path.read_text(encoding="utf-8")
    if not path.stem.isidentifier():
        raise BadInput(f"rule file {path}: the file name must be a Python name")
    module = _load_module(path, source)
    for wanted in ("Params", "State"):
        if not dataclasses.is_dataclass(getattr(module, wanted, None)):
            raise BadInput(f"rule file {path} has no dataclass {wanted}; see strategies/exit_rules/__init__.py")
    if not callable(getattr(module, "on_event", None)):
        raise BadInput(f"rule file {path} has no on_event(params, state, market, position)")
    if not (module.__doc__ or "").strip():
        raise BadInput(f"rule file {path} has no docstring; say why the rule should work, its source and its blind spots")
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        bad = [name for name in names if name not in ("math", "dataclasses")]
        if bad:
            raise BadInput(f"rule file {path}, line {node.lineno}: imports {bad[0]}; a rule may import math and dataclasses only")
    params = _fields(path, module.Params, "Params")
    state = _fields(path, module.State, "State")
    presets = getattr(module, "PRESETS", None) or {"default": module.Params()}
    evidence = [name for name, _ in state if name != "unused_"][:N_EVIDENCE]
    rule = Rule(path.stem, path, source, module, presets, params, state, evidence)
    _try_once(rule)
    return rule


def blank(dtype: np.dtype) -> np.recarray:
    """Return one record with every integer MISSING and every real number NaN."""
    row = np.zeros(1, dtype)
    for name in dtype.names:
        if dtype[name].names:
            row[name] = blank(dtype[name])
        elif dtype[name].kind == "f":
            row[name] = np.nan
        else:
            row[name] = MISSING
    return row


def _try_once(rule: Rule) -> None:
    """Run a rule in the interpreter on a market of which nothing is known; it must answer HOLD and may not fail."""
    position = blank(POSITION)
    for name, value in (("side", 1), ("entry_ticks", 1), ("exit_ticks", 1), ("spread_ticks", 0), ("volume", 1), ("open_ns", 0),
                        ("gain_ticks", 0), ("peak_ticks", 0), ("peak_ns", 0), ("age_ns", 0)):
        position[name] = value
    market = blank(MARKET)
    for name in ("book_ok", "tape_ok", "mid_ok", "basis_ok"):
        market[name] = 0
    with np.errstate(all="ignore"):
        for preset, params in rule.presets.items():
            for side in (1, -1):
                position["side"] = side
                try:
                    action = rule.module.on_event(params, rule.module.State(), market[0], position[0])
                except Exception as error:
                    raise BadInput(f"rule file {rule.path}, line {_line_in(error, rule.path)}: "
                                   f"{type(error).__name__}: {error} (preset {preset})") from error
                if int(action) != 0:
                    raise BadInput(f"rule file {rule.path}: preset {preset} votes {action} although nothing is known of the market; "
                                   "write conditions that must hold, so that NaN and MISSING never fire")


def find_rules(folder: Path | None = None, shipped: bool = True) -> dict[str, Rule]:
    """Return every shipped rule, and those of one more folder, by name and in name order."""
    paths = {path.stem: path for path in sorted(SHIPPED.glob("*.py")) if shipped and not path.stem.startswith("_")}
    if folder is not None:
        if not folder.is_dir():
            raise BadInput(f"--rules-dir {folder} is not a folder")
        for path in sorted(folder.glob("*.py")):
            if path.stem.startswith("_"):
                continue
            if path.stem in paths:
                raise BadInput(f"rule file {path} has the name of a shipped rule; give it another name")
            paths[path.stem] = path
    return {name: read_rule(paths[name]) for name in sorted(paths)}


def choose(rules: dict[str, Rule], wanted: str, changes: list[str]) -> list[Choice]:
    """Return one Choice for every rule: `wanted` names those that run, as `name[:preset][=mode]`, comma separated, or all or none."""
    picked: dict[str, tuple[str, str]] = {}
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    for part in parts:
        body, _, mode = part.partition("=")
        name, _, preset = body.partition(":")
        mode = mode or "act"
        if mode not in MODES:
            raise BadInput(f"--rules {part}: mode {mode!r} is not known; {nearest(mode, MODES)}")
        names = list(rules) if name == "all" else ([] if name == "none" else [name])
        for each in names:
            if each not in rules:
                raise BadInput(f"--rules {part}: no rule {each!r}; {nearest(each, rules)}")
            presets = rules[each].presets
            if preset and preset not in presets and name != "all":
                raise BadInput(f"--rules {part}: rule {each} has no preset {preset!r}; {nearest(preset, presets)}")
            picked[each] = (preset if preset in presets else next(iter(presets)), mode)
    changed = _changes(rules, changes)
    unused = set(changed) - set(picked)
    if unused:
        raise BadInput(f"--set {sorted(unused)[0]}.…: that rule is not among --rules {wanted}")
    choices = []
    for name, rule in rules.items():
        preset, mode = picked.get(name, (next(iter(rule.presets)), "off"))
        choices.append(Choice(rule, preset, _replace(rule, rule.presets[preset], changed.get(name, {})), mode))
    return choices


def _changes(rules: dict[str, Rule], changes: list[str]) -> dict[str, dict[str, str]]:
    """Read `rule.param=value` texts."""
    found: dict[str, dict[str, str]] = {}
    for text in changes:
        place, equals, value = text.partition("=")
        name, dot, param = place.partition(".")
        if not equals or not dot:
            raise BadInput(f"--set {text}: write it as rule.param=value")
        if name not in rules:
            raise BadInput(f"--set {text}: no rule {name!r}; {nearest(name, rules)}")
        known = [field for field, _ in rules[name].params_fields]
        if param not in known:
            raise BadInput(f"--set {text}: rule {name} has no parameter {param!r}; {nearest(param, known)}")
        found.setdefault(name, {})[param] = value
    return found


def _replace(rule: Rule, params, texts: dict[str, str]):
    """Return params with some values changed from text, checked by the rule itself."""
    kinds = dict(rule.params_fields)
    values = {}
    for name, text in texts.items():
        try:
            values[name] = int(text) if kinds[name] == "i8" else float(text)
        except ValueError:
            kind = "a whole number" if kinds[name] == "i8" else "a number"
            raise BadInput(f"--set {rule.name}.{name}={text}: {text!r} is not {kind}") from None
    try:
        return dataclasses.replace(params, **values)
    except ValueError as error:
        raise BadInput(f"--set {rule.name}: {error}") from None


def params_dict(choice: Choice) -> dict:
    """Return the parameters of a choice by name."""
    return {name: getattr(choice.params, name) for name, _ in choice.rule.params_fields if name != "unused_"}
