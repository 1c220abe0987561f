"""The contract of a rule file: every shipped file keeps it, every way of breaking it ends in one clear sentence."""

import ast
import json
from pathlib import Path

import pytest
from replays import WITNESS
from sessions import tiny_session
from streams import Stream, play

import engine.replay
from engine.cli import main
from engine.errors import BadInput
from engine.kernel import records as R
from engine.link import link, votes_source
from engine.rules import SHIPPED, choose, find_rules, params_dict
from engine.run import Run

FILES = sorted(path for path in SHIPPED.glob("*.py") if not path.stem.startswith("_"))

GOOD = '''"""Own rule: leave when more was sold than bought.

Why:    a test.
Source: none.
Blind:  everything else.
"""
from dataclasses import dataclass

HOLD, CLOSE = 0, 4


@dataclass(frozen=True)
class Params:
    limit: float = 0.1
    count: int = 1
    strict: bool = True

    def __post_init__(self):
        if not 0 < self.limit < 1:
            raise ValueError(f"limit must be between 0 and 1, got {self.limit}")


@dataclass
class State:
    flow: float = 0.0


def on_event(params, state, market, position):
    """Vote to leave on contrary flow."""
    if -position.side * market.imbalance_10s > params.limit:
        state.flow = market.imbalance_10s
        return CLOSE
    return HOLD
'''


