"""Alarms of a live run: what is one, that it is written, rung and posted, and that nothing waits for a webhook."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from engine.errors import BadInput
from engine.kernel.market import DECISION, FILL
from engine.kernel.records import ACTED, ALERTED, SHADOWED
from engine.live import alarms as module
from engine.live import webhook as posting
from engine.live.alarms import Alarms
from engine.live.broker import Health
from engine.live.webhook import MOST, Webhook, check_webhook
from engine.record.journal import JournalWriter, recording_folder
from engine.record.own import Account, Change, Order
from engine.record.segment import ACCOUNT, OUTCOME, TIMER

SECRET = "/hook/s3cr3t?token=t0p"
RULE = SimpleNamespace(rule=SimpleNamespace(name="whale"))
LOOP = SimpleNamespace(choices=[RULE, RULE], modes={"whale": "act", "void": "off"})


@contextmanager
def server(answer=lambda n: 200, wait_s: float = 0.0):
    """Serve on loopback; yield the address and what arrived."""
    got, asked = [], []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(self.path)
            time.sleep(wait_s)
            status = answer(len(asked))
            if status == 200:
                got.append(body)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}{SECRET}", got
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join(5)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(posting, "RETRY_S", (0.05, 0.05))


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "live-act-x"
    folder.mkdir()
    return folder / "log.jsonl"


@pytest.fixture
def opened(log):
    """Open alarms at a log, and close them at the end of the test."""
    made = []
    yield lambda url="": made.append(Alarms(log, url)) or made[-1]
    for each in made:
        each.close()


def lines(log) -> list[tuple[str, str]]:
    return [(row["what"], row["text"]) for row in map(json.loads, log.read_text(encoding="utf-8").splitlines())]


def until(true, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_alarm_is_written_and_rung_once(log, opened):
    alarms = opened()
    assert not alarms.ring()
    alarms.alarm("one")
    alarms.alarm("two")
    alarms.note("switch", "three")
    assert alarms.ring() and not alarms.ring()
    assert lines(log) == [("alarm", "one"), ("alarm", "two"), ("switch", "three")]
    assert [entry["text"] for entry in alarms.recent] == ["one", "two"], "the screen shows alarms"
    alarms.close()
    alarms.note("late", "a thread that ends after the log was closed is no failure")


# The webhook


def test_alarms_are_posted_in_order(opened):
    with server() as (url, got):
        alarms = opened(url)
        for n in range(20):
            alarms.alarm(f"alarm {n}")
        alarms.close()
    assert [row["text"] for row in got] == [f"tapeguard: alarm {n}" for n in range(20)]
    assert got[0].keys() == {"text", "what", "run", "time_ns"} and got[0]["run"] == "live-act-x"
    assert alarms.webhook.sent == 20 and not alarms.webhook.dropped and not alarms.webhook.failed


def test_a_server_that_fails_is_tried_again_and_the_order_stays(opened):
    with server(lambda n: 503 if n in (1, 2, 4) else 200) as (url, got):
        alarms = opened(url)
        for n in range(3):
            alarms.alarm(str(n))
        until(lambda: len(got) == 3)
        alarms.close()
    assert [row["text"][-1] for row in got] == ["0", "1", "2"]


def test_a_server_that_is_down_is_said_without_the_address(log, opened):
    with server() as (url, _):
        pass
    alarms = opened(url)
    alarms.alarm("one")
    until(lambda: alarms.webhook.dropped == 1)
    assert alarms.webhook.failed == "ConnectError"
    alarms.alarm("two")
    alarms.close()
    assert ("webhook", "2 alarms did not reach the webhook (ConnectError)") in lines(log)
    text = log.read_text(encoding="utf-8")
    assert not any(part in text for part in ("s3cr3t", "t0p", "127.0.0.1"))


@pytest.mark.parametrize("status", [404, 301, 500])
def test_an_answer_that_is_no_success_is_said_without_the_address(log, opened, status):
    with server(lambda n: status) as (url, got):
        alarms = opened(url)
        alarms.alarm("one")
        until(lambda: alarms.webhook.dropped == 1)
        alarms.close()
    assert lines(log)[-1] == ("webhook", f"1 alarms did not reach the webhook (it answered {status})") and not got
    assert "s3cr3t" not in log.read_text(encoding="utf-8") and "t0p" not in log.read_text(encoding="utf-8")


def test_a_slow_server_never_holds_up_the_loop(opened, monkeypatch):
    """300 alarms return at once; what does not fit is counted, and the next that arrives tells how many were lost."""
    monkeypatch.setattr(posting, "END_S", 0.3)
    with server(wait_s=0.2) as (url, got):
        alarms = opened(url)
        longest_s = 0.0
        for n in range(300):
            began_s = time.monotonic()
            alarms.alarm(str(n))
            longest_s = max(longest_s, time.monotonic() - began_s)
        assert longest_s < 0.15 and len(alarms.webhook.waiting) == MOST
        until(lambda: len(got) >= 3)
        dropped = alarms.webhook.dropped
        assert dropped == 300 - MOST
        assert [row["text"].split()[-1] for row in got] == [str(n) for n in range(len(got))]
        assert sum(row.get("dropped_before", 0) for row in got) in (dropped, dropped - 1), "each is told once"


def test_closing_ends_although_the_server_hangs(log, opened, monkeypatch):
    monkeypatch.setattr(posting, "END_S", 0.5)
    with server(wait_s=1.5) as (url, _):
        alarms = opened(url)
        for n in range(5):
            alarms.alarm(str(n))
        began_s = time.monotonic()
        alarms.close()
        assert time.monotonic() - began_s < 1.2
    assert lines(log)[-1] == ("webhook", "5 alarms did not reach the webhook (too many at once)")


def test_an_address_nothing_can_be_posted_to():
    for url in ("http://host/x?token=1", "https://host:8080/x"):
        check_webhook(url)
    for url in ("", "host/t0p", "ftp://host/t0p", "http:///t0p", "http://host:99999/t0p", "http://[t0p"):
        with pytest.raises(BadInput, match="https://host/path is right") as caught:
            check_webhook(url)
        assert "t0p" not in str(caught.value)


def test_an_address_that_httpx_refuses_does_not_end_the_thread():
    hook = Webhook("http://host\x00/t0p")
    hook.put({"text": "x"})
    until(lambda: hook.dropped == 1)
    assert hook.is_alive() and "t0p" not in hook.failed
    hook.close()


# What is an alarm


def decision(result: int, ticket: int = 7, rule: int = 0, seq: int = 1):
    row = np.zeros(1, DECISION)
    for name, value in (("result", result), ("ticket", ticket), ("rule", rule), ("seq", seq), ("action", 1)):
        row[name] = value
    return row[0]


def test_a_rule_that_only_alerts_is_heard_though_not_at_every_vote(log, opened, monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", 0.2)
    alarms = opened()
    for n in range(5):
        alarms.told("decision", decision(ALERTED, seq=n), LOOP)
    alarms.told("decision", decision(ALERTED, ticket=8), LOOP)
    alarms.told("decision", decision(ACTED), LOOP)
    alarms.told("decision", decision(SHADOWED), LOOP)
    alarms.told("fill", np.zeros(1, FILL)[0], LOOP)
    assert lines(log) == [("alert", "whale alerts about position 7"), ("alert", "whale alerts about position 8")]
    assert alarms.ring() and not alarms.recent
    time.sleep(0.21)
    alarms.told("decision", decision(ALERTED), LOOP)
    assert len(lines(log)) == 3 and alarms.ring()
    kept = [(int(row["result"]), int(row["ticket"]), times) for row, times in alarms.decisions.values()]
    assert kept == [(ALERTED, 8, 1), (ACTED, 7, 1), (SHADOWED, 7, 1), (ALERTED, 7, 6)]
    for n in range(100):
        alarms.told("decision", decision(ACTED, ticket=100 + n), LOOP)
    assert len(alarms.decisions) == module.SHOWN


def order(state: str, reason: str = "", decision: str = "r/1/7/whale") -> bytes:
    code = "rule_closed" if state == "done" else "rejected"
    return msgspec.json.encode(Order("BTCUSD", 7, decision, "whale", state, code, reason=reason))


def test_the_first_refusal_of_a_kind_is_an_alarm(log, opened):
    alarms = opened()
    spread = "the spread is {} bps"
    for state, reason in (("refused", spread.format(31.5)), ("refused", spread.format(28.1)), ("refused", "the kill switch is on (KILL)"),
                          ("refused", spread.format(33.0)), ("done", ""), ("refused", spread.format(40.0)), ("failed", "no money")):
        alarms.frame(OUTCOME, order(state, reason), LOOP)
    place = "whale on position 7 BTCUSD"
    assert lines(log) == [
        ("alarm", f"{place}: refused, the spread is 31.5 bps"), ("order", f"{place}: refused, the spread is 28.1 bps"),
        ("alarm", f"{place}: refused, the kill switch is on (KILL)"), ("order", f"{place}: refused, the spread is 33.0 bps"),
        ("order", f"{place}: done"), ("alarm", f"{place}: refused, the spread is 40.0 bps"),
        ("order", f"{place}: failed, no money")], "what failed is alarmed by the gateway"
    assert alarms.orders["r/1/7/whale"].reason == "no money"
    for n in range(1000):
        alarms.frame(OUTCOME, order("done", decision=f"r/{n}/7/whale"), LOOP)
    assert len(alarms.orders) == 4 * module.SHOWN and "r/999/7/whale" in alarms.orders


def test_a_position_closed_by_somebody_else_is_noted_where_a_rule_watched_it(log, opened):
    alarms = opened()
    for code in ("opened", "stop", "stopped", "taken", "closed"):
        alarms.frame(ACCOUNT, msgspec.json.encode(Account("BTCUSD", 7, 1, [Change(code)])), LOOP)
    alarms.frame(ACCOUNT, msgspec.json.encode(Account("BTCUSD", 8, 1, [Change("closed")])), SimpleNamespace(modes={"whale": "off"}))
    alarms.frame(TIMER, b"", LOOP)
    assert lines(log) == [("account", "position 7 BTCUSD was closed by somebody else while rules watched it")]
    assert not alarms.ring()


@pytest.fixture
def journal(tmp_path):
    with JournalWriter(recording_folder(tmp_path, "s"), "s", disk_reserve_bytes=0) as writer:
        yield writer


def test_a_broker_that_cannot_be_reached_for_a_while_is_an_alarm(log, opened, journal, monkeypatch):
    monkeypatch.setattr(module, "PROBLEM_S", 0.15)
    alarms, health = opened(), Health()
    live = SimpleNamespace(health=health, recorder=SimpleNamespace(journal=journal))
    for _ in range(2):
        health.problem = "the terminal has no link to the broker"
        alarms.look(live)
        alarms.look(live)
        assert not alarms.unheard, "a blink is none"
        health.problem = ""
        alarms.look(live)
        time.sleep(0.16)
    health.problem = "the terminal has no link to the broker"
    for _ in range(12):
        alarms.look(live)
        time.sleep(0.02)
    health.problem = ""
    alarms.look(live)
    alarms.look(live)
    text = "the broker cannot be reached: the terminal has no link to the broker; the broker-side stops stay"
    assert lines(log) == [("alarm", text), ("broker", "the broker is reached again")]


def test_a_disk_that_fills_up_is_an_alarm_once(log, opened, journal):
    alarms = opened()
    live = SimpleNamespace(health=Health(), recorder=SimpleNamespace(journal=journal))
    alarms.look(live)
    journal.disk_reserve_bytes = 10**18
    alarms.look(live)
    alarms.look(live)
    journal.disk_reserve_bytes = 0
    alarms.look(live)
    (what, text), after = lines(log)
    assert what == "alarm" and text.endswith("free on the disk; the run stops below 1000000000.0 GB")
    assert after == ("disk", "there is room on the disk again")
