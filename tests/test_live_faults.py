"""A live run when things break around it: a terminal that hangs, another account, a full disk, too many positions, no venue."""

import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from exchanges import beginning
from live_runs import ACT, Stage, Witness, acting, begun, faults_of, intents, orphans, run_of, wait_for, worker_of

from engine.errors import BadInput, SourceFailed
from engine.gateway.client import DirectLink
from engine.gateway.mt5_worker import Desk, Intents
from engine.gateway.terminal_config import WallClock, build
from engine.kernel.market import DECISION
from engine.live.broker import Health, Quotes
from engine.live.guard import Guard
from engine.live.options import LiveOptions, Terminal
from engine.live.session import LiveSession
from engine.live.terminal import open_account
from engine.live.verify import cut_off
from engine.record.recorder import Options
from engine.record.store import Session
from engine.sources.binance import Endpoint
from engine.sources.mt5 import Mt5Quotes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the workers of a process under /proc")
WIDE = {"symbol": "BTCUSD", "sl_bps": 500.0, "tp_bps": 900.0}
FAST = ("--set", "ladder.every_ms=300", "--set", "follower.behind_bps=350")


@pytest.fixture(scope="module")
def proof(tmp_path_factory, realdata) -> Path:
    """Return the folder of a verified shadow run."""
    folder = tmp_path_factory.mktemp("shadow")
    stage = Stage(folder, beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", 4000, folder), positions=[WIDE | {"side": 0, "lots": 1.0}])
    try:
        result = stage.live("--mode", "shadow", *FAST, "--seconds", "12").result(400)
        assert result["verify"]["compared"]
        return Path(result["path"])
    finally:
        stage.close()


@pytest.fixture
def stage(tmp_path, realdata, proof):
    """Return a stage whose runs may act, with two accounts and four positions."""
    made = Stage(tmp_path, beginning(realdata / "binance_usdm" / "btcusdt_20240808.gz", 20_000, tmp_path), speed=0.5,
                 accounts=[{"login": 5001}, {"login": 5002}], positions=[WIDE | {"side": k % 2, "lots": 1.0} for k in range(4)])
    made.proven(proof)
    wait_for(lambda: len(made.control("state")[0]["positions"]) == 4, 30, "the positions are open")
    yield made
    made.close()
    assert not orphans(made.data)


def table(stage: Stage, result: dict, name: str) -> list[dict]:
    return Session(stage.data / "sessions" / result["session"]).table(name).to_pylist()


def told(stage: Stage, live) -> str:
    run = run_of(stage, live)
    return (run / "log.jsonl").read_text() if run and (run / "log.jsonl").exists() else ""


def ended(stage: Stage, live, witness: Witness) -> dict:
    """End a run as Ctrl-C does, judge it, and return its result."""
    live.end()
    result = live.result()
    witness.end()
    assert result["verify"]["identical"] and result["check"]["ok"], result
    assert faults_of(witness, stage.data) == []
    decided = [row["decision"] for row in table(stage, result, "decisions") if row["decision"]]
    assert sorted(decided) == sorted(row["decision"] for row in table(stage, result, "orders"))
    assert "Traceback" not in live.said()
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name, call", [("sent.jsonl", "order_send"), ("quotes.jsonl", "copy_ticks_from")])
def test_a_worker_that_hangs_in_a_call_is_ended_and_the_run_goes_on(stage, name, call):
    witness = Witness(stage)
    witness.start()
    live = stage.live(*ACT, *FAST)
    wait_for(lambda: acting(stage, live) and begun(stage) > 1, 120, "it acts", live.said)
    worker = worker_of(live.pid, name)
    stage.control("fault", {"do": "block", "when": "after", "call": call})
    wait_for(lambda: worker_of(live.pid, name) not in (None, worker), 60, "the worker that hangs was replaced", live.said)
    before = begun(stage)
    for side in (0, 1):
        stage.by_hand(side, 0.5, sl_bps=500.0)
    wait_for(lambda: begun(stage) > before, 60, "it acts again", live.said)
    ended(stage, live, witness)


@pytest.mark.slow
def test_positions_of_an_account_that_was_switched_under_it_are_never_believed(stage):
    witness = Witness(stage)
    witness.start()
    live = stage.live(*ACT, *FAST, "--max-quote-age-s", "60")
    wait_for(lambda: acting(stage, live) and begun(stage) > 1, 120, "it acts", live.said)
    assert stage.ask("kill")[0] == 0                                  # then only the readings of the account ask for positions
    for login, call in ((5002, "account_info"), (5001, "account_info"), (5002, "positions_get"), (5001, "account_info")):
        stage.control("fault", {"do": "account", "login": login, "call": call})      # the third in the middle of a reading
        time.sleep(2.0)
        if (login, call) == (5002, "account_info"):
            stage.by_hand(0, 0.77, sl_bps=500.0)
    assert stage.ask("kill", "--lift")[0] == 0
    others = [row["volume"] for book in stage.control("state") if book["login"] == 5002 for row in book["positions"]]
    before = begun(stage)
    time.sleep(2.0)
    stage.by_hand(1, 0.5, sl_bps=500.0)
    wait_for(lambda: begun(stage) > before, 60, "it acts again on its own account", live.said)
    result = ended(stage, live, witness)
    assert others == [77_000_000]
    assert not [deal for book in witness.books if book["login"] == 5002 for deal in book["deals"] if deal["magic"]]
    assert 77 not in {row["qty_lots"] for row in table(stage, result, "account")}


@pytest.mark.slow
def test_more_positions_than_there_are_places_for_are_told(stage):
    witness = Witness(stage)
    for k in range(66):
        stage.by_hand(k % 2, 0.01, sl_bps=500.0)
    live = stage.live("--mode", "shadow", *FAST)
    wait_for(lambda: told(stage, live).count("is not managed") >= 6, 200, "it is told", live.said)
    witness.look()
    live.end()
    result = live.result()
    assert result["verify"]["identical"]
    assert told(stage, live).count("is not managed: 64 are open already") == 6


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_with_a_sentence_and_every_order_known(stage):
    live = stage.live(*ACT, *FAST)
    wait_for(lambda: acting(stage, live) and begun(stage) > 1, 120, "it acts", live.said)
    segment = max((stage.data / "sessions").glob(".recording-*/journal/*.seg"))
    full = segment.stat().st_size + 40_000
    resource.prlimit(live.pid, resource.RLIMIT_FSIZE, (full, full))
    assert live.wait() == 3
    last = live.said().strip().splitlines()[-1]
    assert last.startswith("tapeguard: ") and "could not be written" in last and "Traceback" not in live.said()
    assert all(entry["end"] for entry in intents(stage.data).values())
    again = stage.live(*ACT, *FAST)
    wait_for(lambda: acting(stage, again), 120, "the next run acts", again.said)
    again.end()
    assert again.result()["verify"]["identical"]
    runs = {json.loads(path.read_text())["state"] for path in (stage.data / "runs").glob("live-act-*/live.json")}
    assert runs == {"failed", "ended"}
    for path in (stage.data / "runs").glob("live-act-*"):
        assert stage.ask("verify", path.name)[1]["identical"]


@pytest.mark.slow
def test_a_run_that_waits_for_a_venue_that_does_not_answer_is_ended_by_ctrl_c(stage):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        stage.rest = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        live = stage.live("--mode", "shadow", *FAST)
        deaf.settimeout(120)
        client, _ = deaf.accept()
        began_s = time.monotonic()
        os.kill(live.pid, signal.SIGINT)
        assert live.wait(30) == 2 and time.monotonic() - began_s < 8
        client.close()
        assert "nothing was recorded" in live.said() and "Traceback" not in live.said()


@pytest.mark.slow
def test_a_screen_whose_reader_is_gone_does_not_end_the_run(stage):
    live = stage.live("--mode", "shadow", *FAST, piped=True)
    for line in live.process.stderr:
        if line.startswith(b"{"):
            break
    live.process.stderr.close()
    time.sleep(2.5)
    assert live.process.poll() is None
    live.process.send_signal(signal.SIGINT)
    assert live.result()["verify"]["identical"]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_well_where_a_loop_takes_no_signals(stage):
    """As on Windows, where it cancels the run instead."""
    deaf = ("import asyncio.unix_events, sys\n"
            "def refused(*arguments): raise NotImplementedError\n"
            "asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = refused\n"
            "from engine.cli import main\n"
            "sys.exit(main(sys.argv[1:]))")
    live = stage.live(*ACT, *FAST, program=("-c", deaf))
    wait_for(lambda: acting(stage, live) and begun(stage), 200, "the rules act", live.said)
    live.process.send_signal(signal.SIGINT)
    result = live.result(200)
    assert result["verify"]["identical"] and json.loads((Path(result["path"]) / "live.json").read_text())["state"] == "ended"
    decided = [row["decision"] for row in table(stage, result, "decisions") if row["decision"]]
    assert decided and sorted(decided) == sorted(row["decision"] for row in table(stage, result, "orders"))


@pytest.mark.slow
def test_a_run_with_a_duration_ends_as_by_ctrl_c(stage):
    for _ in range(40):
        stage.control("fault", {"do": "latency", "ms": 300, "after_ms": 300})      # so that an order is always on its way
    live = stage.live(*ACT, *FAST, "--seconds", "16")
    result = live.result(200)
    assert result["verify"]["identical"]
    assert {row["reason"] for row in table(stage, result, "switches")} == {"the feeds are well", "the run ends"}
    decided = [row["decision"] for row in table(stage, result, "decisions") if row["decision"]]
    assert decided and sorted(decided) == sorted(row["decision"] for row in table(stage, result, "orders"))


def direct(*faults: dict) -> DirectLink:
    """Return a link to a simulated terminal in this process, with a script of faults."""
    terminal = build({"symbols": [{"name": "BTCUSD"}], "quotes": [["BTCUSD", 6_000_000, 6_000_100]], "faults": list(faults)})
    link = DirectLink(Desk(terminal.module, Intents(None)))
    assert link.restart()
    return link


@pytest.mark.parametrize("fault", [{"do": "restart"}, {"do": "failed", "code": -10000}, {"do": "lost"}])
def test_a_call_that_says_no_because_the_link_is_broken_mends_the_link(fault):
    link = direct(fault | {"call": "symbol_select"})
    with pytest.raises(SourceFailed):
        Mt5Quotes(link, ["BTCUSD"], WallClock())
    assert Mt5Quotes(link, ["BTCUSD"], WallClock()).poll()


@pytest.mark.parametrize("call", ["symbol_select", "symbol_info", "account_info"])
@pytest.mark.parametrize("fault", [{"do": "restart"}, {"do": "failed", "code": -1}])
def test_a_terminal_that_cannot_be_read_for_a_moment_is_asked_again(tmp_path, call, fault):
    options = LiveOptions("shadow", Options(Endpoint("binance_usdm", "", ""), ["BTCUSDT"]), [], Terminal("simulated"), {"BTCUSDT": "BTCUSD"})
    account = open_account(options, direct(fault | {"call": call}), WallClock(), tmp_path)
    assert account.login == 5001 and list(account.instruments) == ["BTCUSD"]


def test_a_symbol_the_terminal_does_not_have_is_said_at_once(tmp_path):
    options = LiveOptions("shadow", Options(Endpoint("binance_usdm", "", ""), ["BTCUSDT"]), [], Terminal("simulated"), {"BTCUSDT": "BTCUSDm"})
    with pytest.raises(BadInput, match="the terminal has no symbol BTCUSDm"):
        open_account(options, direct(), WallClock(), tmp_path)


def test_a_thread_that_ends_by_itself_ends_the_run():
    health = Health()
    quotes = Quotes(type("Link", (), {"restart": lambda self: True})(), ["BTCUSD"], None, lambda kind, payload: None, health)
    quotes.start()
    quotes.join(10)
    assert not quotes.is_alive() and health.ended.startswith("the quotes thread ended (AttributeError")
    session = type("Session", (), {"trader": threading.current_thread(), "quotes": quotes, "health": health})()
    with pytest.raises(SourceFailed, match="the quotes thread ended .* the broker-side stops stay"):
        LiveSession._steps(session)


def test_a_screen_that_cannot_be_drawn_is_given_up_and_told():
    alarms = []
    session = type("Session", (), {"_alarm": lambda self, text: alarms.append(text)})()
    assert LiveSession._shown(session, lambda live: 1 / 0) is None and LiveSession._shown(session, None) is None
    assert len(alarms) == 1 and "the screen is given up (ZeroDivisionError" in alarms[0]


def test_why_rules_are_held_is_what_is_wrong_now():
    health, watch = Health(), type("Watch", (), {"streams": {}, "books": {}, "offset_ms": None})()
    guard = Guard(watch, health, ["BTCUSD"], back_s=0.0)
    assert guard.look() is None and "the account was not read" in guard.held
    health.looked_s = time.monotonic()
    health.quotes_problem = "the terminal cannot select BTCUSD"
    assert guard.look() is None and guard.held == "no new quote of BTCUSD for 5 s: the terminal cannot select BTCUSD"
    health.quoted_s["BTCUSD"] = time.monotonic()
    assert guard.look() == "" and guard.held == ""
    health.looked_s -= 60.0
    assert "the account was not read" in guard.look() and guard.look() is None


def decided(*seqs: int) -> np.ndarray:
    found = np.zeros(len(seqs), DECISION)
    found["seq"], found["ticket"] = seqs, range(len(seqs))
    return found


@pytest.mark.parametrize("live, again, last_seq, state, left", [
    ((7,), (7, 7), 8, "killed", 1),                # the journal ends between the two decisions of frame 7
    ((), (7,), 7, "killed", 0),
    ((), (7, 7), 7, "failed", 0),
    ((), (7,), 7, "ended", 1),                     # a run that ended by itself has all of them
    ((), (7,), 8, "killed", 1),                    # something came after the frame: nothing excuses it
    ((), (7, 9), 9, "killed", 1),                  # only the last frame is cut off
])
def test_only_a_decision_that_the_kill_kept_out_of_the_journal_is_excused(live, again, last_seq, state, left):
    run = type("Run", (), {"live": {"state": state}, "session": type("S", (), {"manifest": {"last_seq": last_seq}})})()
    assert len(cut_off(run, decided(*live), decided(*again))) == left


def test_a_missing_decision_before_one_that_is_there_is_a_difference():
    run = type("Run", (), {"live": {"state": "killed"}, "session": type("S", (), {"manifest": {"last_seq": 8}})})()
    again = decided(7, 7)
    kept = cut_off(run, again[1:], again)
    assert kept.tobytes() != again[1:].tobytes()
