"""Quotes of the terminal reach the recorder once each, in order, in UTC once the server's clock is known."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import SourceFailed
from engine.gateway.client import DirectLink
from engine.gateway.mt5_worker import Desk, Intents
from engine.gateway.terminal import SimulatedTerminal, VirtualClock
from engine.gateway.terminal_books import Book, Spec
from engine.gateway.terminal_faults import Faults
from engine.record.frames import BrokerQuote, Marker
from engine.sources import mt5 as source
from engine.sources.mt5 import Mt5Quotes, fresh_rows


class Feed:
    """A terminal with a seeded walk, several ticks of it in one millisecond, and the list of what it quoted."""

    def __init__(self, seed: int = 1, script: list | None = None, begin_ns: int = 1_760_000_000 * 10**9):
        self.clock, self.told = VirtualClock(begin_ns), []
        self.book, self.other = (Book([Spec("BTCUSD"), Spec("XAUUSD", digits=3)], login=login) for login in (5001, 6001))
        self.terminal = SimulatedTerminal([self.book, self.other], self.clock, faults=Faults(script or []), feed=self._rows(seed))
        self.link = DirectLink(Desk(self.terminal.module, Intents(None)))
        self.link.restart()

    def _rows(self, seed):
        dice, now_ns, bid = random.Random(seed), self.clock.now_ns(), 6_000_000
        while True:
            row = now_ns, dice.choice(["BTCUSD", "XAUUSD"]), bid, bid + dice.randint(1, 99)
            if now_ns > self.begun_ns:
                self.told.append(row)
            yield row
            bid += dice.randint(-9, 9)
            now_ns += dice.choice([0, 0, 400_000, 50 * 10**6, 700 * 10**6])

    begun_ns = 1_760_000_000 * 10**9

    def elsewhere(self) -> None:
        """Let the other account be quoted a price of its own."""
        self.other.push(self.clock.now_ns(), "BTCUSD", 7_000_000, 7_000_100)


def test_every_quote_once_in_order_and_in_utc():
    feed = Feed()
    quotes, found = Mt5Quotes(feed.link, ["BTCUSD", "XAUUSD"], feed.clock), []
    for _ in range(600):
        feed.clock.sleep_s(0.05)
        found += quotes.poll()
    assert quotes.offset_s == 3 * 3600
    for symbol, digits in (("BTCUSD", 2), ("XAUUSD", 3)):
        told = [(f"{bid / 10**digits:.{digits}f}", f"{ask / 10**digits:.{digits}f}") for ns, name, bid, ask in feed.told
                if name == symbol and ns <= feed.clock.now_ns()]
        seen = [(quote.bid, quote.ask) for quote in found if quote.symbol == symbol]
        assert seen[-len(told):] == told and len(seen) - len(told) <= 30, "only what was quoted at the start may come besides"
    late = [quote for quote in found if quote.event_ns is not None]
    assert len(late) > len(found) * 0.8 and all(0 <= feed.clock.now_ns() - quote.event_ns < 31 * 10**9 for quote in late)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), max_size=60), st.lists(st.integers(1, 60), max_size=8))
def test_asking_again_from_the_whole_second_drops_what_was_taken(steps, cuts):
    """Against the naive way: number the ticks, and take each number once."""
    msc, ticks = 1_000_000, []
    for step, price in steps:
        msc += step * 300
        ticks.append((msc, float(price), price + 1.0))
    last, taken, seen = 999_999, 0, []
    for end in sorted({*cuts, len(ticks)}):
        shown = [tick for tick in ticks[:end] if tick[0] // 1000 >= last // 1000]
        rows = dict(zip(("time_msc", "bid", "ask"), zip(*shown))) if shown else {"time_msc": [], "bid": [], "ask": []}
        fresh, last, taken = fresh_rows(rows, last, taken)
        seen += fresh
    assert seen == ticks


def test_more_ticks_than_a_page_are_all_taken(monkeypatch):
    monkeypatch.setattr(source, "PAGE", 40)
    feed = Feed(2)
    quotes = Mt5Quotes(feed.link, ["BTCUSD"], feed.clock)
    quotes.poll()
    feed.clock.sleep_s(60.0)
    found = quotes.poll()
    told = [row for row in feed.told if row[1] == "BTCUSD" and row[0] <= feed.clock.now_ns()]
    assert len(told) > 80 and len(found) >= len(told) - 1


def test_a_lost_link_is_told_once_and_nothing_is_missed():
    feed = Feed(3, [{"do": "lost", "call": "copy_ticks_from", "skip": 20}] + [{"do": "failed", "code": -1, "call": "copy_ticks_from"}] * 3)
    quotes, found = Mt5Quotes(feed.link, ["BTCUSD"], feed.clock), []
    for _ in range(200):
        feed.clock.sleep_s(0.1)
        found += quotes.poll()
    assert [each.code for each in found if isinstance(each, Marker)][:4].count("lost") >= 1
    told = [f"{bid / 100:.2f}" for ns, name, bid, ask in feed.told if name == "BTCUSD" and ns <= feed.clock.now_ns()]
    assert [each.bid for each in found if isinstance(each, BrokerQuote)][-len(told):] == told
    codes = [each.code for each in found if isinstance(each, Marker)]
    assert codes == ["lost", "connected"] * (len(codes) // 2)


def test_the_offset_follows_a_change_of_the_hour():
    begin_ns = 1_762_063_000 * 10**9               # 2025-11-02 05:56 UTC; New York falls back at 06:00
    feed = Feed(4, begin_ns=begin_ns)
    quotes, seen = Mt5Quotes(feed.link, ["BTCUSD"], feed.clock), []
    assert not seen
    got = []
    for _ in range(800):
        feed.clock.sleep_s(0.5)
        got.append(len(quotes.poll()))
        seen.append(quotes.offset_s)
    assert seen[100] == 3 * 3600 and seen[-1] == 2 * 3600 and set(seen) <= {None, 3 * 3600, 2 * 3600}
    assert all(sum(got[i:i + 20]) for i in range(0, 780, 20)), "quotes go on through the hour that comes twice"
    feed.clock.sleep_s(3600.0)
    quotes.poll()
    feed.clock.sleep_s(1.0)
    assert quotes.poll() and not quotes.cursors[0].shown


def test_an_unknown_symbol_is_one_sentence():
    with pytest.raises(SourceFailed, match="NONE"):
        Mt5Quotes(Feed().link, ["NONE"], VirtualClock())


class Unquoted:
    """A link at which the newest tick is all zeros for some looks, as right after a symbol was selected: its history is there."""

    def __init__(self, link, looks: int = 0):
        self.link, self.looks, self.pages = link, looks, 0

    def ask(self, message: dict) -> dict:
        reply = self.link.ask(message)
        self.pages += message["call"] == "copy_ticks_from"
        if message["call"] == "symbol_info_tick" and self.looks:
            self.looks -= 1
            return {**reply, "result": dict.fromkeys(reply["result"], 0)}
        return reply


@pytest.mark.parametrize("looks", [1, 2, 5])
def test_a_symbol_without_a_tick_yet_does_not_bring_its_whole_history(looks):
    feed = Feed(8)
    feed.clock.sleep_s(600.0)
    link, found = Unquoted(feed.link, looks), []
    quotes = Mt5Quotes(link, ["BTCUSD"], feed.clock)
    while link.looks:
        assert quotes.poll() == [] and link.pages == 0
        feed.clock.sleep_s(0.5)
    begun_ns = feed.clock.now_ns()
    for _ in range(20):
        found += quotes.poll()
        feed.clock.sleep_s(0.5)
    told = [(ns, f"{bid / 100:.2f}") for ns, name, bid, _ in feed.told if name == "BTCUSD" and ns <= feed.clock.now_ns()]
    first_ms = max(ns for ns, _ in told if ns <= begun_ns) // 10**6
    assert [each.bid for each in found] == [bid for ns, bid in told if ns // 10**6 >= first_ms][:len(found)] and 5 < len(found) < 100


def test_a_tick_of_zeros_later_on_is_no_quote():
    feed = Feed(9)
    link = Unquoted(feed.link)
    quotes = Mt5Quotes(link, ["BTCUSD"], feed.clock)
    for _ in range(20):
        feed.clock.sleep_s(0.5)
        quotes.poll()
    feed.clock.sleep_s(10.0)
    link.looks = 1
    found = quotes.poll()
    assert not link.looks and len(found) > 5 and all(each.bid and each.ask for each in found) and not quotes.cursors[0].shown


OURS = 5001, "Simulated-Demo"


def after(feed: Feed, quotes: Mt5Quotes, polls: int = 5) -> tuple[list[BrokerQuote], list[Marker]]:
    """Poll some times while the other account has quotes of its own."""
    found = []
    for _ in range(polls):
        feed.clock.sleep_s(0.5)
        feed.elsewhere()
        found += quotes.poll()
    return [each for each in found if isinstance(each, BrokerQuote)], [each for each in found if isinstance(each, Marker)]


def test_quotes_of_another_account_are_not_delivered_and_those_of_ours_go_on_once_it_is_back():
    feed = Feed(5)
    quotes = Mt5Quotes(feed.link, ["BTCUSD"], feed.clock, account=OURS)
    assert after(feed, quotes)[0]
    away = len(feed.told)
    feed.terminal.login = 6001
    found, markers = after(feed, quotes)
    assert not found and [(each.code, each.stream) for each in markers] == [("lost", "quotes")]
    assert "6***1 on Simulated-Demo is logged in" in markers[0].detail
    feed.terminal.login = 5001
    found, markers = after(feed, quotes)
    assert [each.code for each in markers] == ["connected"]
    told = [f"{bid / 100:.2f}" for ns, name, bid, ask in feed.told[away:] if name == "BTCUSD" and ns <= feed.clock.now_ns()]
    assert told and [each.bid for each in found][-len(told):] == told, "what was quoted to ours meanwhile is not missing"


@pytest.mark.parametrize("call", ["account_info", "copy_ticks_from", "symbol_info_tick"])
@pytest.mark.parametrize("skip", [0, 1])
def test_an_account_that_changes_while_quotes_are_read_is_seen(call, skip):
    feed = Feed(6)
    quotes = Mt5Quotes(feed.link, ["BTCUSD"], feed.clock, account=OURS)
    after(feed, quotes)
    feed.clock.sleep_s(10.0)                       # so long without a quote that the last tick is asked for as well
    feed.terminal.faults.add({"do": "account", "login": 6001, "call": call, "skip": skip * (call != "symbol_info_tick")})
    found, markers = after(feed, quotes)
    assert [each.code for each in markers] == ["lost"]
    feed.terminal.login = 5001
    again, markers = after(feed, quotes)
    assert [each.code for each in markers] == ["connected"] and again
    assert "70000.00" not in {each.bid for each in found + again}


@pytest.mark.parametrize("account", [(6001, "Simulated-Demo"), (5001, "Simulated-Real")])
def test_quotes_do_not_begin_at_another_account_or_server(account):
    feed = Feed(7)
    with pytest.raises(SourceFailed, match="is logged in, not the account of this run"):
        Mt5Quotes(feed.link, ["BTCUSD"], feed.clock, account=account)
