"""The thread that trades: what it refuses is told to the recorder as well, and it ends with what is under way."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest

from engine.gateway.client import DirectLink
from engine.gateway.intents import IntentJournal
from engine.gateway.mt5 import Gateway
from engine.gateway.mt5_worker import Desk, Intents
from engine.gateway.orders import Exit, Limits
from engine.gateway.server_clock import ServerClock
from engine.gateway.terminal_config import WallClock, build
from engine.gateway.view import Unreadable
from engine.instruments import Instrument
from engine.kernel.records import CLOSE, PARTIAL
from engine.live import broker
from engine.live.broker import Health, Quotes, Trader
from engine.record.frames import BrokerQuote, Marker
from engine.record.own import Account, Order
from engine.record.segment import ACCOUNT, CONTROL, OUTCOME, QUOTE
from gateways import Killed, dying

BTC = Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2)
S = 10**9


class Desk4:
    """Four long positions of 1 lot at a terminal in this process, and a trader over it that has not begun."""

    def __init__(self, **limits):
        self.terminal = build({"symbols": [{"name": "BTCUSD"}], "quotes": [["BTCUSD", 6_000_000, 6_000_100]],
                               "walk": {"seed": 1, "symbol": "BTCUSD", "bid": 6_000_000, "spread": 100, "every_ms": 50, "step": 20}})
        self.held = [self.terminal.book.by_hand("BTCUSD", 0, 1.0) for _ in range(4)]
        self.link = DirectLink(Desk(self.terminal.module, Intents(None)))
        self.link.restart()
        self.limits = replace(Limits(frozenset({5001}), frozenset({"BTCUSD"}), settle_s=0.5), **limits)
        self.journal, self.alarms = IntentJournal(), []
        self.made()

    def made(self) -> None:
        """Make the trader anew, as a start of the program does."""
        self.told: list[tuple[int, bytes]] = []
        gateway = Gateway(self.link, self.limits, self.journal, WallClock(), {"BTCUSD": BTC}, server=ServerClock(), alarm=self.alarms.append)
        self.trader = Trader(self.link, gateway, {"BTCUSD": BTC}, lambda kind, payload: self.told.append((kind, payload)), Health())

    def exit(self, number: int, action: int = CLOSE, name: str = "", age_s: float = 0.0, **more) -> Exit:
        return Exit(name or f"d{number}", action, self.held[number].identifier, "BTCUSD", 1,
                    decided_ns=WallClock().now_ns() - round(age_s * S), **more)

    def ended(self) -> dict[str, Order]:
        """Return the outcomes that were told, by decision."""
        found = [msgspec.json.decode(payload, type=Order) for kind, payload in list(self.told) if kind == OUTCOME]
        assert len({order.decision for order in found}) == len(found), "told once"
        return {order.decision: order for order in found}

    def account(self) -> list[Account]:
        return [msgspec.json.decode(payload, type=Account) for kind, payload in list(self.told) if kind == ACCOUNT]

    def until(self, found: Callable[[], object], seconds: float = 20.0):
        end_s = time.monotonic() + seconds
        while not (value := found()):
            assert time.monotonic() < end_s and not self.trader.health.ended, self.trader.health
            time.sleep(0.01)
        return value


@pytest.fixture
def desk() -> Iterator[Desk4]:
    made = Desk4()
    yield made
    if made.trader.ident is not None:
        made.trader.stop()
        made.trader.join(30)
        assert not made.trader.is_alive() and not made.trader.health.ended, made.trader.health.ended


def test_an_old_decision_is_refused_and_its_outcome_is_told(desk):
    desk.trader.start()
    desk.trader.submit(desk.exit(0, age_s=61))
    order = desk.until(desk.ended)["d0"]
    assert (order.code, order.state, order.sends) == ("rejected", "refused", 0) and "the decision is 61 s old" in order.reason
    assert desk.terminal.log == []


def test_a_decision_handed_over_to_be_refused_is_told_with_the_reason(desk):
    desk.trader.start()
    desk.trader.submit(desk.exit(0), "held: no new quote")
    order = desk.until(desk.ended)["d0"]
    assert (order.code, order.state, order.sends, order.reason) == ("rejected", "refused", 0, "held: no new quote")
    assert desk.terminal.log == [] and not desk.trader.asked


def test_what_was_not_begun_when_it_is_told_to_stop_is_refused_and_told(desk):
    desk.terminal.faults.add({"do": "placed", "delay_ms": 1500})
    desk.trader.start()
    desk.trader.submit(desk.exit(0))
    desk.until(lambda: desk.terminal.log)
    desk.trader.submit(desk.exit(1))
    desk.trader.stop()
    desk.trader.submit(desk.exit(2))
    desk.trader.submit(desk.exit(3))
    desk.trader.join(30)
    assert not desk.trader.is_alive()
    assert {name: order.state for name, order in desk.ended().items()} == {"d0": "done", "d1": "refused", "d2": "refused", "d3": "refused"}
    assert {order.reason for name, order in desk.ended().items() if name != "d0"} == {"the run ends"} and len(desk.terminal.log) == 1


def test_a_new_position_is_told_once_where_the_deals_of_another_cannot_be_read(desk):
    desk.trader.look()
    desk.terminal.book.server_close(desk.held[0], 4, "[sl]")
    desk.trader.look()
    new = desk.terminal.book.by_hand("BTCUSD", 0, 0.5)
    desk.terminal.faults.add({"do": "failed", "code": -1, "call": "history_deals_get"})
    with pytest.raises(Unreadable):
        desk.trader.look()
    for _ in range(3):
        desk.trader.look()
    told = [(account.ticket, account.changes[0].code) for account in desk.account()[4:]]
    assert sorted(told) == sorted([(new.identifier, "opened"), (desk.held[0].identifier, "stopped")])


def left_behind(desk: Desk4, executed: bool = True) -> None:
    """Let a run be killed in the middle of a reduction, and another begin."""
    with dying(desk.link, executed), pytest.raises(Killed):
        desk.trader.gateway.act(desk.exit(0, PARTIAL, "earlier", volume_left=60))
    desk.made()


def test_what_a_killed_run_began_is_found_out_before_it_ends(desk):
    left_behind(desk, executed=False)
    desk.trader.start()
    desk.until(lambda: desk.trader.gateway.recovery.running)
    desk.trader.stop()
    desk.trader.join(30)
    assert desk.journal.known("earlier")["end"]["outcome"]["state"] == "failed" and len(desk.journal.unfinished()) == 0


def test_what_a_killed_run_began_is_found_out_between_other_actions_once_the_broker_is_there(desk, monkeypatch):
    monkeypatch.setattr(broker, "RESUME_S", 0.3)
    left_behind(desk)
    desk.terminal.faults.add({"do": "disconnect", "for_ms": 2500, "call": "terminal_info"})
    desk.trader.start()
    desk.trader.submit(desk.exit(0))
    order = desk.until(desk.ended)["d0"]
    assert (order.code, order.state) == ("rejected", "refused") and "not reconciled" in order.reason
    assert len(desk.journal.unfinished()) == 1 and len(desk.terminal.log) == 1
    desk.until(lambda: not desk.journal.unfinished())
    assert desk.journal.known("earlier")["end"]["outcome"]["state"] == "done" and len(desk.terminal.log) == 1
    desk.trader.submit(desk.exit(0, name="later"))
    assert desk.until(lambda: desk.ended().get("later")).state == "done"


def test_the_quotes_thread_delivers_none_of_another_account_and_goes_on_once_ours_is_back():
    terminal = build({"symbols": [{"name": "BTCUSD"}], "accounts": [{}, {"login": 6001}],
                      "quotes": [["BTCUSD", 6_000_000, 6_000_100]]})
    link, told, health = DirectLink(Desk(terminal.module, Intents(None))), [], Health()
    quotes = Quotes(link, ["BTCUSD"], WallClock(), lambda kind, payload: told.append((kind, payload)), health, (5001, "Simulated-Demo"))

    def seen(kind, struct):
        return [msgspec.json.decode(payload, type=struct) for k, payload in list(told) if k == kind]

    def until(found):
        end_s = time.monotonic() + 20
        while not found():
            assert time.monotonic() < end_s and not health.ended, (told, health)
            with terminal.lock:
                for login, bid in ((5001, 6_000_000), (6001, 7_000_000)):
                    terminal.servers[login].book.push(WallClock().now_ns(), "BTCUSD", bid, bid + 100)
            time.sleep(0.02)
    quotes.start()
    try:
        until(lambda: len(seen(QUOTE, BrokerQuote)) > 3)
        terminal.login = 6001
        until(lambda: "lost" in [marker.code for marker in seen(CONTROL, Marker)])
        had = len(seen(QUOTE, BrokerQuote))
        end_s = time.monotonic() + 0.5
        until(lambda: time.monotonic() > end_s)
        assert len(seen(QUOTE, BrokerQuote)) == had and "6***1" in health.quotes_problem
        terminal.login = 5001
        until(lambda: len(seen(QUOTE, BrokerQuote)) > had + 3)
    finally:
        quotes.stop()
        quotes.join(10)
    assert [marker.code for marker in seen(CONTROL, Marker)] == ["connected", "lost", "connected"] and not health.quotes_problem
    assert {quote.bid for quote in seen(QUOTE, BrokerQuote)} == {"60000.00"}
