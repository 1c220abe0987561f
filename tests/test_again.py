"""Invariant 8: a run is reproducible from its folder; what is archived there is what runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from replays import WITNESS, broken_kernel, fails, leftovers, open_market, rewritten, tool
from sessions import START_NS, tiny_session

from engine.cli import main
from engine.errors import BadInput
from engine.kernel import records as R
from engine.record.store import Session
from engine.replay import Feed, Plan, replay, replay_again
from engine.rules import choose, find_rules
from engine.runlog import RunWriter, read_manifest

TINY = "every=4s,side=both,sl=50bps,start=5s"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def run(only_interpreted) -> Path:
    """A run of a little session in the interpreter, with a rule that shows every change of the market."""
    session = Session(tiny_session(only_interpreted, steps=220))
    (only_interpreted / "rules").mkdir()
    (only_interpreted / "rules" / "witness.py").write_text(WITNESS.replace("market.book_ok", "market.mid_ok"), encoding="utf-8")
    choices = choose(find_rules(only_interpreted / "rules"), "witness,tighter_stop", ["witness.stop_bps=5.25"])
    kernel = broken_kernel(only_interpreted, "records.py", "QUOTE, LIQUIDATION, MARK", "QUOTE, LIQUIDATION,  MARK")
    result = replay(Plan(session, open_market(session, TINY).trades, choices, kernel=kernel), only_interpreted, {"entries": TINY})
    assert result["decisions"] > 200
    return Path(result["path"])


def test_a_run_is_repeated_from_its_folder_alone(run, tmp_path):
    """Its rule file is gone and the kernel of the program is another: the archived source decides."""
    shutil.rmtree(tmp_path / "rules")
    shutil.rmtree(tmp_path / "kernel")
    shutil.rmtree(tmp_path / "cache")
    again = replay_again(run, tmp_path)
    before = read_manifest(run)
    assert again["digest"] == before["digest"] and again["run"] == f"{run.name}-2"
    after = read_manifest(Path(again["path"]))
    assert after["kernel"] == before["kernel"] and after["settings"] == before["settings"]
    assert after["rules"]["witness"] == before["rules"]["witness"]
    for name in ("decisions.parquet", "orders.parquet", "fills.parquet", "trades.csv"):
        assert (Path(again["path"]) / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize("place, old, new", [("rules/witness.py", "state.seen % 50", "state.seen % 49"),
                                             ("tape.py", "market.imbalance_30s = imbalance(",
                                              "market.imbalance_30s = 0.5 * imbalance("),
                                             ("depth.py", "market.top5_imbalance = (bids - asks)",
                                              "market.top5_imbalance = 2 * (bids - asks)")])
def test_what_is_archived_is_what_runs(run, tmp_path, place, old, new):
    path = run / "kernel" / place
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    again = replay_again(run, tmp_path)
    assert (again["digest"] != read_manifest(run)["digest"]) == (place != "tape.py" or "imbalance_30s" in WITNESS)
    assert read_manifest(Path(again["path"]))["kernel"] != read_manifest(run)["kernel"]


def test_the_command_compares(run, tmp_path, capsys):
    result = tool(capsys, "replay", "--again", str(run), "--data", str(tmp_path))
    assert result["identical"] is True
    path = run / "kernel" / "rules" / "witness.py"
    path.write_text(path.read_text(encoding="utf-8").replace("state.seen % 50", "state.seen % 49"), encoding="utf-8")
    assert main(["replay", "--again", str(run), "--data", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["identical"] is False


def test_parameters_trades_and_settings_come_from_the_run(run, tmp_path):
    digest = read_manifest(run)["digest"]
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["rules"]["witness"]["params"]["stop_bps"] = 5.5
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert replay_again(run, tmp_path)["digest"] != digest
    manifest["rules"]["witness"]["params"]["stop_bps"] = 5.25
    manifest["settings"]["latency_ns"] = 900_000_000
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert replay_again(run, tmp_path)["digest"] != digest


def test_another_session_is_refused(run, tmp_path):
    session = Session(tmp_path / "sessions" / "tiny")
    other = rewritten(session, tmp_path / "other", lambda name, table: table.slice(0, max(1, table.num_rows - 1)))
    with pytest.raises(BadInput, match="is not the session run .* was made from: its manifest has another SHA-256"):
        replay_again(run, tmp_path, other.path)
    moved = tmp_path / "moved"
    shutil.move(session.path, moved)
    with pytest.raises(BadInput, match="session tiny of run .* is not at .*; name the folder it is in now"):
        replay_again(run, tmp_path)
    assert replay_again(run, tmp_path, moved)["digest"] == read_manifest(run)["digest"]


@pytest.mark.parametrize("text, expected", [("{", "is not valid JSON"), ("[]", "lacks session"),
                                            ('{"session": "tiny"}', "lacks session_path")])
def test_a_damaged_manifest_is_said(run, tmp_path, capsys, text, expected):
    (run / "manifest.json").write_text(text, encoding="utf-8")
    assert expected in fails(capsys, "replay", "--again", str(run), "--data", str(tmp_path))


def test_a_run_with_a_yes_or_no_parameter_is_repeated(only_interpreted, tmp_path):
    session = Session(tiny_session(tmp_path, steps=160))
    (tmp_path / "rules").mkdir()
    text = WITNESS.replace("market.book_ok", "market.mid_ok")
    text = text.replace("stop_bps: float = 4.0", "stop_bps: float = 4.0\n    often: bool = True")
    (tmp_path / "rules" / "witness.py").write_text(text.replace("state.seen % 50 == 0", "params.often and state.seen % 5 == 0"),
                                                   encoding="utf-8")
    result = replay(Plan(session, open_market(session, TINY).trades, choose(find_rules(tmp_path / "rules"), "witness", [])), tmp_path, {})
    assert result["by_rule"]["witness"]["tighten"] > 0
    assert replay_again(Path(result["path"]), tmp_path)["digest"] == result["digest"]


def test_two_runs_that_finish_at_once_get_two_names(only_interpreted, tmp_path, monkeypatch):
    """Another process takes the name between the look and the rename."""
    (tmp_path / "kernel").mkdir()
    first, second = (RunWriter(tmp_path, ["a"], ["X"], tmp_path / "kernel") for _ in range(2))
    exists, told = Path.exists, []

    def look(path, **options):
        told.append(path)
        if len(told) == 1:
            first.finish("one", {})
            return False
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", look)
    assert second.finish("one", {}).name == "one-2"
    assert sorted(leftovers(tmp_path)) == ["one", "one-2"]
    assert json.loads((tmp_path / "runs" / "one-2" / "manifest.json").read_text(encoding="utf-8"))["run"] == "one-2"


def test_the_first_trade_may_open_at_the_first_message(only_interpreted, tmp_path):
    """Rows that no venue sent stand after what arrived before them, and take its seq."""
    session = Session(tiny_session(tmp_path))
    market = open_market(session, "every=100ms,side=buy,sl=50bps,start=0s,max=5s")
    rows = market.events[market.events["kind"] == R.POSITION]
    assert rows["recv_ns"][0] >= START_NS and (np.diff(market.events["recv_ns"]) >= 0).all()
    before = market.events[np.flatnonzero(market.events["kind"] == R.POSITION) - 1]
    assert (before["seq"] == rows["seq"]).all() and (before["recv_ns"] <= rows["recv_ns"]).all()
    assert isinstance(Feed(Plan(session, [], []), market.desk).modelled, bool)
