"""A replay from the command line to the run folder: what it prints, what it leaves, how it fails, and that it can be repeated."""

import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars
import pytest
from replays import ENTRIES, fails, generated_session, leftovers, open_market, shipped, tool
from sessions import tiny_session

import engine.replay
from engine.cli import main
from engine.errors import BadInput, SourceFailed
from engine.kernel import records as R
from engine.kernel.market import DECISION, FILL
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.store import Session
from engine.replay import Plan, Tally, patient, replay, replay_again
from engine.rules import choose, find_rules
from engine.run import Run
from engine.runlog import ACTIONS, FILL_CODES, RESULTS, RunWriter, as_table, read_manifest
from engine.trades import read_trades_csv

TINY = "every=4s,side=both,sl=50bps,start=5s"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data root with one generated session, `gen`."""
    folder = tmp_path_factory.mktemp("replay")
    generated_session(folder)
    return folder / "data"


@pytest.fixture(scope="module")
def done(data) -> dict:
    """One replay of it with the classic rules."""
    session = Session(data / "sessions" / "gen")
    return replay(Plan(session, open_market(session, symbol="BTCUSD").trades, shipped("classic")), data, {"entries": ENTRIES})


# The run folder


def test_a_run_folder_says_everything_about_the_run(done, data):
    folder = Path(done["path"])
    assert folder.parent == data / "runs" and folder.name == done["run"] == f"gen-{done['digest'][:8]}"
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "kernel", "trades.csv", "decisions.parquet", "orders.parquet",
                                                        "fills.parquet"}
    manifest = read_manifest(folder)
    assert {"run", "session", "session_path", "session_manifest_sha256", "inputs", "digest", "kernel", "quotes", "quote_model",
            "force_model", "volume_step",
            "recorded_exits", "settings", "rules", "versions", "counts"} <= set(manifest)
    session = data / "sessions" / "gen" / "manifest.json"
    assert manifest["session_manifest_sha256"] == hashlib.sha256(session.read_bytes()).hexdigest()
    assert manifest["inputs"] == {"entries": ENTRIES} and Path(manifest["session_path"]).is_absolute()
    assert manifest["digest"] == done["digest"] and manifest["counts"]["decisions"] == done["decisions"]
    assert manifest["rules"]["whale"]["params"]["large_usd"] == 500_000.0 and manifest["rules"]["whale"]["preset"] == "classic"
    assert manifest["settings"]["latency_ns"] == 250_000_000 and set(manifest["versions"]) == {"python", "numba", "numpy", "pyarrow"}


def test_the_kernel_of_a_run_is_the_source_that_decided(done):
    folder = Path(done["path"])
    here = Path(engine.replay.__file__).parent
    for path in (here / "kernel").glob("*.py"):
        assert (folder / "kernel" / path.name).read_bytes() == path.read_bytes()
    for rule in find_rules().values():
        assert (folder / "kernel" / "rules" / f"{rule.name}.py").read_text(encoding="utf-8") == rule.source
    assert not list((folder / "kernel").rglob("__pycache__"))


def test_the_digest_is_of_the_decisions(done, data):
    session = Session(data / "sessions" / "gen")
    market = open_market(session, symbol="BTCUSD")
    run = Run(market.desk.pairs, [shipped("classic")], [engine.replay.Settings()], slots=64)
    decisions, fills = run.feed(market.events)
    assert hashlib.sha256(decisions.tobytes()).hexdigest() == done["digest"] and len(decisions) == done["decisions"]
    assert done["events"] == len(market.events) and sum(done["fills"].values()) == len(fills)
    table = polars.read_parquet(Path(done["path"]) / "decisions.parquet")
    assert table["seq"].to_list() == decisions["seq"].tolist() and table["age_ns"].to_list() == decisions["age_ns"].tolist()
    assert table["result"].cast(polars.String).to_list() == [RESULTS[code] for code in decisions["result"]]
    assert table["stop_ticks"].to_list() == [None if stop == R.MISSING else stop for stop in decisions["stop_ticks"].tolist()]
    assert table["evidence_0"].to_list() == [None if value != value else value for value in decisions["evidence_0"].tolist()]


@pytest.mark.parametrize("table, dtype", [("decisions", DECISION), ("orders", DECISION), ("fills", FILL)])
def test_polars_and_duckdb_read_a_run(done, table, dtype):
    path = Path(done["path"]) / f"{table}.parquet"
    frame = polars.read_parquet(path)
    assert frame.columns == list(dtype.names) and len(frame) > 10
    with duckdb.connect() as connection:
        count, rules = connection.execute(f"select count(*), list(distinct rule::varchar) from '{path.as_posix()}'").fetchone()
    assert count == len(frame) and set(rules) <= {*find_rules(), None}
    if table == "orders":
        assert set(frame["result"].cast(polars.String)) == {"acted"}
        assert len(frame) == len(polars.read_parquet(path.with_name("decisions.parquet")).filter(polars.col("result") == "acted"))
    if table == "fills":
        ended = frame.filter(polars.col("volume_left") == 0)
        assert ended["ticket"].n_unique() == len(ended)


def test_a_run_without_decisions_has_empty_tables(data):
    session = Session(data / "sessions" / "gen")
    result = replay(Plan(session, open_market(session, symbol="BTCUSD").trades[:1], choose(find_rules(), "none", [])), data, {})
    assert result["decisions"] == 0 and result["digest"] == hashlib.sha256(b"").hexdigest()
    for table, dtype in (("decisions", DECISION), ("orders", DECISION), ("fills", FILL)):
        assert polars.read_parquet(Path(result["path"]) / f"{table}.parquet").columns == list(dtype.names)


def test_unknown_values_are_null_and_codes_are_words():
    rows = np.zeros(2, FILL)
    rows["code"], rows["rule"], rows["price_ticks"], rows["symbol"] = (R.STOPPED, R.RULE_CLOSED), (-1, 1), (R.MISSING, 5), (1, 0)
    frame = polars.from_arrow(as_table(rows, ["a", "b"], ["X", "Y"]))
    assert frame["code"].cast(polars.String).to_list() == ["stopped",
                                                           "rule_closed"] and frame["rule"].cast(polars.String).to_list() == [None, "b"]
    assert frame["price_ticks"].to_list() == [None, 5] and frame["symbol"].cast(polars.String).to_list() == ["Y", "X"]
    assert len(FILL_CODES) == R.NO_SLOT + 1 and len(RESULTS) == R.USELESS + 1 and len(ACTIONS) == R.CLOSE + 1


# What the commands print


def test_import_sessions_and_check_print_what_the_design_says(tmp_path, capsys):
    made = generate(MarketConfig(seed=5, duration_s=20.0), tmp_path / "market")
    result = tool(capsys, "import", str(made.capture), str(made.ticks), "--data", str(tmp_path), "--name", "one")
    assert {"session", "path", "messages", "rows", "skipped", "first_recv_ns", "last_recv_ns", "seconds"} <= set(result)
    assert {"trade", "depth", "best", "snapshot", "mark", "liquidation", "not_market"} <= set(result["messages"])
    assert result["session"] == "one" and result["messages"]["trade"] == made.counts["trade"]
    assert result["rows"]["quotes"] == made.counts["quote"]
    assert result["skipped"] == [] and isinstance(result["seconds"], float) and result["first_recv_ns"] < result["last_recv_ns"]
    listed = tool(capsys, "sessions", "--data", str(tmp_path))
    assert isinstance(listed, list) and {"session", "path", "venue", "symbols", "first_recv_ns", "last_recv_ns", "rows", "bytes",
                                         "state"} <= set(listed[0])
    assert listed[0]["state"] == "complete" and listed[0]["session"] == "one" and listed[0]["bytes"] > 1000
    checked = tool(capsys, "check", "one", "--data", str(tmp_path))
    assert {"session", "ok", "sequence", "trade_ids", "book", "clock", "files", "coverage", "problems"} <= set(checked)
    assert checked["ok"] is True and checked["sequence"]["ok"] is True and checked["sequence"]["gaps"] == []
    assert checked["trade_ids"] == {"breaks": 0, "missing": 0}
    assert {"compared", "equal", "crossed"} <= set(checked["book"])
    assert set(checked["clock"]["recv_minus_event_ms"]) == {"min", "median", "max"}
    assert checked["files"]["altered"] == [] and checked["problems"] == []


def test_check_answers_no_with_exit_code_1(tmp_path, capsys):
    folder = tiny_session(tmp_path)
    part = next((folder / "trades").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert main(["check", "tiny", "--data", str(tmp_path), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False and result["files"]["altered"] == ["trades/00000.parquet"] and result["problems"]


def test_replay_prints_what_the_design_says(data, done, capsys):
    result = tool(capsys, "replay", "gen", "--data", str(data), "--entries", ENTRIES, "--rules", "all:classic")
    assert {"run", "digest", "quotes", "events", "trades", "decisions", "by_rule", "seconds", "events_per_second"} <= set(result)
    assert set(result["seconds"]) == {"link", "load", "kernel", "total"}
    assert all(isinstance(value, float) for value in result["seconds"].values())
    assert set(result["by_rule"]) == set(find_rules()) and all(set(counts) == {"alert", "tighten", "partial", "close"}
                                                               for counts in result["by_rule"].values())
    assert result["quotes"] == "recorded" and result["digest"] == done["digest"] and result["run"] == f"{done['run']}-2"
    assert result["trades"] == done["trades"] > 20 and result["events_per_second"] > 0
    assert all(isinstance(result[name], int) for name in ("events", "trades", "decisions", "events_per_second"))


def test_a_person_gets_tables(data, capsys):
    assert main(["replay", "gen", "--data", str(data), "--entries", ENTRIES]) == 0
    out, _ = capsys.readouterr()
    assert "whale" in out and "take profit" in out and "digest" in out and "{" not in out


@pytest.mark.parametrize("mode, count", [("off", "none"), ("alert", "alerted"), ("shadow", "shadowed"), ("act", "acted")])
def test_the_mode_decides_what_becomes_of_a_vote(data, capsys, mode, count):
    result = tool(capsys, "replay", "gen", "--data", str(data), "--entries", ENTRIES, "--rules",
                  f"order_flow:classic={mode},void:classic={mode}")
    decisions = polars.read_parquet(Path(result["path"]) / "decisions.parquet")
    seen = set(decisions["result"].cast(polars.String))
    assert (count in seen or mode == "off") and (mode == "act" or "acted" not in seen) and (len(decisions) == 0) == (mode == "off")
    assert (result["fills"]["rule_closed"] + result["fills"]["rule_reduced"] > 0) == (mode == "act")


# Trades and quotes


def test_trades_from_a_file_and_from_entries_are_the_same_run(data, done, tmp_path, capsys):
    table = Path(done["path"]) / "trades.csv"
    result = tool(capsys, "replay", "gen", "--data", str(data), "--trades", str(table), "--rules", "all:classic")
    assert result["digest"] == done["digest"]
    inputs = read_manifest(Path(result["path"]))["inputs"]
    assert inputs == {"trades": "trades.csv", "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}
    assert read_trades_csv(Path(result["path"]) / "trades.csv") == read_trades_csv(table)


def test_quotes_are_recorded_or_modelled_and_every_output_says_which(data, done, capsys):
    arguments = ("replay", "gen", "--data", str(data), "--entries", ENTRIES, "--rules", "all:classic")
    modelled = tool(capsys, *arguments, "--model-quotes", "--quotes", "spread=3bps,basis=1.5bps,lag=50ms,tick=0.1")
    assert done["quotes"] == "recorded" and modelled["quotes"] == "modelled" and modelled["digest"] != done["digest"]
    folder = Path(modelled["path"])
    manifest = read_manifest(folder)
    assert manifest["quotes"] == "modelled" and manifest["quote_model"] == "spread=3bps,basis=1.5bps,lag=50ms,tick=0.1"
    assert read_manifest(Path(done["path"]))["quote_model"] is None
    again = replay_again(folder, data)
    assert again["digest"] == modelled["digest"] and again["quotes"] == "modelled"


def test_a_session_without_a_broker_is_modelled(only_interpreted, capsys, tmp_path):
    tiny_session(tmp_path)
    result = tool(capsys, "replay", "tiny", "--data", str(tmp_path), "--entries", TINY, "--rules", "none")
    assert result["quotes"] == "modelled" and result["fills"]["entered"] > 2


TRADES = "ticket,symbol,side,volume,open_time,price,sl,tp,close_time,close_price\n"


def test_recorded_exits_are_used_only_when_asked_for(data, tmp_path, capsys):
    first_ns = Session(data / "sessions" / "gen").manifest["first_recv_ns"]
    quote = open_market(Session(data / "sessions" / "gen"), symbol="BTCUSD").events
    asks = quote[(quote["kind"] == R.QUOTE) & (quote["side"] < 0) & (quote["recv_ns"] > first_ns + 30 * 10**9)]
    price = asks["price_ticks"][0] / 100
    times = first_ns + 30 * 10**9, first_ns + 60 * 10**9
    table = tmp_path / "own.csv"
    row = f"5,BTCUSD,buy,0.10,{times[0]},{price:.2f},{price * 0.9:.2f},0,{times[1]},{price + 7:.2f}\n"
    table.write_text(TRADES + row, encoding="utf-8")
    arguments = ("replay", "gen", "--data", str(data), "--trades", str(table), "--rules", "none")
    open_end = tool(capsys, *arguments)
    assert open_end["trades"] == 0 and open_end["fills"]["recorded_close"] == 0
    closed = tool(capsys, *arguments, "--recorded-exits")
    assert closed["trades"] == 1 and closed["fills"]["recorded_close"] == 1
    fill = polars.read_parquet(Path(closed["path"]) / "fills.parquet").row(-1, named=True)
    assert fill["code"] == "recorded_close" and fill["price_ticks"] == round((price + 7) * 100)
    assert fill["ticket"] == 5 and fill["volume"] == 10
    assert replay_again(Path(closed["path"]), data)["fills"] == closed["fills"]


def test_trades_outside_the_recording_are_left_out_and_counted(data, done, tmp_path, capsys):
    lines = (Path(done["path"]) / "trades.csv").read_text(encoding="utf-8").splitlines()
    table = tmp_path / "own.csv"
    table.write_text("\n".join([*lines, lines[1].replace("1,BTCUSD", "9001,BTCUSD", 1).replace("2026", "2025")]) + "\n", encoding="utf-8")
    result = tool(capsys, "replay", "gen", "--data", str(data), "--trades", str(table), "--rules", "all:classic")
    assert result["outside"] == 1 and result["digest"] == done["digest"]


def test_what_counts_as_closed_and_what_it_was_worth():
    tally = Tally(2)
    fills = np.zeros(3, FILL)
    fills["code"], fills["volume_left"] = (R.ENTERED, R.STOPPED, R.RULE_CLOSED), (10, 0, 0)
    fills["side"], fills["entry_ticks"], fills["risk_ticks"], fills["price_ticks"] = 1, 1000, 100, (1000, 900, 1050)
    decisions = np.zeros(4, DECISION)
    decisions["rule"], decisions["action"] = (0, 1, 1, 1), (R.ALERT, R.CLOSE, R.CLOSE, R.TIGHTEN)
    decisions["result"] = R.ALERTED, R.ACTED, R.BUSY, R.SHADOWED
    tally.add(7, decisions, fills)
    result = tally.result(["a", "b"])
    assert result["trades"] == 2 and result["mean_r"] == -0.25 and result["events"] == 7 and result["decisions"] == 4
    assert result["by_rule"] == {"a": {"alert": 1, "tighten": 0, "partial": 0, "close": 0},
                                 "b": {"alert": 0, "tighten": 1, "partial": 0, "close": 1}}


# Failing


@pytest.mark.parametrize("arguments, expected", [
    (("replay", "gem", "--entries", ENTRIES), "no session 'gem' in .*did you mean 'gen'"),
    (("replay", "gen"), "give --trades FILE or --entries SPEC"),
    (("replay", "--entries", ENTRIES), "name a session to replay"),
    (("replay", "gen", "--entries", "every=10s"), "sl is missing; add sl=20bps"),
    (("replay", "gen", "--entries", "every=10s,sl=10bps,start=1h"), "no entry fits: the recording lasts 2.. s|no entry fits"),
    (("replay", "gen", "--entries", "every=10s,sl=10bps,symbol=ETHUSD"), "no symbol 'ETHUSD' in the session; it has BTCUSD, BTCUSDT"),
    (("replay", "gen", "--entries", "every=10s,sl=10bps,volume=0.015"),
     "volume 0.015 is not a whole number of steps of 0.01 lots; give --volume-step"),
    (("replay", "gen", "--trades", "nowhere.csv"), "nowhere.csv"),
    (("replay", "gen", "--entries", ENTRIES, "--rules", "wale"), "no rule 'wale'; did you mean 'whale'"),
    (("replay", "gen", "--entries", ENTRIES, "--set", "whale.share=2"), "--set whale: share must be in"),
    (("replay", "gen", "--entries", ENTRIES, "--rules-dir", "nowhere"), "--rules-dir nowhere is not a folder"),
    (("replay", "gen", "--entries", ENTRIES, "--quotes", "spred=2bps"), "'spred' is not known; did you mean 'spread'"),
    (("replay", "gen", "--entries", ENTRIES, "--latency-ms", "-1"), "a number from 0 to"),
    (("replay", "gen", "--entries", ENTRIES, "--chunk", "-7"), "a whole number from 0 to"),
    (("replay", "--again", "nowhere"), "nowhere is not a run"),
    (("check", "gem"), "did you mean 'gen'"),
    (("import", "nowhere.gz"), "nowhere.gz"),
])
def test_wrong_use_is_one_sentence_and_exit_code_2(data, capsys, arguments, expected):
    before = sorted(path.name for path in (data / "runs").iterdir())
    assert re.search(expected, fails(capsys, *arguments, "--data", str(data)))
    assert sorted(path.name for path in (data / "runs").iterdir()) == before


@pytest.mark.parametrize("arguments", [("replay", "gen", "--entries", ENTRIES, "--trades", "x.csv"),
                                       ("replay", "gen", "--trades", "x.csv", "--again", "y"),
                                       ("replay", "gen", "--entries", ENTRIES, "--chunk", "many"), ("replya", "gen"),
                                       ("replay", "gen", "--entires", ENTRIES)])
def test_mixed_or_unknown_options_are_refused(capsys, arguments):
    assert fails(capsys, *arguments).endswith(" --help says what is right\n")


def test_files_without_trades_in_the_recording(data, done, tmp_path, capsys):
    empty, elsewhere = tmp_path / "empty.csv", tmp_path / "elsewhere.csv"
    empty.write_text(TRADES, encoding="utf-8")
    lines = (Path(done["path"]) / "trades.csv").read_text(encoding="utf-8").replace("2026-", "2025-")
    elsewhere.write_text(lines, encoding="utf-8")
    assert "empty.csv holds no trades" in fails(capsys, "replay", "gen", "--data", str(data), "--trades", str(empty))
    said = fails(capsys, "replay", "gen", "--data", str(data), "--trades", str(elsewhere))
    assert "of the 30 trades opens within the recording; check their time zone" in said


def test_too_many_open_trades_leave_nothing_behind(only_interpreted, capsys, monkeypatch, tmp_path):
    tiny_session(tmp_path)
    monkeypatch.setattr(engine.replay, "SLOTS_MAX", 2)
    arguments = ("replay", "tiny", "--data", str(tmp_path), "--rules", "none", "--entries")
    said = fails(capsys, *arguments, "every=1s,side=both,sl=50bps,start=5s")
    assert "trades found no free place: more than 2 were open at once; enter less often" in said
    assert leftovers(tmp_path) == []
    assert tool(capsys, *arguments, "every=10s,side=both,sl=50bps,start=1s,max=1s")["fills"]["no_slot"] == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, BadInput, MemoryError])
def test_a_replay_that_breaks_off_leaves_nothing_behind(only_interpreted, monkeypatch, tmp_path, error):
    session = Session(tiny_session(tmp_path))

    def stop(self, decisions, fills):
        raise error("now")

    monkeypatch.setattr(RunWriter, "add", stop)
    with pytest.raises(error):
        replay(Plan(session, open_market(session, TINY).trades, choose(find_rules(), "none", [])), tmp_path, {})
    assert leftovers(tmp_path) == []


def test_a_broken_own_rule_leaves_nothing_behind(only_interpreted, capsys, tmp_path):
    tiny_session(tmp_path)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "own.py").write_text("def broken(:", encoding="utf-8")
    assert "own.py, line 1: invalid syntax" in fails(capsys, "replay", "tiny", "--data", str(tmp_path), "--entries", TINY, "--rules-dir",
                                                     str(tmp_path / "rules"))
    assert leftovers(tmp_path) == []


def test_a_session_file_that_was_shortened_is_not_replayed(only_interpreted, capsys, tmp_path):
    folder = tiny_session(tmp_path)
    part = next((folder / "best").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-10])
    assert "the file was altered" in fails(capsys, "replay", "tiny", "--data", str(tmp_path), "--entries", TINY)
    assert leftovers(tmp_path) == []


def test_a_data_root_that_cannot_be_written_is_exit_code_3(only_interpreted, capsys, tmp_path):
    folder = tiny_session(tmp_path / "data")
    (tmp_path / "file").write_text("", encoding="utf-8")
    said = fails(capsys, "replay", str(folder), "--data", str(tmp_path / "file"), "--entries", TINY, "--rules", "none",
                 code=SourceFailed.exit_code)
    assert "cannot write a run under" in said and "--data" in said


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_the_first_ctrl_c_while_compiling_waits_and_the_second_does_not():
    did, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), patient():
        os.kill(os.getpid(), signal.SIGINT)
        did.append("went on")
    with pytest.raises(KeyboardInterrupt), patient():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        did.append("never")
    with patient():
        did.append("nothing asked")
    assert did == ["went on", "nothing asked"] and signal.getsignal(signal.SIGINT) is before
