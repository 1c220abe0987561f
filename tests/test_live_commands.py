"""The commands about a live run, given without one, beside one, and where they cannot do what they are for."""

import argparse
import json
import os
import sys
import time

import pytest
from exchanges import running
from replays import fails, tool

from engine.cli import main
from engine.gateway.client import WorkerLink
from engine.live.cli import find_run, verify_table
from engine.live.commands import kill_file
from engine.live.session import LiveSession
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.convert import recover
from engine.record.journal import JournalWriter, hold, recording_folder
from engine.record.session import tell
from engine.sim.exchange import ExchangeConfig


@pytest.fixture
def used(tmp_path):
    """A data root that a live run uses: as one does, it holds the lock."""
    (tmp_path / "live").mkdir()
    with hold(tmp_path / "live"):
        yield tmp_path


def said(capsys, *arguments: str, code: int) -> str:
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    assert not err
    return " ".join(out.split())


def test_a_kill_beside_a_run_says_that_no_order_is_sent(used, capsys):
    assert "KILL is there: no order is sent; broker-side stops stay" in said(capsys, "kill", "--data", str(used), code=0)
    assert kill_file(used).exists()
    assert "KILL is gone: orders may be sent again" in said(capsys, "kill", "--lift", "--data", str(used), code=0)
    assert not kill_file(used).exists()


def test_a_kill_where_no_run_is_reassures_nobody(tmp_path, capsys):
    text = said(capsys, "kill", "--data", str(tmp_path), code=1)
    assert text.startswith("NO ORDER WAS STOPPED: no live run uses") and "--data" in text and "no order is sent" not in text
    assert f"{kill_file(tmp_path)} stays" in text and kill_file(tmp_path).exists()


def test_a_lift_where_nothing_was_stopped_says_so(used, capsys):
    text = said(capsys, "kill", "--lift", "--data", str(used), code=0)
    assert "there was no" in text and "may be sent" not in text
    assert tool(capsys, "kill", "--lift", "--data", str(used))["killed"] is False


@pytest.mark.parametrize("lift, words", [((), "ORDERS ARE NOT STOPPED"), (("--lift",), "ORDERS STAY STOPPED")])
def test_a_kill_that_cannot_be_written_says_what_to_do_instead(tmp_path, capsys, lift, words):
    """A file where the folder should be, and a folder where the file should be: nobody may write there, the superuser neither."""
    if lift:
        kill_file(tmp_path).mkdir(parents=True)
    else:
        (tmp_path / "live").write_text("")
    text = fails(capsys, "kill", *lift, "--data", str(tmp_path), code=3)
    assert words in text and str(kill_file(tmp_path)) in text and ("Algo Trading" in text) != bool(lift)


# Starting


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has the module")
@pytest.mark.parametrize("command", ["live", "record"])
def test_without_a_terminal_the_doctors_sentence_is_said_and_nothing_is_begun(tmp_path, capfd, command):
    mode = ["--mode", "shadow"] if command == "live" else []
    given = [command, "BTCUSDT", *mode, "--data", str(tmp_path / "data"), "--terminal"]
    for words, code, more in ((f"there is no MetaTrader5 module for {sys.platform}: MetaTrader 5 runs on Windows", 3, ["MetaTrader5"]),
                              ("--terminal foo: MetaTrader5, or simulated:@ADDRESS.json", 2, ["foo"]),
                              ("there is no program no-such-program-of-ours", 2, ["MetaTrader5", "--worker-command", "no-such-program-of-ours"]),
                              ("there is no program no-such-program-of-ours", 2, ["simulated:x", "--worker-command", "no-such-program-of-ours x"])):
        assert words in fails(capfd, *given, *more, code=code)
    assert not (tmp_path / "data").exists()


def test_a_run_that_ctrl_c_keeps_from_its_end_says_how_it_is_finished(tmp_path, capsys, monkeypatch):
    def run(session, show=None):
        session.folder.mkdir(parents=True)
        raise KeyboardInterrupt
    monkeypatch.setattr(LiveSession, "run", run)
    assert main(["live", "BTCUSDT", "--mode", "shadow", "--terminal", "simulated:x.json", "--data", str(tmp_path)]) == 130
    kept, stopped = capsys.readouterr().err.splitlines()
    assert "the recording of live-shadow-" in kept and "is kept; tapeguard verify finishes it" in kept and stopped == "tapeguard: stopped"