def rules_of(folder: Path, text: str, name: str = "own.py") -> dict:
    """Write a rule file and find the rules of its folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return find_rules(folder, shipped=False)


# What the shipped files promise


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_keeps_the_contract(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    doc = ast.get_docstring(tree)
    assert all(f"\n{word}:" in doc for word in ("Why", "Source", "Blind"))
    assert ":" in doc.splitlines()[0] and doc.splitlines()[0].endswith(".")
    assert len(text.splitlines()) <= 110
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"math", "dataclasses"}
    assert all(ast.get_docstring(node) for node in tree.body if isinstance(node, ast.FunctionDef))


def test_adding_a_file_is_adding_a_rule(tmp_path):
    found = rules_of(tmp_path, GOOD)
    assert list(found) == ["own"] and list(found["own"].presets) == ["default"] and found["own"].evidence == ["flow"]
    assert found["own"].doc == "Own rule: leave when more was sold than bought."
    assert set(find_rules(tmp_path)) == {"own", *(path.stem for path in FILES)}
    assert params_dict(choose(found, "all", [])[0]) == {"limit": 0.1, "count": 1, "strict": 1}


def test_files_that_begin_with_an_underscore_are_no_rules(tmp_path):
    assert list(rules_of(tmp_path, "raise ValueError", "_draft.py")) == []


# Every way of breaking it

BAD = {
    "syntax": (GOOD.replace("def on_event(", "def on_event(("), "line 28: .*never closed|line 28: .*invalid syntax|line 28"),
    "at import": (GOOD.replace("HOLD, CLOSE = 0, 4", "HOLD, CLOSE = 0, 4 / 0"), "line 9: ZeroDivisionError: division by zero"),
    "exit at import": (GOOD.replace("HOLD, CLOSE = 0, 4", "raise SystemExit(0)"), "line 9: SystemExit"),
    "no State": (GOOD.replace("class State", "class Memory"), "has no dataclass State"),
    "no Params": (GOOD.replace("class Params", "class Values"), "has no dataclass Params"),
    "plain State": (GOOD.replace("@dataclass\nclass State", "class State"), "has no dataclass State"),
    "no on_event": (GOOD.replace("def on_event", "def on_events"), "has no on_event"),
    "no docstring": (GOOD.split('"""\n', 1)[1], "has no docstring"),
    "no default": (GOOD.replace("flow: float = 0.0", "flow: float"), "State.flow has no default"),
    "text field": (GOOD.replace("flow: float = 0.0", "flow: str = ''"), "State.flow is <class 'str'>; use float, int or bool"),
    "field of lists": (GOOD.replace("flow: float = 0.0", "flow: [1] = 0.0"), r"State.flow is \[1\]; use float, int or bool"),
    "text default": (GOOD.replace("limit: float = 0.1", "limit: float = 'x'").replace("0 < self.limit < 1", "self.limit"),
                     "default of Params.limit is 'x', not a float"),
    "real default of an int": (GOOD.replace("count: int = 1", "count: int = 1.5"), "default of Params.count is 1.5, not a int"),
    "nan default": (GOOD.replace("flow: float = 0.0", "flow: float = float('nan')"), "default of State.flow is nan"),
    "shadowing": (GOOD.replace("flow: float = 0.0", "mean: float = 0.0"), "shadow numpy attributes: mean; rename the field"),
    "default not allowed": (GOOD.replace("limit: float = 0.1", "limit: float = 2.0"),
                            "do not pass its own check: limit must be between 0 and 1, got 2.0"),
    "preset not allowed": (GOOD.replace("@dataclass\nclass State", "PRESETS = {'wild': Params(limit=3.0)}\n\n\n@dataclass\nclass State"),
                           "line 20: ValueError: limit must"),
    "presets of another kind": (GOOD + "\nPRESETS = [Params()]\n", "PRESETS must be a dict of names and Params"),
    "preset of another kind": (GOOD + "\nPRESETS = {'a': 3}\n", "PRESETS must be a dict of names and Params"),
    "preset with a real count": (GOOD + "\nPRESETS = {'a': Params(count=2.5)}\n", "preset a has count=2.5, not a whole number"),
    "numpy": (GOOD.replace("from dataclasses", "import numpy as np\nfrom dataclasses"),
              "line 7: imports numpy; a rule may import math and dataclasses only"),
    "clock": (GOOD.replace("    if -position", "    import time\n    if -position"), "line 30: imports time"),
    "relative import": (GOOD.replace("from dataclasses", "from . import helper\nfrom dataclasses"), r"line 7: imports \.; "),
    "typo in market": (GOOD.replace("market.imbalance_10s >", "market.imbalance_10 >"),
                       "line 30: market has no 'imbalance_10'; did you mean 'imbalance_10s'"),
    "typo that is seldom reached": (GOOD.replace("        state.flow = market.imbalance_10s",
                                                 "        state.flow = market.bid.depth_5bp_lots"),
                                    "line 31: market.bid has no 'depth_5bp_lots'; did you mean 'depth_5bps_lots'"),
    "typo in position": (GOOD.replace("-position.side", "-position.sid"), "line 30: position has no 'sid'; did you mean 'side'"),
    "typo in params": (GOOD.replace("params.limit", "params.limits"), "line 30: params has no 'limits'; did you mean 'limit'"),
    "typo in state": (GOOD.replace("state.flow =", "state.flows ="), "line 31: state has no 'flows'; did you mean 'flow'"),
    "typo in a helper": (GOOD.replace("def on_event", "def far(thing):\n    return thing.depth_5bp\n\n\ndef on_event")
                         .replace("return CLOSE",
                                  "return CLOSE if far(market.bid) > 0 else HOLD").replace("-position.side * market.imbalance_10s",
                                                                                           "market.mid_ok"),
                         "AttributeError: .*depth_5bp"),
    "changes a position": (GOOD.replace("        state.flow = market", "        position.volume = 0\n        state.flow = market"),
                           "line 31: changes position.volume; a rule may change its state only"),
    "changes the market": (GOOD.replace("        state.flow = market.", "        market.bid.void_id += 1\n        state.flow = market."),
                           "line 31: changes market.bid.void_id; a rule may change its state only"),
    "fires on nan": (GOOD.replace("if -position.side * market.imbalance_10s > params.limit",
                                  "if not -position.side * market.imbalance_10s <= params.limit"),
                     "preset default votes although nothing is known of the market"),
    "fires on missing": (GOOD.replace("market.imbalance_10s > params.limit", "market.flow_10s_lots != 0"),
                         "votes although nothing is known"),
    "no answer": (GOOD.replace("    return HOLD\n", ""), "on_event answers None"),
    "another answer": (GOOD.replace("    return HOLD\n", "    return 9\n"), "on_event answers 9"),
    "a yes": (GOOD.replace("    return HOLD\n", "    return market.mid_ok > 7\n"), "on_event answers .*False"),
    "fails in the dark": (GOOD.replace("    return HOLD\n", "    return 1 // 0\n"), "line 33: ZeroDivisionError"),
    "too few arguments": (GOOD.replace("on_event(params, state, market, position)", "on_event(params, state, market)")
                          .replace("-position.side * ", ""), "TypeError: on_event"),
    "unknown name": (GOOD.replace("return CLOSE", "return CLOSED").replace("-position.side * market.imbalance_10s", "market.mid_ok"),
                     "line 32: NameError: name 'CLOSED' is not defined"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_rule_file_is_named_in_one_sentence(tmp_path, kind):
    text, expected = BAD[kind]
    assert text != GOOD
    with pytest.raises(BadInput, match=expected) as caught:
        rules_of(tmp_path, text)
    assert str(tmp_path / "own.py") in str(caught.value) and "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("name, expected", [("two words.py", "must be a Python name"), ("2nd.py", "must be a Python name"),
                                            ("if.py", "must be a Python name"),
                                            ("all.py", "means something else in --rules"), ("none.py", "means something else"),
                                            ("mean.py", "shadow numpy attributes: mean; give the file another name"),
                                            ("whale.py", "has the name of a shipped rule")])
