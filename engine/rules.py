"""Find rule files, check them against the contract, and pack their parameters."""

import ast
import dataclasses
import itertools
import keyword
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from engine.errors import BadInput, nearest
from engine.kernel.market import MARKET, N_EVIDENCE, POSITION, SIDE
from engine.kernel.records import MISSING, record

SHIPPED = Path(__file__).resolve().parents[1] / "strategies" / "exit_rules"
MODES = {"off": 0, "alert": 1, "shadow": 2, "act": 3}
IMPORTS = ("math", "dataclasses")
RESERVED_NAMES = ("all", "none")
_TYPES = {float: "f8", int: "i8", bool: "i8"}
_READ = {"market": MARKET, "position": POSITION}
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
    def nearness(self) -> Callable | None:
        """How near the rule is to firing, for the screen; None where the file does not say."""
        return getattr(self.module, "nearness", None)

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
    except (Exception, SystemExit) as error:
        raise BadInput(f"rule file {_place(error, path)}: {type(error).__name__}: {error}") from error
    return module


def _place(error: BaseException, path: Path) -> str:
    """Return the file, and the last line of it that an exception passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _parse(path: Path, source: str) -> ast.Module:
    """Return the syntax of a rule file, having seen before any of it runs that it imports nothing it may not."""
    try:
        tree = ast.parse(source, str(path))
    except SyntaxError as error:
        raise BadInput(f"rule file {path}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from None
    except ValueError as error:
        raise BadInput(f"rule file {path} is no Python text: {error}") from None
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        bad = [name for name in names if name not in IMPORTS]
        if bad:
            raise BadInput(f"rule file {path}, line {node.lineno}: imports {bad[0]}; a rule may import {' and '.join(IMPORTS)} only")
    return tree


def _check_names(path: Path, tree: ast.Module, rule_fields: dict[str, list]) -> None:
    """Raise BadInput when a function asks market, position, params or state for a value that is not there, or changes more than state."""
    known = {name: list(dtype.names) for name, dtype in _READ.items()}
    known |= {name: [field for field, _ in fields] for name, fields in rule_fields.items()}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        given = {each.arg for each in function.args.args} & set(known)
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute):
                continue
            owner, names = ast.unparse(node.value), None
            if not isinstance(node.ctx, ast.Load) and owner not in ("state", "self"):
                raise BadInput(f"rule file {path}, line {node.lineno}: changes {owner}.{node.attr}; a rule may change its state only")
            if owner in given:
                names = known[owner]
            elif "market" in given and owner in ("market.bid", "market.ask"):
                names = SIDE.names
            if names is not None and node.attr not in names:
                raise BadInput(f"rule file {path}, line {node.lineno}: {owner} has no {node.attr!r}; {nearest(node.attr, names)}")


def _fields(path: Path, cls: type, what: str) -> list:
    """Return the record fields of a dataclass of plain numbers."""
    fields = []
    for field in dataclasses.fields(cls):
        if not isinstance(field.type, type) or field.type not in _TYPES:
            raise BadInput(f"rule file {path}: {what}.{field.name} is {field.type!r}; use float, int or bool")
        if field.default is dataclasses.MISSING:
            raise BadInput(f"rule file {path}: {what}.{field.name} has no default")
        if not _fits(field.default, _TYPES[field.type]):
            raise BadInput(f"rule file {path}: the default of {what}.{field.name} is {field.default!r}, not a {field.type.__name__}")
        fields.append((field.name, _TYPES[field.type]))
    try:
        record(fields or [("unused_", "i8")])
    except ValueError as error:
        raise BadInput(f"rule file {path}: {what}: {error}; rename the field") from None
    return fields or [("unused_", "i8")]


def read_rule(path: Path) -> Rule:
    """Load one rule file and check that it keeps the contract, by running it once on an empty market."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"rule file {path} cannot be read as UTF-8 text: {error}") from None
    _check_name(path)
    tree = _parse(path, source)
    module = _load_module(path, source)
    for wanted in ("Params", "State"):
        if not dataclasses.is_dataclass(getattr(module, wanted, None)):
            raise BadInput(f"rule file {path} has no dataclass {wanted}; see strategies/exit_rules/__init__.py")
    if not callable(getattr(module, "on_event", None)):
        raise BadInput(f"rule file {path} has no on_event(params, state, market, position)")
    if not (module.__doc__ or "").strip():
        raise BadInput(f"rule file {path} has no docstring; say why the rule should work, its source and its blind spots")
    params = _fields(path, module.Params, "Params")
    state = _fields(path, module.State, "State")
    _check_names(path, tree, {"params": params, "state": state})
    presets = _presets(path, module, params)
    evidence = [name for name, _ in state if name != "unused_"][:N_EVIDENCE]
    rule = Rule(path.stem, path, source, module, presets, params, state, evidence)
    _try_once(rule)
    return rule


def _check_name(path: Path) -> None:
    """Raise BadInput when the file name cannot be the name of a rule."""
    name = path.stem
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadInput(f"rule file {path}: the file name must be a Python name")
    if name in RESERVED_NAMES:
        raise BadInput(f"rule file {path}: {name!r} means something else in --rules; give the file another name")
    try:
        record([(name, "i8")])
    except ValueError as error:
        raise BadInput(f"rule file {path}: {error}; give the file another name") from None