@pytest.mark.parametrize("fault", ["an exchange that is not there", "another symbol"])
def test_a_start_that_is_refused_leaves_neither_a_run_nor_a_recording(tmp_path, capsys, fault):
    (tmp_path / "terminal.json").write_text(json.dumps({"symbols": [{"name": "BTCUSD"}], "quotes": [["BTCUSD", 6_000_000, 6_000_100]]}))
    data, capture = tmp_path / "data", generate(MarketConfig(seed=3, duration_s=5.0), tmp_path / "market").capture
    with running(ExchangeConfig([capture], start="now")) as (exchange, _):
        rest = exchange.rest_url if fault == "another symbol" else "http://127.0.0.1:9"
        symbol = "BTCUSDC" if fault == "another symbol" else "BTCUSDT"
        assert main(["live", symbol, "--mode", "shadow", "--map", f"{symbol}=BTCUSD", "--terminal", f"simulated:{tmp_path / 'terminal.json'}",
                     "--ws", exchange.ws_url, "--rest", rest, "--data", str(data), "--quiet", "--rules", "none"]) in (2, 3)
    assert "Traceback" not in (said := capsys.readouterr().err), said
    assert "reaching the terminal" in said and len(said.splitlines()) > 1
    assert not (data / "symbols.json").exists(), "the venue never said that it knows the symbol"
    assert [*(data / "runs").glob("*")] == [] == [*(data / "sessions").glob("*")] + [*(data / "sessions").glob(".*")], said


def test_the_newest_run_is_one_that_began(tmp_path):
    for name, text in (("live-shadow-1", {"instruments": []}), ("live-shadow-2", {})):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "live.json").write_text(json.dumps(text))
    assert find_run(argparse.Namespace(data=tmp_path, run=None)).name == "live-shadow-1"


def test_what_act_lacks_is_said_before_the_terminal_is_reached(used, capsys):
    kill_file(used).write_text("")
    text = fails(capsys, "live", "BTCUSDT", "--mode", "act", "--terminal", "foo", "--rules", "whale=shadow", "--max-share", "1", "--data", str(used))
    for words in ("--account NUMBER", "--actions-per-minute, --actions-per-day;", "kill --lift", "no rule has the mode act", "verified shadow run"):
        assert words in text


def test_a_second_run_is_told_which_one_is_there(used, capsys):
    given = ["live", "BTCUSDT", "--mode", "shadow", "--terminal", "simulated:x.json", "--data", str(used)]
    assert f"{used} is in use by a live run that starts or ends" in fails(capsys, *given)
    written(used)
    assert "is in use by live run live-act-1 (process 4321)" in fails(capsys, *given)


def test_a_recording_that_another_program_makes_is_not_called_left(tmp_path):
    said = []
    with JournalWriter(recording_folder(tmp_path, "now"), "now", disk_reserve_bytes=0):
        for left in recover(tmp_path):
            tell(left, said.append)
    assert said == ["recording now is still being made by another program: left alone"]


@pytest.mark.skipif(os.name == "nt", reason="there are no such groups")
def test_ctrl_c_of_a_terminal_window_does_not_reach_the_worker(tmp_path):
    """It goes to every process of the group the run is in."""
    (tmp_path / "terminal.json").write_text(json.dumps({"symbols": [{"name": "BTCUSD"}]}))
    link = WorkerLink(tmp_path / "sent.jsonl", terminal=f"simulated:{tmp_path / 'terminal.json'}")
    link.start()
    try:
        assert os.getpgid(link.process.pid) == link.process.pid != os.getpgid(0)
    finally:
        link.stop()


# Switching


def written(data, name: str = "live-act-1", state: str = "running"):
    """Write what a live run writes down of itself."""
    folder = data / "runs" / name
    folder.mkdir(parents=True)
    (folder / "live.json").write_text(json.dumps({"state": state, "pid": 4321, "instruments": [], "rules": {"whale": {}, "void": {}}}))
    return folder


def test_a_run_that_has_ended_is_not_waited_for(used, tmp_path_factory, capsys):
    written(used, state="ended")
    began_s = time.monotonic()
    assert "live run live-act-1 has ended" in fails(capsys, "switch", "whale=off", "--data", str(used))
    other = tmp_path_factory.mktemp("killed")
    written(other)
    assert "live run live-act-1 has ended" in fails(capsys, "switch", "whale=off", "--data", str(other)), "nothing holds its data root"
    assert time.monotonic() - began_s < 2


def test_a_rule_the_run_has_not_is_wrong_use_and_nothing_is_switched(used, capsys):
    folder = written(used)
    assert "has no rule 'wale'; did you mean 'whale'" in fails(capsys, "switch", "void=off", "wale=off", "--data", str(used))
    assert not (folder / "commands").exists()


# Verifying


@pytest.mark.parametrize("identical, compared, said", [
    (True, 3, "the replay decides the same, byte for byte"), (True, 0, "nothing was decided, and nothing in the replay"),
    (False, 1, "the replay decides OTHERWISE")])
def test_a_verification_claims_no_more_than_was_compared(identical, compared, said):
    result = {"run": "live-1", "identical": identical, "compared": compared, "different": 0, "acted_positions": 0, "rule_effect_r": None,
              "execution_effect_r": None}
    assert verify_table(result).title == f"Live run live-1: {said}"
