"""The guard: on which streams rules are held, and when they are given back."""

import asyncio
import json
from contextlib import closing
from types import SimpleNamespace

import pytest

from engine import clock
from engine.live.broker import Health
from engine.live.guard import Guard
from engine.live.session import LiveSession
from engine.measure.market_model import MarketConfig
from engine.measure.synthetic import generate
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.watch import Watch
from engine.sim.exchange import Exchange, ExchangeConfig
from engine.sim.faults import Fault
from engine.sources.binance import Endpoint

TRADE, DIFF, BEST, MARK = NAMES = ["btcusdt@trade", "btcusdt@depth@100ms", "btcusdt@bookTicker", "btcusdt@markPrice@1s"]
WALL_MS = 1_795_000_000_000    # our wall clock when the monotonic one is at 0


class Feed:
    """A guard over streams whose frames were pushed `late_s` before they arrive; the venue's clock is `ahead_s` of ours."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.now_s, self.number, self.ahead_s = 100.0, 0, 0.0
        patch.setattr(clock, "monotonic_s", lambda: self.now_s)
        patch.setattr(clock, "now_ns", lambda: round((WALL_MS / 1e3 + self.now_s) * 1e9))
        self.watch, self.health = Watch(NAMES, True), Health()
        self.guard = Guard(self.watch, self.health, ["BTCUSD"], _well_s=self.now_s)
        self.connect()

    def connect(self) -> None:
        for stream in self.watch.streams.values():
            self.watch.connection(stream, self.now_s)

    def push(self, *names: str, late_s: float = 0.1) -> None:
        self.number += 1
        sent = {"E": WALL_MS + round((self.now_s + self.ahead_s - late_s) * 1e3)}
        made = {TRADE: {"t": self.number}, DIFF: {"U": self.number, "u": self.number, "pu": self.number - 1}, BEST: {"u": self.number}}
        for name in names:
            self.watch.judge(json.dumps({"stream": name, "data": made[name] | sent}, separators=(",", ":")).encode(), self.now_s)
        for book in self.watch.books.values():
            book.synced = True

    def passes(self, seconds: float, *names: str, late_s: float = 0.1) -> str:
        """Push a frame of each every 100 ms, and return the reason at the end."""
        for _ in range(round(seconds * 10)):
            self.now_s += 0.1
            self.push(*names, late_s=late_s)
            self.health.looked_s = self.health.quoted_s["BTCUSD"] = self.now_s
        return self.guard.reason()


@pytest.fixture
def feed(monkeypatch) -> Feed:
    return Feed(monkeypatch)


def test_rules_wait_for_a_frame_of_each_folded_stream(feed):
    assert feed.passes(1.0, TRADE, DIFF) == f"{BEST} has not been heard since it connected"
    assert feed.passes(0.1, BEST) == ""        # nobody waits for marks: no rule rests on them


def test_a_stream_that_reconnects_and_delivers_nothing_gives_no_rule_back(feed):
    feed.passes(10.1, TRADE, DIFF, BEST)
    assert feed.guard.look() == ""
    feed.passes(61.0, DIFF, BEST)
    assert [stream.name for stream, _ in feed.watch.silent(feed.now_s) if stream.name != MARK] == [TRADE]
    assert feed.guard.look() == f"{TRADE} is silent"
    feed.connect()
    assert feed.passes(20.0, DIFF, BEST) == f"{TRADE} has not been heard since it connected"
    assert feed.guard.look() is None and feed.guard.held
    feed.passes(0.1, TRADE, DIFF, BEST)
    assert feed.guard.look() is None       # they are given back when all was well for a while
    feed.passes(10.1, TRADE, DIFF, BEST)
    assert feed.guard.look() == ""


@pytest.mark.parametrize("name", [TRADE, DIFF, BEST])
@pytest.mark.parametrize("ahead_s", [0.0, 20.0, -20.0])
def test_a_feed_that_flows_but_is_late_is_stale(feed, name, ahead_s):
    others = [other for other in (TRADE, DIFF, BEST) if other != name]
    feed.ahead_s, feed.watch.offset_ms = ahead_s, ahead_s * 1e3
    assert feed.passes(5.0, TRADE, DIFF, BEST, late_s=2.9) == ""
    feed.passes(2.5, name, late_s=12.3)
    assert feed.passes(0.1, *others) == f"{name} arrives 12.3 s late"
    assert feed.passes(0.1, name) == ""        # one in time is enough


def test_late_frames_hold_nothing_until_none_came_in_time_for_two_seconds(feed):
    feed.watch.offset_ms = 0.0
    assert feed.passes(0.1, TRADE, DIFF, BEST) == "" == feed.passes(1.9, TRADE, DIFF, BEST, late_s=12.0)
    assert "late" in feed.passes(0.2, TRADE, DIFF, BEST, late_s=12.0)


def test_a_reason_that_lasts_is_told_once_also_where_rules_are_held_for_another(feed):
    told = []

    def look(seconds: float, *names: str) -> None:
        for _ in range(round(seconds * 10)):
            feed.passes(0.1, *names)
            told.append((feed.guard.look(), feed.guard.lasting()))
    look(11.0, TRADE, DIFF, BEST)
    feed.watch.streams[TRADE].silent = True
    look(6.0, DIFF, BEST)
    feed.guard.max_quote_age_s = -1.0          # the broker's quotes go too
    feed.watch.streams[TRADE].silent = False
    look(4.0, TRADE, DIFF, BEST)
    assert [why for why in told if any(why)] == [(f"{TRADE} is silent", "")], "told when they were held; four seconds are short"
    look(20.0, TRADE, DIFF, BEST)
    assert [last for _, last in told if last] == ["no new quote of BTCUSD for -1 s"] and feed.guard.held
    feed.guard.max_quote_age_s = 5.0
    look(11.0, TRADE, DIFF, BEST)
    assert told[-1] == (None, "") and feed.guard.held == ""


@pytest.mark.parametrize("offset_ms, words", [(61e3, "61 s behind the venue's"), (-3600e3, "3600 s ahead of the venue's"),
                                              (-72_484_046e3, "72484046 s ahead of the venue's")])
def test_a_clock_that_is_wrong_holds_the_rules(feed, offset_ms, words):
    feed.watch.offset_ms, feed.ahead_s = offset_ms, offset_ms / 1e3
    assert feed.passes(5.0, TRADE, DIFF, BEST) == f"this machine's clock is {words}"


def test_a_decision_on_late_frames_is_refused_before_the_guard_has_looked_again(feed):
    """A process that stood still reads what has piled up in one go."""
    feed.watch.offset_ms, handed = 0.0, []
    feed.passes(11.0, TRADE, DIFF, BEST)
    session = SimpleNamespace(guard=feed.guard, trader=SimpleNamespace(submit=lambda *given: handed.append(given)))
    assert feed.guard.look() == "" == feed.guard.held
    LiveSession._act(session, "well")
    feed.now_s += 4.9
    feed.push(DIFF, late_s=4.8)
    LiveSession._act(session, "late")
    assert handed == [("well", ""), ("late", f"{DIFF} arrives 4.8 s late")] and feed.guard.held == ""


def test_what_is_held_or_switched_back_is_not_sent_again(feed):
    session = SimpleNamespace(guard=feed.guard, loop=SimpleNamespace(modes={"whale": "act", "void": "shadow"}))
    whale, void = SimpleNamespace(rule="whale"), SimpleNamespace(rule="void")
    assert LiveSession._may_send(session, whale) == "the rules are held: the feeds are not up yet"
    feed.guard.held = ""
    assert (LiveSession._may_send(session, whale), LiveSession._may_send(session, void)) == ("", "the mode of void is shadow now")


@pytest.mark.parametrize("offset_ms", [None, 61e3, -72_484_046_357.0])
def test_a_clock_that_is_unknown_or_of_another_time_tells_nothing_of_lateness(feed, offset_ms):
    feed.guard.tape = True
    feed.watch.offset_ms, feed.ahead_s = offset_ms, (offset_ms or 0.0) / 1e3
    assert feed.passes(5.0, TRADE, DIFF, BEST, late_s=30.0) == ""


def test_a_stream_whose_frames_bear_no_time_is_never_late(feed):
    feed.watch.offset_ms = 0.0
    feed.passes(1.0, TRADE, DIFF)
    feed.watch.judge(b'{"stream":"btcusdt@bookTicker","data":{"u":7,"s":"BTCUSDT"}}', feed.now_s)      # of spot
    assert feed.guard.reason() == ""


def test_lateness_is_not_carried_over_a_new_connection(feed):
    feed.watch.offset_ms = 0.0
    assert "late" in feed.passes(3.0, TRADE, DIFF, BEST, late_s=30.0)
    feed.connect()
    assert feed.guard.reason() == f"{TRADE} has not been heard since it connected"
    assert feed.passes(0.1, TRADE, DIFF, BEST) == ""


def test_a_slow_socket_is_found_late_by_the_clock_the_recorder_measured(tmp_path):
    capture = generate(MarketConfig(seed=3, duration_s=20.0), tmp_path / "m").capture
    slow = Fault(4.0, "slow_consumer", for_s=15.0, per_s=10.0)

    async def work() -> str:
        async with Exchange(ExchangeConfig([capture], restamp=True, start="now", faults=[slow])) as exchange:
            endpoint = Endpoint(exchange.tape.venue, exchange.ws_url, exchange.rest_url)
            with closing(open_journal(tmp_path, "r", disk_reserve_bytes=0)) as journal:
                recorder = Recorder(Options(endpoint, ["BTCUSDT"]), journal)
                guard = Guard(recorder.watch, Health(), [], max_lag_s=1.0)
                task = asyncio.create_task(recorder.run())
                for wanted in ("the account was not read", "s late"):      # of the feeds all is well, then they are late
                    while wanted not in guard.reason() and not (exchange.finished.is_set() or task.done()):
                        await asyncio.sleep(0.02)
                    found = guard.reason()
                    assert wanted in found
                recorder.stop()
                await task
        return found

    assert asyncio.run(work()).startswith("btcusdt@")