def _fits(value, kind: str) -> bool:
    """Tell whether a value can stand in a record field without loss."""
    if kind == "i8":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, int | float) and math.isfinite(value)


def _presets(path: Path, module: ModuleType, fields: list) -> dict:
    """Return the named parameters of a rule file, the first the default."""
    try:
        presets = getattr(module, "PRESETS", None) or {"default": module.Params()}
    except Exception as error:
        raise BadInput(f"rule file {_place(error, path)}: the defaults of Params do not pass its own check: {error}") from error
    if not isinstance(presets, dict) or not all(isinstance(name, str) and isinstance(each, module.Params) for name,
                                                each in presets.items()):
        raise BadInput(f"rule file {path}: PRESETS must be a dict of names and Params, such as {{'default': Params()}}")
    for preset, each in presets.items():
        for name, kind in fields:
            if name != "unused_" and not _fits(getattr(each, name), kind):
                raise BadInput(f"rule file {path}: preset {preset} has {name}={getattr(each, name)!r}, "
                               f"not {'a whole number' if kind == 'i8' else 'a finite number'}")
    return presets


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
    """Run a rule in the interpreter: where nothing is known it must answer HOLD, where everything is it may not stumble."""
    dark, bright = blank(MARKET), blank(MARKET)
    position = blank(POSITION)
    for name, value in (("side", 1), ("entry_ticks", 1), ("exit_ticks", 1), ("spread_ticks", 0), ("volume", 1), ("open_ns", 0),
                        ("gain_ticks", 0), ("peak_ticks", 0), ("peak_ns", 0), ("age_ns", 0)):
        position[name] = value
    for name in ("book_ok", "tape_ok", "mid_ok", "basis_ok"):
        dark[name] = 0
    for name in MARKET.names:
        bright[name] = tuple(1 for _ in SIDE.names) if MARKET[name].names else 1
    for preset, params in rule.presets.items():
        for side in (1, -1):
            position["side"] = side
            if _answer(rule, preset, params, dark[0], position[0], (Exception,)) != 0:
                raise BadInput(f"rule file {rule.path}: preset {preset} votes although nothing is known of the market; "
                               "write conditions that must hold, so that NaN and MISSING never fire")
            _answer(rule, preset, params, bright[0], position[0], (AttributeError, NameError, TypeError))
            if rule.nearness is not None:
                _try_nearness(rule, preset, params, dark[0], bright[0], position[0])


def _try_nearness(rule: Rule, preset: str, params, dark: np.record, bright: np.record, position: np.record) -> None:
    """Ask once how near a rule is to firing: it must be a number, and nothing where nothing is known."""
    for market, most, where in ((dark, 0.0, "nothing is known of the market; 0 or NaN is right there"),
                                (bright, math.inf, "everything is known; a finite number or NaN is right")):
        try:
            with np.errstate(all="ignore"):
                near = rule.nearness(params, rule.module.State(), market, position)
        except Exception as error:
            raise BadInput(f"rule file {_place(error, rule.path)}: {type(error).__name__}: {error} (nearness, preset {preset})") from error
        if isinstance(near, bool) or not isinstance(near, int | float | np.number) or math.isinf(near) or near > most:
            raise BadInput(f"rule file {rule.path}: nearness answers {near!r} (preset {preset}) where {where}")


def _answer(rule: Rule, preset: str, params, market: np.record, position: np.record, fatal: tuple) -> int:
    """Return what a rule answers in the interpreter, or raise BadInput saying where it broke; what is not fatal is HOLD."""
    try:
        with np.errstate(all="ignore"):
            action = rule.module.on_event(params, rule.module.State(), market, position)
    except fatal as error:
        raise BadInput(f"rule file {_place(error, rule.path)}: {type(error).__name__}: {error} (preset {preset})") from error
    except Exception:
        return 0
    if isinstance(action, bool) or not isinstance(action, int | np.integer) or not 0 <= action <= 4:
        raise BadInput(f"rule file {rule.path}: on_event answers {action!r} (preset {preset}); every way through it must end with "
                       "HOLD 0, ALERT 1, TIGHTEN 2, PARTIAL 3 or CLOSE 4")
    return int(action)


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
        if name == "all" and preset and not any(preset in rule.presets for rule in rules.values()):
            presets = {each for rule in rules.values() for each in rule.presets}
            raise BadInput(f"--rules {part}: no rule has a preset {preset!r}; {nearest(preset, presets)}")
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
        if not _fits(values[name], kinds[name]):
            raise BadInput(f"--set {rule.name}.{name}={text}: {text!r} is not finite, or too large")
    try:
        return dataclasses.replace(params, **values)
    except Exception as error:
        raise BadInput(f"--set {rule.name}: {error}") from error


def params_dict(choice: Choice) -> dict:
    """Return the parameters of a choice by name."""
    return {name: int(value) if isinstance(value := getattr(choice.params, name), bool) else value
            for name, _ in choice.rule.params_fields if name != "unused_"}
