"""The simulated terminal as a process: programs come, hang and are killed; it stays, and what it holds outlives it too."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from terminals import CONFIG, Terminal, running

from engine.cli import main
from engine.gateway.client import LinkLost, WorkerLink

posix = pytest.mark.skipif(os.name != "posix", reason="kills by signal")


@pytest.fixture
def terminal(tmp_path):
    with running(tmp_path, state=str(tmp_path / "state.json")) as made:
        yield made


@pytest.fixture
def workers(terminal):
    made = [WorkerLink(terminal.folder / f"sent{i}.jsonl", terminal=f"simulated:@{terminal.address}", timeout_s=20.0) for i in range(2)]
    assert all([link.restart() for link in made])
    yield made
    for link in made:
        link.stop()


def closing(ticket: int, intent: str, volume: float) -> dict:
    request = {"action": 1, "position": ticket, "symbol": "BTCUSD", "volume": volume, "type": 1, "type_filling": 1, "price": 60_000}
    return {"call": "order_send", "intent": intent, "login": 5001, "keep": 0.0, "request": request}


def volume(link: WorkerLink) -> float:
    return link.ask({"call": "positions_get"})["result"][0]["volume"]


def control(link: WorkerLink, *args):
    reply = link.ask({"call": "control", "args": list(args)})
    assert reply["ok"], reply
    return reply["result"]


def test_two_programs_see_one_book_and_each_its_own_errors(workers):
    one, two = workers
    ticket = one.ask({"call": "positions_get"})["result"][0]["ticket"]
    assert one.ask(closing(ticket, "a/1", 0.4))["result"]["retcode"] == 10009 and volume(two) == 0.6
    assert two.ask({"call": "symbol_info_tick", "args": ["NONE"]})["error"] == [-4, "Terminal: Not found"]
    assert two.ask({"call": "last_error"})["result"][0] == -4 and one.ask({"call": "last_error"})["result"][0] == 1
    assert two.ask({"call": "shutdown"})["result"] and two.ask({"call": "positions_total"})["error"][0] == -10004
    assert one.ask({"call": "positions_total"})["result"] == 1


def test_controls_reach_it_through_any_worker(workers):
    one, two = workers
    control(one, "push", "BTCUSD", 6_050_000, 6_050_100)
    assert two.ask({"call": "symbol_info_tick", "args": ["BTCUSD"]})["result"]["bid"] == 60_500.0
    control(two, "by_hand", {"symbol": "BTCUSD", "side": 1, "lots": 0.5, "sl_bps": 50, "tp_bps": 100})
    found = one.ask({"call": "positions_get"})["result"]
    assert (found[1]["type"], found[1]["sl"], found[1]["tp"]) == (1, 60_802.5, 59_895.0)
    assert control(one, "log") == [] and len(control(two, "state")[0]["positions"]) == 2
    for args, reason in (([["nonsense"]], "not known"), (["psh"], "did you mean 'push'"), (["fault", {"do": "partail"}], "did you mean 'partial'"),
                         (["push", "BTCUSD"], "missing")):
        reply = one.ask({"call": "control", "args": args})
        assert not reply["ok"] and reason in reply["refused"], reply


@posix
@pytest.mark.slow
@pytest.mark.parametrize("when, left", [("before", 1.0), ("after", 0.6)])
def test_a_program_that_hangs_in_a_call_and_is_killed_leaves_nothing_held(terminal, workers, when, left):
    one, two = workers
    ticket = one.ask({"call": "positions_get"})["result"][0]["ticket"]
    tasks = Path(f"/proc/{terminal.process.pid}/task")
    before = len(list(tasks.iterdir())) if tasks.is_dir() else 0
    control(two, "fault", {"do": "block", "when": when})
    hanging = threading.Thread(target=lambda: pytest.raises(LinkLost, one.ask, closing(ticket, "h/1", 0.4)))
    hanging.start()
    until(lambda: not control(two, "state")[0]["positions"][0]["volume"] - left * 1e8)
    assert volume(two) == left and len(control(two, "log")) == (when == "after") and hanging.is_alive()
    os.kill(one.process.pid, signal.SIGKILL)
    hanging.join()
    assert one.restart() and volume(one) == left and two.ask(closing(ticket, "h/2", 0.1))["result"]["retcode"] == 10009
    if before:
        until(lambda: len(list(tasks.iterdir())) <= before)


def until(done) -> None:
    """Wait until something holds, for a bounded time."""
    end_s = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_time_that_passes_in_one_call_stops_no_other(terminal):
    (slow, control_), (quick, _) = terminal.module(), terminal.module()
    assert slow.initialize() and quick.initialize()
    control_("fault", {"do": "latency", "ms": 2000, "after_ms": 2000, "call": "account_info"})
    thread = threading.Thread(target=slow.account_info)
    thread.start()
    longest_s, calls = 0.0, 0
    while thread.is_alive():
        begin_s = time.monotonic()
        assert quick.positions_total() == 1
        longest_s, calls = max(longest_s, time.monotonic() - begin_s), calls + 1
    assert calls > 100 and longest_s < 1.5
    assert slow.last_error()[0] == 1
    slow.shutdown(), quick.shutdown()


@posix
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hedging", "netting"])
def test_a_killed_terminal_starts_again_as_it_was(tmp_path, mode):
    faults = [{"do": "unknown", "code": 10012, "executed": True, "delay_ms": 3_600_000, "skip": 1}]
    with running(tmp_path, state=str(tmp_path / "state.json"), accounts=[{"mode": mode}], faults=faults) as terminal:
        mt5, control_ = terminal.module()
        assert mt5.initialize() is True and mt5.last_error() == (1, "Success")
        request = {"action": 1, "position": mt5.positions_get()[0].ticket, "symbol": "BTCUSD", "volume": 0.3, "type": 1, "type_filling": 1}
        assert [mt5.order_send(request).retcode for _ in range(2)] == [10009, 10012]
        held = [mt5.positions_get(), mt5.orders_get(), mt5.history_orders_get(86_400, 2**31 - 1), mt5.history_deals_get(86_400, 2**31 - 1)]
        assert [len(rows) for rows in held] == [1, 1, 2, 2]
        terminal.end(kill=True)
        assert mt5.positions_get() is None and mt5.last_error() == (-10002, "IPC recv failed")
        assert mt5.positions_get() is None and mt5.last_error() == (-10004, "No IPC connection")
        assert mt5.initialize() is False and mt5.last_error()[0] == -10003 and mt5.version() == (0, 0, "")
        with pytest.raises(ValueError, match="tapeguard sim terminal"):
            control_("state")
        terminal.start()
        assert mt5.positions_get() is None and mt5.last_error()[0] == -10004, "no automatic reconnect"
        assert mt5.initialize()
        assert [mt5.positions_get(), mt5.orders_get(), mt5.history_orders_get(86_400, 2**31 - 1), mt5.history_deals_get(86_400, 2**31 - 1)] == held
        mt5.shutdown()


@posix
def test_a_terminal_killed_during_a_call_leaves_it_unanswered(terminal):
    mt5, control_ = terminal.module()
    assert mt5.initialize()
    control_("fault", {"do": "block", "when": "after"})
    ticket, answers = mt5.positions_get()[0].ticket, []
    request = {"action": 1, "position": ticket, "symbol": "BTCUSD", "volume": 0.3, "type": 1, "type_filling": 1}
    thread = threading.Thread(target=lambda: answers.append((mt5.order_send(request), mt5.last_error())))
    thread.start()
    until(lambda: control_("log"))
    terminal.end(kill=True)
    thread.join(20)
    assert answers == [(None, (-10002, "IPC recv failed"))] and mt5.terminal_info() is None and mt5.last_error()[0] == -10004
    terminal.start()
    assert mt5.initialize() and mt5.positions_get()[0].volume == 0.7, "what it did is kept, whether it said so or not"
    mt5.shutdown()


def test_a_restart_cuts_every_program_off(terminal):
    (one, control_), (two, _) = terminal.module(), terminal.module()
    assert one.initialize() and two.initialize()
    control_("fault", {"do": "restart", "call": "account_info"})
    for mt5 in (one, two):
        assert mt5.account_info() is None and mt5.last_error()[0] == -10002
        assert mt5.account_info() is None and mt5.last_error()[0] == -10004
        assert mt5.initialize() and mt5.account_info().login == 5001
        mt5.shutdown()


def test_arrays_come_as_the_module_has_them(terminal):
    mt5, control_ = terminal.module()
    mt5.initialize()
    for i in range(5):
        control_("push", "BTCUSD", 6_000_000 + i, 6_000_100 + i)
    ticks = mt5.copy_ticks_from("BTCUSD", 86_400, 100, mt5.COPY_TICKS_ALL)
    assert ticks.dtype.itemsize == 60 and len(ticks) == 6 and ticks.flags.writeable and (np.diff(ticks["time_msc"]) >= 0).all()
    assert ticks["bid"][-1] == 60_000.04 and mt5.copy_rates_from_pos("BTCUSD", mt5.TIMEFRAME_M1, 0, 5)["close"][-1] == 60_000.04
    mt5.shutdown()


@posix
def test_ctrl_c_ends_it_and_takes_the_address_away(terminal):
    assert stat.S_IMODE(terminal.address.stat().st_mode) == 0o600
    token, said = json.loads(terminal.address.read_text())["token"], json.loads(terminal.said)
    assert said.keys() == {"port", "pid", "address"} and token not in terminal.said and said["pid"] == terminal.process.pid
    assert token.encode() not in Path(f"/proc/{terminal.process.pid}/cmdline").read_bytes()
    mt5, _ = terminal.module()
    assert mt5.initialize()
    terminal.end()
    assert terminal.code == 0 and not terminal.address.exists() and terminal.complained == ""
    assert mt5.account_info() is None and mt5.last_error()[0] == -10002


def test_who_does_not_know_the_token_is_hung_up_on(terminal):
    port = json.loads(terminal.address.read_text())["port"]
    for said in (b'{"token": "wrong"}\n', b'{"call": "initialize", "args": [null, null]}\n', b"nonsense\n", b"\xff\xfe\n", b"[]\n", b"x" * (1 << 21)):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            try:
                client.sendall(said)
                assert client.recv(100) == b""
            except ConnectionError:
                pass                   # hung up on before it was through
    mt5, _ = terminal.module()
    assert mt5.initialize() and mt5.positions_total() == 1
    mt5.shutdown()


def test_an_address_is_served_once(terminal):
    second = subprocess.run([sys.executable, "-m", "engine.cli", "sim", "terminal", *terminal.arguments, "--address", str(terminal.address)],
                            capture_output=True, text=True, timeout=60)
    assert second.returncode == 2 and f"by process {terminal.process.pid}" in second.stderr and second.stdout == ""
    mt5, _ = terminal.module()
    assert mt5.initialize()
    mt5.shutdown()


FOLLOW = {"symbol": "BTCUSD", "stream": "btcusdt@bookTicker", "ws": "ws://127.0.0.1:1"}


@pytest.mark.parametrize("config, words", [
    ({"symbolz": []}, ["`symbolz`", "did you mean 'symbols'"]), ({"symbols": 5}, ["Expected `array`", "`$.symbols`"]),
    ({"symbols": [{"name": "X", "digits": "2"}], "positions": [], "quotes": []}, ["Expected `int`, got `str`", "symbols[0].digits"]),
    ({"symbols": [{"name": "X", "digts": 2}]}, ["`digts`", "did you mean 'digits'"]),
    ({"quotes": [["BTCUSDT", 1, 2]]}, ["quotes", "'BTCUSDT'", "did you mean 'BTCUSD'"]), ({"quotes": [["BTCUSD", 1.5, 2]]}, ["quotes[0][1]"]),
    ({"positions": [{"symbol": "BTCUSD", "side": 2, "lots": 1}]}, ["positions[0].side"]),
    ({"accounts": [{"mode": "heging"}]}, ["accounts[0].mode"]), ({"faults": [{"do": "partail"}]}, ["did you mean 'partial'"]),
    ({"rates": {"lots": 0.5}}, ["'lots'"]), ({"clock_rule": "athens"}, ["clock_rule 'athens'"]), ({"state": "no/such/place/s.json"}, ["no/such/place"]),
    ({"follow": [FOLLOW | {"ws": "http://x"}]}, ["'http://x'"]), ({"follow": [FOLLOW | {"stream": "btcusdt@trade"}]}, ["'btcusdt@trade'"]),
    ({"follow": [FOLLOW | {"lag_ms": -1}]}, ["lag_ms"]), ({"follow": [FOLLOW | {"symbol": "ETHUSD"}]}, ["follow", "'ETHUSD'"])])
def test_a_bad_configuration_is_said_in_one_sentence(tmp_path, capsys, config, words):
    path = tmp_path / "terminal.json"
    path.write_text(json.dumps(CONFIG | config), encoding="utf-8")
    refused(capsys, [str(path)], [str(path), *words])


@pytest.mark.parametrize("text, words", [(None, ["cannot be read", "No such file"]), ("{", ["not JSON"]), ("[]", ["Expected `object`"])])
def test_so_is_a_file_that_is_none(tmp_path, capsys, text, words):
    path = tmp_path / "terminal.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    refused(capsys, [str(path)], [str(path), *words])


def test_so_is_a_wrong_use(tmp_path, capsys):
    config, state = tmp_path / "terminal.json", tmp_path / "state.json"
    config.write_text(json.dumps(CONFIG | {"state": str(state)}), encoding="utf-8")
    refused(capsys, [], ["--follow"])
    refused(capsys, [str(config), "--follow", "ws://127.0.0.1:1"], ["--follow"])
    refused(capsys, [str(config), "--address", str(tmp_path / "no" / "a.json")], ["--address"])
    state.write_text("{}", encoding="utf-8")
    refused(capsys, [str(config), "--address", str(tmp_path / "a.json")], [str(state), "not the state of these accounts"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        state.unlink()
        refused(capsys, [str(config), "--address", str(tmp_path / "a.json"), "--port", str(port)], [str(port)], code=3)
    assert not (tmp_path / "a.json").exists()


def refused(capsys, arguments: list[str], words: list[str], code: int = 2) -> None:
    assert main(["sim", "terminal", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("tapeguard: "), err
    assert all(word in err for word in words), err


def test_a_worker_says_the_same_of_a_bad_configuration(tmp_path):
    from engine.gateway import mt5_worker
    path = tmp_path / "terminal.json"
    path.write_text(json.dumps(CONFIG | {"follow": [FOLLOW]}), encoding="utf-8")
    done = subprocess.run([sys.executable, mt5_worker.__file__, "--terminal", f"simulated:{path}", "--intents", str(tmp_path / "sent")],
                          input="t" * 40, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and f"tapeguard sim terminal {path}" in done.stderr


@posix
def test_a_terminal_starts_where_a_dead_one_left_its_address(tmp_path):
    with running(tmp_path, state=str(tmp_path / "state.json")) as terminal:
        terminal.end(kill=True)
        assert terminal.address.exists()
        second = Terminal(tmp_path, *terminal.arguments)
        mt5, _ = second.module()
        assert mt5.initialize() and mt5.positions_total() == 1
        mt5.shutdown()
        second.end()
        assert second.code == 0
