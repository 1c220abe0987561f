"""The worker process over real sockets: the token, the list of calls, the intents that outlive a kill, the guard, the watchdog."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.gateway import mt5_worker
from engine.gateway.client import LinkLost, WorkerLink
from engine.gateway.mt5_worker import Desk, Intents, Refused, cast, guard, plain
from engine.gateway.terminal import SimulatedTerminal, VirtualClock
from engine.gateway.terminal_books import NETTING, Book, Spec

SOURCE = Path(mt5_worker.__file__)


def configured(folder: Path, **more) -> str:
    path = folder / "terminal.json"
    path.write_text(json.dumps({"symbols": [{"name": "BTCUSD"}], "quotes": [["BTCUSD", 6_000_000, 6_000_100]], "state": str(folder / "state.json"),
                                "positions": [{"symbol": "BTCUSD", "side": 0, "lots": 1.0, "sl": 59_000.0}]} | more), encoding="utf-8")
    return f"simulated:{path}"


@pytest.fixture
def link(tmp_path):
    made = WorkerLink(tmp_path / "sent.jsonl", terminal=configured(tmp_path), timeout_s=20.0)
    made.start()
    assert made.restart()
    yield made
    made.stop()


def position(link: WorkerLink) -> dict:
    return link.ask({"call": "positions_get", "kwargs": {"symbol": "BTCUSD"}})["result"][0]


def closing(ticket: int, intent: str, volume: float = 0.4, **more) -> dict:
    request = {"action": 1, "position": ticket, "symbol": "BTCUSD", "volume": volume, "type": 1, "type_filling": 1, "price": 60_000}
    return {"call": "order_send", "intent": intent, "login": 5001, "keep": 0.0, "request": request} | more


def test_the_worker_needs_the_standard_library_only():
    """Its one import from here is made when the simulated terminal is asked for."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_an_order_and_the_same_intent_again(link):
    ticket = position(link)["ticket"]
    first = link.ask(closing(ticket, "a/1"))
    assert first["result"]["retcode"] == 10009 and first["result"]["request"]["volume"] == 0.4 and "cached" not in first
    again = link.ask(closing(ticket, "a/1"))
    assert again["cached"] and again["result"] == first["result"] and position(link)["volume"] == 0.6
    other = link.ask(closing(ticket, "a/1", 0.2))
    assert not other["ok"] and "another request" in other["refused"] and position(link)["volume"] == 0.6


def test_a_killed_worker_does_not_forget_what_it_sent(link):
    ticket = position(link)["ticket"]
    link.ask({"call": "control", "args": ["fault", {"do": "block", "when": "after"}]})
    with pytest.raises(LinkLost, match="order_send"):
        link.ask(closing(ticket, "b/1"), timeout_s=1.0)
    assert link.process is None and link.restart()
    again = link.ask(closing(ticket, "b/1"))
    assert again["cached"] and again["result"] is None and again["error"][0] == -10002
    assert position(link)["volume"] == 0.6 and link.ask({"call": "ping"})["ok"]


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_kill_9_and_back(link):
    ticket = position(link)["ticket"]
    assert link.ask(closing(ticket, "c/1"))["ok"]
    os.kill(link.process.pid, signal.SIGKILL)
    with pytest.raises(LinkLost):
        link.ask({"call": "ping"})
    assert link.restart() and link.ask(closing(ticket, "c/1"))["cached"] and position(link)["volume"] == 0.6


def test_a_worker_that_hangs_after_its_engine_died_is_ended_by_the_next_start(tmp_path):
    terminal = configured(tmp_path, faults=[{"do": "block", "call": "positions_get"}])
    first = WorkerLink(tmp_path / "sent.jsonl", terminal=terminal)
    assert first.restart()
    first.socket.sendall(b'{"id": 9, "call": "positions_get"}\n')
    first.socket.close()                   # as when the engine is killed: the worker does not notice in its call
    orphan, second = first.process, WorkerLink(tmp_path / "sent.jsonl", terminal=configured(tmp_path))
    try:
        assert second.restart() and position(second)["volume"] == 1.0
        assert orphan.wait(5) != 0
    finally:
        orphan.kill()
        orphan.wait()
        orphan.stdout.close()
        second.stop()