def test_a_file_name_that_cannot_be_a_rule(tmp_path, name, expected):
    (tmp_path / name).write_text(GOOD, encoding="utf-8")
    with pytest.raises(BadInput, match=expected):
        find_rules(tmp_path)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "own.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="own.py cannot be read as UTF-8"):
        find_rules(tmp_path)
    with pytest.raises(BadInput, match="--rules-dir .*nowhere is not a folder"):
        find_rules(tmp_path / "nowhere")


def test_nothing_of_a_file_runs_before_its_imports_are_seen(tmp_path):
    trace = tmp_path / "trace"
    text = GOOD.replace("from dataclasses import dataclass",
                        f"import os\nfrom dataclasses import dataclass\nopen({str(trace)!r}, 'w').close()")
    with pytest.raises(BadInput, match="imports os"):
        rules_of(tmp_path, text)
    assert not trace.exists()


# Choosing

RULES = find_rules()


@pytest.mark.parametrize("wanted, changes, expected", [
    ("whal", [], "no rule 'whal'; did you mean 'whale'"),
    ("whale:clasic", [], "rule whale has no preset 'clasic'; did you mean 'classic'"),
    ("all:clasic", [], "no rule has a preset 'clasic'; did you mean 'classic'"),
    ("whale=on", [], "mode 'on' is not known"),
    ("whale=shadw", [], "mode 'shadw' is not known; did you mean 'shadow'"),
    ("whale", ["whale.large=1"], "rule whale has no parameter 'large'; did you mean 'large_usd'"),
    ("whale", ["whal.large_usd=1"], "no rule 'whal'; did you mean 'whale'"),
    ("whale", ["large_usd=1"], "write it as rule.param=value"),
    ("whale", ["whale.large_usd"], "write it as rule.param=value"),
    ("whale", ["whale.large_usd=many"], "'many' is not a number"),
    ("order_flow", ["order_flow.min_trades=2.5"], "'2.5' is not a whole number"),
    ("order_flow", ["order_flow.min_trades=99999999999999999999"], "is not finite, or too large"),
    ("order_flow", ["order_flow.score=101"], "--set order_flow: score must be between 0 and 100, got 101"),
    ("void", ["whale.large_usd=600000"], "that rule is not among --rules void"),
    ("none", ["whale.large_usd=600000"], "that rule is not among --rules none"),
])
def test_a_wrong_choice_is_answered_with_the_nearest_right_one(wanted, changes, expected):
    with pytest.raises(BadInput, match=expected):
        choose(RULES, wanted, changes)