def test_the_token_is_needed_and_stands_nowhere(tmp_path):
    token = "t" * 40
    run = subprocess.Popen([sys.executable, str(SOURCE), "--terminal", configured(tmp_path), "--intents", str(tmp_path / "sent"), "--stay"],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        run.stdin.write(f"{token}\n".encode())
        run.stdin.close()
        port = json.loads(run.stdout.readline())["port"]
        for said in (b'{"token": "wrong"}\n', b'{"call": "ping"}\n', b"nonsense\n", b"\xff\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(said)
                assert client.recv(100) == b""
        link = WorkerLink(tmp_path / "unused", address=(port, token))
        assert link.start()["protocol"] == 1 and link.ask({"call": "ping"})["ok"]
        link.stop()
        if Path("/proc").is_dir():
            assert token.encode() not in Path(f"/proc/{run.pid}/cmdline").read_bytes()
    finally:
        run.kill()
        run.wait()
        run.stdout.close()


def test_a_short_token_will_not_do(tmp_path):
    done = subprocess.run([sys.executable, str(SOURCE), "--intents", str(tmp_path / "x")], input=b"short\n", capture_output=True, timeout=60)
    assert done.returncode == 1 and b"at least 16 characters" in done.stderr


@pytest.mark.parametrize("call", ["Buy", "Close", "__class__", "order_send ", "eval", None, 5])
def test_only_calls_on_the_list(link, call):
    reply = link.ask({"call": call})
    assert not reply["ok"] and "not on the list" in reply["refused"]


def test_odd_messages_are_answered_and_nothing_is_sent(link):
    for message in ({}, {"call": "positions_get", "args": 5}, {"call": "order_send"}, {"call": "order_send", "request": 5},
                    {"call": "order_send", "request": {}, "intent": "bad id"}, {"call": "copy_ticks_from", "args": ["BTCUSD", "x", 1, 1]},
                    closing(1, "x/1"), closing(position(link)["ticket"], "x/2", login=1), closing(position(link)["ticket"], "x/3", keep=0.8)):
        assert not link.ask(message)["ok"], message
    assert link.ask({"call": "control", "args": ["log"]})["result"] == []


def test_arrays_and_records_become_plain(link):
    ticks = link.ask({"call": "copy_ticks_from", "args": ["BTCUSD", 86400, 10, -1]})["result"]
    assert ticks["bid"] == [60_000.0] and list(ticks)[0] == "time"
    assert link.ask({"call": "version"})["result"][0] == 500
    assert plain((1, (2.5,))) == [1, [2.5]]


def test_numbers_are_cast_and_comments_cut():
    done = cast({"volume": 1, "position": 5.0, "comment": "é" * 40, "symbol": "X"})
    assert done == {"volume": 1.0, "position": 5, "comment": "?" * 25, "symbol": "X"} and type(done["volume"]) is float
    assert type(done["position"]) is int


@pytest.mark.parametrize("request_", [{"volume": None}, {"volume": True}, {"volume": float("nan")}, {"price": float("inf")}, {"sl": -1.0},
                                      {"position": 1.5}, {"order": 5}, {"expiration": 0}, {"symbol": "x" * 30}, {"comment": 5}, {"volume": "1"}])
def test_what_cannot_be_cast_is_refused(request_):
    with pytest.raises(Refused):
        cast(request_)


LONG = {"ticket": 7, "symbol": "X", "type": 0, "volume": 1.0, "sl": 90.0, "tp": 120.0}
SHORT = LONG | {"type": 1, "sl": 120.0, "tp": 90.0}
OUT = {"action": 1, "position": 7, "symbol": "X", "type": 1, "volume": 0.5}
MOVE = {"action": 6, "position": 7, "symbol": "X", "sl": 95.0, "tp": 120.0}


@pytest.mark.parametrize("request_, held, keep, fine", [
    (OUT, LONG, 0.0, True), (OUT, LONG, 0.5, True), (OUT, LONG, 0.6, False), (OUT | {"volume": 1.01}, LONG, 0.0, False),
    (OUT | {"volume": 0.0}, LONG, 0.0, False), (OUT | {"type": 0}, LONG, 0.0, False), (OUT, SHORT, 0.0, False),
    (OUT | {"position": 8}, LONG, 0.0, False), (OUT | {"symbol": "Y"}, LONG, 0.0, False), (OUT | {"sl": 1.0}, LONG, 0.0, False),
    (OUT | {"action": 5}, LONG, 0.0, False), (OUT | {"action": 8}, LONG, 0.0, False), (OUT | {"action": 10}, LONG, 0.0, False), ({}, LONG, 0.0, False),
    (MOVE, LONG, 0.0, True), (MOVE | {"sl": 90.0}, LONG, 0.0, False), (MOVE | {"sl": 85.0}, LONG, 0.0, False),
    (MOVE | {"sl": 0.0}, LONG, 0.0, False), (MOVE | {"tp": 0.0}, LONG, 0.0, False), (MOVE | {"tp": 130.0}, LONG, 0.0, False),
    (MOVE, LONG | {"sl": 0.0}, 0.0, True), (MOVE | {"sl": 110.0, "tp": 90.0}, SHORT, 0.0, True), (MOVE | {"tp": 90.0, "sl": 125.0}, SHORT, 0.0, False)])
def test_the_guard(request_, held, keep, fine):
    assert (guard(request_, held, keep) == "") is fine


def desk(mode: int = 2, path: Path | None = None) -> tuple[Desk, SimulatedTerminal]:
    clock = VirtualClock()
    book = Book([Spec("BTCUSD")], mode=mode)
    terminal = SimulatedTerminal(book, clock)
    terminal.module.initialize()
    book.push(clock.now_ns(), "BTCUSD", 6_000_000, 6_000_100)
    book.by_hand("BTCUSD", 0, 1.0)
    return Desk(terminal.module, Intents(str(path) if path else None)), terminal


def test_on_netting_a_second_close_is_stopped_at_the_last_moment():
    it, terminal = desk(NETTING)
    ticket = next(iter(terminal.book.positions))
    assert it.handle(closing(ticket, "n/1", 1.0))["result"]["retcode"] == 10009
    assert not it.handle(closing(ticket, "n/2", 1.0))["ok"] and len(terminal.log) == 1


def test_the_line_is_on_the_disk_before_the_order_goes_out(tmp_path):
    it, terminal = desk(path=tmp_path / "sent")
    ticket, seen = next(iter(terminal.book.positions)), []
    send = it.module.order_send
    it.module.order_send = lambda request: (seen.append((tmp_path / "sent").read_text()), send(request))[1]
    it.handle(closing(ticket, "d/1"))
    it.intents.close()
    assert json.loads(seen[0])["intent"] == "d/1"


@pytest.mark.parametrize("answer", [SystemError("a result with an exception set"), ValueError("year 0 is out of range"), RuntimeError("x"), object()])
def test_what_goes_wrong_from_sending_on_may_have_been_executed(tmp_path, answer):
    it, terminal = desk(path=tmp_path / "sent")
    ticket = next(iter(terminal.book.positions))
    send = it.module.order_send

    def sent(request):
        send(request)
        if isinstance(answer, Exception):
            raise answer
        return answer
    it.module.order_send = sent
    for cached in (False, True):
        reply = it.handle(closing(ticket, "x/1"))
        assert reply["ok"] and reply["result"] is None and reply["error"][0] == -10002 and ("cached" in reply) is cached
    assert len(terminal.log) == 1 and terminal.book.positions[ticket].volume == 60_000_000
    it.intents.close()


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_counts_as_not_sent_and_spoils_nothing(tmp_path, cut):
    path = tmp_path / "sent"
    it, terminal = desk(path=path)
    ticket = next(iter(terminal.book.positions))
    it.handle(closing(ticket, "e/1", 0.1))
    it.intents.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"intent": "e/2", "request": {"action": 1}}'[:cut])
    it = Desk(terminal.module, Intents(str(path)))
    assert it.handle(closing(ticket, "e/1", 0.1))["cached"] and "cached" not in it.handle(closing(ticket, "e/2", 0.1))
    it.intents.close()
    again = Desk(terminal.module, Intents(str(path)))
    again.intents.close()
    assert again.handle(closing(ticket, "e/2", 0.1))["cached"] and terminal.book.positions[ticket].volume == 80_000_000


def test_calls_that_read_go_in_one_batch_which_ends_at_the_first_that_fails(link):
    ticket = position(link)["ticket"]
    calls = [{"call": "account_info"}, {"call": "positions_get", "kwargs": {"ticket": ticket}}, {"call": "symbol_info", "args": ["BTCUSD"]}]
    done = link.ask({"call": "batch", "calls": calls})
    assert done["ok"] and done["result"] == [{key: link.ask(each)[key] for key in ("result", "error")} for each in calls]
    found = link.ask({"call": "batch", "calls": [calls[0], {"call": "symbol_info", "args": ["NONE"]}, calls[1]]})["result"]
    assert len(found) == 2 and found[1]["result"] is None and found[1]["error"] == [-4, "Terminal: Not found"]
    for wrong in ([closing(ticket, "b/1")], [{"call": "shutdown"}], [{"call": "batch", "calls": []}], calls[:1] * 17, [{}], ["x"], None):
        assert not link.ask({"call": "batch", "calls": wrong})["ok"]
    assert position(link)["volume"] == 1.0


def test_an_order_made_ready_is_on_disk_and_sent_once(link):
    ticket = position(link)["ticket"]
    ready = {**closing(ticket, "r/1"), "call": "order_ready"}
    for _ in range(2):
        assert link.ask(ready)["result"] is True and position(link)["volume"] == 1.0
    assert [json.loads(line)["intent"] for line in link.intents.read_bytes().splitlines()] == ["r/1"]
    for call in ("order_ready", "order_send"):
        assert "another request" in link.ask({**closing(ticket, "r/1", 0.2), "call": call})["refused"]
    assert "logged in" in link.ask(closing(ticket, "r/1", login=6001))["refused"] and position(link)["volume"] == 1.0
    assert link.ask(closing(ticket, "r/1"))["result"]["retcode"] == 10009
    link.ask(ready)
    assert link.ask(closing(ticket, "r/1"))["cached"] and position(link)["volume"] == 0.6
    assert not link.ask({**ready, "intent": "r/2", "request": {"nonsense": 1}})["ok"] and not link.ask({**ready, "intent": "r 2"})["ok"]


def test_an_order_made_ready_before_a_restart_is_not_sent_after_it(link):
    ticket = position(link)["ticket"]
    ready = {**closing(ticket, "s/1"), "call": "order_ready"}
    assert link.ask(ready)["ok"]
    link.stop()
    assert link.restart() and link.ask(ready)["ok"]
    again = link.ask(closing(ticket, "s/1"))
    assert again["cached"] and again["error"][0] == -10002 and position(link)["volume"] == 1.0