def test_choosing(tmp_path):
    assert {choice.mode for choice in choose(RULES, "all", [])} == {"act"}
    assert {choice.mode for choice in choose(RULES, "none", [])} == {"off"}
    picked = {choice.rule.name: choice for choice in choose(RULES, "all:classic, void=shadow ,whale:robust=off", ["void.share=0.25"])}
    assert picked["void"].mode == "shadow" and picked["void"].preset == "robust" and picked["void"].params.share == 0.25
    assert picked["whale"].mode == "off" and picked["order_flow"].preset == "classic" and picked["breakeven"].preset == "default"
    assert RULES["void"].presets["robust"].share == 0.5, "a change is made on a copy"
    text = choose(rules_of(tmp_path, GOOD), "own", ["own.strict=0", "own.count=3"])[0]
    assert params_dict(text) == {"limit": 0.1, "count": 3, "strict": 0}


# From file to exit


def selling() -> Stream:
    """Return a market in which nearly everything is sold, with a long and a short in it."""
    stream = Stream().open(7, 1, 6_000_000, 5_940_000).open(8, -1, 6_000_000, 6_060_000)
    for n in range(150):
        stream.trade(1 if n % 10 == 0 else -1, 10).wait(0.1)
    return stream


def test_an_own_rule_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "cache"))
    _, decisions, fills = play(selling(), choose(rules_of(tmp_path / "rules", GOOD), "own", []))
    assert set(decisions["ticket"]) == {7} and list(fills["code"]) == [R.RULE_CLOSED]
    assert decisions["evidence_0"][0] == pytest.approx(-0.8, abs=0.05)
    _, decisions, _ = play(selling(), choose(find_rules(tmp_path / "rules", shipped=False), "own", ["own.limit=0.95"]))
    assert not len(decisions)


@pytest.fixture
def interpreted(monkeypatch, tmp_path):
    """Make replays run in the interpreter, and keep their kernels out of the user's cache."""
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine.replay, "Run", lambda *args, **options: Run(*args, **{**options, "interpreted": True}))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_own_rule_fires_in_a_replay(tmp_path, interpreted, capsys):
    """`--rules-dir` from the command line: found, linked, decided, written, and named in the run."""
    tiny_session(tmp_path / "data", steps=250)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "witness.py").write_text(WITNESS.replace("market.book_ok", "market.mid_ok"), encoding="utf-8")
    arguments = ["replay", "tiny", "--data", str(tmp_path / "data"), "--entries", "every=5s,side=both,sl=50bps,start=5s,volume=1",
                 "--quotes", "tick=0.1",
                 "--rules-dir", str(tmp_path / "rules"), "--json"]
    assert main([*arguments, "--rules", "witness", "--set", "witness.stop_bps=3"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["by_rule"]["witness"]["alert"] > 100
    assert result["by_rule"]["whale"] == {"alert": 0, "tighten": 0, "partial": 0, "close": 0}
    folder = Path(result["path"])
    assert (folder / "kernel" / "rules" / "witness.py").read_text(encoding="utf-8").startswith('"""Witness')
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["rules"]["witness"]["params"] == {"stop_bps": 3.0}
    assert main([*arguments, "--rules", "witnes"]) == 2
    assert "did you mean 'witness'" in capsys.readouterr().err


def test_the_generated_calls_are_plain_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path))
    text = votes_source(list(RULES.values()))
    ast.parse(text)
    assert [text.index(f"rule_{name}.on_event") for name in RULES] == sorted(text.index(f"rule_{name}.on_event") for name in RULES)
    module, folder = link(list(RULES.values()))
    assert (folder / "votes.py").read_text(encoding="utf-8") == text and module.run
