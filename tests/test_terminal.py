"""The simulated broker: books, levels, stop-out, faults, clock, and a state that outlives its process."""

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from terminals import served

from engine.errors import BadInput
from engine.gateway.server_clock import ServerClock, detect_offset_s
from engine.gateway.terminal import SimulatedTerminal, VirtualClock
from engine.gateway.terminal_books import HEDGING, NETTING, Book, Spec
from engine.gateway.terminal_config import build
from engine.gateway.terminal_faults import KINDS, Faults

BID, ASK = 6_000_000, 6_000_100


class Desk:
    """A terminal with one symbol, and shorthand for what tests do."""

    def __init__(self, mode: int = HEDGING, script: list | None = None, reverses: bool = True, **spec):
        self.clock = VirtualClock()
        self.book = Book([Spec("BTCUSD", commission_per_lot=7.0, **spec)], mode=mode, netting_reverses=reverses)
        self.other = Book([Spec("BTCUSD")], login=6001)
        self.terminal = SimulatedTerminal([self.book, self.other], self.clock, faults=Faults(script or []))
        self.mt5 = self.terminal.module
        self.mt5.initialize()
        self.push(BID, ASK)

    def push(self, bid: int, ask: int) -> None:
        self.book.push(self.clock.now_ns(), "BTCUSD", bid, ask)

    def close(self, ticket: int, volume: float, side: int = 1, **more):
        return self.mt5.order_send({"action": 1, "position": ticket, "symbol": "BTCUSD", "volume": volume, "type": side,
                                    "type_filling": 1, "price": 60_000.0 if side else 60_001.0, **more})

    def levels(self, ticket: int, sl: float, tp: float = 0.0):
        return self.mt5.order_send({"action": 6, "position": ticket, "symbol": "BTCUSD", "sl": sl, "tp": tp})


def test_order_deal_and_position_are_linked():
    desk = Desk()
    held = desk.book.by_hand("BTCUSD", 0, 1.0)
    done = desk.close(held.ticket, 0.4, comment="tg", magic=9)
    deal, order = desk.mt5.history_deals_get(ticket=done.deal)[0], desk.mt5.history_orders_get(ticket=done.order)[0]
    assert (deal.order, deal.position_id, deal.entry, deal.reason, deal.type) == (done.order, held.identifier, 1, 3, 1)
    assert (order.position_id, order.state, order.magic, order.volume_current) == (held.identifier, desk.mt5.ORDER_STATE_FILLED, 9, 0.0)
    assert (deal.price, deal.profit, deal.commission, deal.comment) == (60_000.0, -0.4, -2.8, "tg")
    assert desk.mt5.positions_get(ticket=held.ticket)[0].volume == 0.6
    assert desk.mt5.account_info().balance == pytest.approx(100_000 - 7 - 2.8 - 0.4)


def test_on_a_hedging_account_a_deal_without_a_ticket_opens_another():
    desk = Desk()
    desk.book.by_hand("BTCUSD", 0, 1.0)
    desk.close(0, 1.0)
    assert sorted(row.type for row in desk.mt5.positions_get()) == [0, 1]


@pytest.mark.parametrize("reverses, entry, retcode", [(True, 2, 10009), (False, None, 10038)])
def test_on_a_netting_account_an_oversized_deal_reverses_where_the_broker_lets_it(reverses, entry, retcode):
    desk = Desk(NETTING, reverses=reverses)
    held = desk.book.by_hand("BTCUSD", 0, 1.0, sl=59_000.0)
    desk.book.by_hand("BTCUSD", 0, 1.0)
    assert desk.mt5.positions_get()[0].volume == 2.0 and desk.mt5.positions_total() == 1
    done = desk.close(held.ticket, 3.0)
    assert done.retcode == retcode
    if entry:
        row = desk.mt5.positions_get()[0]
        assert desk.mt5.history_deals_get(ticket=done.deal)[0].entry == entry
        assert (row.type, row.volume, row.identifier) == (1, 1.0, held.identifier) and row.ticket != held.identifier


@pytest.mark.parametrize("side, sl, tp, near, bid, reason, price", [
    (0, 59_990.0, 0.0, (5_999_001, 6_500_000), 5_998_900, 4, 59_989.0),       # bid above it, whatever the ask
    (0, 0.0, 60_010.0, (6_000_999, 6_500_000), 6_001_000, 5, 60_010.0),
    (1, 60_010.0, 0.0, (5_500_000, 6_000_999), 6_000_900, 4, 60_010.0),       # ask below it, whatever the bid
    (1, 0.0, 59_990.0, (5_500_000, 5_999_001), 5_998_800, 5, 59_989.0)])
def test_levels_are_hit_by_the_side_that_closes(side, sl, tp, near, bid, reason, price):
    desk = Desk()
    held = desk.book.by_hand("BTCUSD", side, 1.0, sl=sl, tp=tp)
    desk.push(*near)
    assert desk.mt5.positions_total() == 1
    desk.push(bid, bid + 100)
    assert desk.mt5.positions_get() == ()
    deal = desk.mt5.history_deals_get(position=held.identifier)[-1]
    assert (deal.reason, deal.entry, deal.price) == (reason, 1, price) and deal.comment.startswith(("[sl", "[tp"))


def test_the_worst_position_is_stopped_out():
    desk = Desk()
    desk.book.balance = 1000.0
    small, large = desk.book.by_hand("BTCUSD", 0, 0.1), desk.book.by_hand("BTCUSD", 0, 1.0)
    desk.push(BID - 65_000, ASK - 65_000)
    assert list(desk.book.positions) == [small.ticket]
    deal = desk.mt5.history_deals_get(position=large.identifier)[-1]
    assert deal.reason == 6 and deal.comment.startswith("[so")


@pytest.mark.parametrize("spec, request_, retcode", [
    ({}, {"volume": 0.005}, 10014), ({}, {"volume": 1.5}, 10038), ({}, {"type_filling": 2}, 10030), ({"filling_mode": 1}, {}, 10030),
    ({"exemode": 3, "filling_mode": 1}, {"type_filling": 2}, 10009), ({"exemode": 1}, {"price": 59_000.0}, 10004),
    ({"exemode": 1}, {"price": 0.0}, 10015), ({"trade_mode": 0}, {}, 10017), ({"trade_mode": 3}, {}, 10009),
    ({"freeze_level": 100_000}, {}, 10029), ({}, {"ticket": 1}, 10036), ({}, {"side": 0}, 10013), ({}, {"symbol": "NONE"}, 10013)])
def test_a_deal_is_checked(spec, request_, retcode):
    desk = Desk(**spec)
    held = desk.book.by_hand("BTCUSD", 0, 1.0, sl=59_900.0)
    request = {"ticket": held.ticket, "volume": 1.0} | request_
    assert desk.close(**request).retcode == retcode


@pytest.mark.parametrize("sl, tp, retcode", [(59_950.0, 61_000.0, 10009), (59_900.0, 61_000.0, 10025), (59_999.5, 61_000.0, 10016),
                                             (60_500.0, 61_000.0, 10016), (59_950.0, 60_000.2, 10016), (59_950.02, 61_000.0, 10016)])
def test_levels_are_checked(sl, tp, retcode):
    desk = Desk(stops_level=100, tick_points=5)
    held = desk.book.by_hand("BTCUSD", 0, 1.0, sl=59_900.0, tp=61_000.0)
    assert desk.levels(held.ticket, sl, tp).retcode == retcode


def test_a_missing_take_profit_is_deleted():
    desk = Desk()
    held = desk.book.by_hand("BTCUSD", 0, 1.0, sl=59_900.0, tp=61_000.0)
    assert desk.mt5.order_send({"action": 6, "position": held.ticket, "symbol": "BTCUSD", "sl": 59_950.0}).retcode == 10009
    assert desk.mt5.positions_get()[0].tp == 0.0


FAULTS = {
    "retcode": ({"code": 10004}, 10004, 1.0), "partial": ({"share": 0.5}, 10010, 0.5), "placed": ({"delay_ms": 300}, 10008, 0.0),
    "unknown": ({"code": 10012, "executed": True}, 10012, 0.0), "lost": ({"executed": True}, -10002, 0.0),
    "unsent": ({"executed": False}, -10001, 1.0), "failed": ({"code": -1}, -1, 1.0), "disconnect": ({"for_ms": 900}, 10031, 1.0),
    "restart": ({}, -10002, 1.0), "account": ({"login": 6001}, 10021, 1.0), "algo_off": ({"for_ms": 900}, 10027, 1.0),
    "closed": ({"for_ms": 900}, 10018, 1.0), "latency": ({"ms": 700}, 10009, 0.0),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_does_what_it_says(kind):
    fault_is_done(Desk(script=[{"do": kind, **FAULTS[kind][0]}]), kind)


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_does_the_same_over_a_socket(kind, tmp_path):
    desk = Desk(script=[{"do": kind, **FAULTS[kind][0]}])
    with served(desk.terminal, tmp_path) as desk.mt5:
        assert desk.mt5.initialize()
        fault_is_done(desk, kind)


def fault_is_done(desk: Desk, kind: str) -> None:
    _, answer, left = FAULTS[kind]
    held = desk.book.by_hand("BTCUSD", 0, 1.0)
    begun_ns = desk.clock.now_ns()
    done = desk.close(held.ticket, 1.0)
    assert (done.retcode if done else desk.mt5.last_error()[0]) == answer
    if kind == "disconnect":
        assert desk.mt5.positions_get() == () and not desk.mt5.terminal_info().connected
    if kind in ("lost", "unsent", "restart"):
        assert desk.mt5.positions_get() is None and desk.mt5.last_error() == (-10004, "No IPC connection") and desk.mt5.initialize()
    if kind == "placed":
        assert desk.mt5.orders_get()[0].ticket == done.order and desk.close(held.ticket, 1.0).retcode == 10039
    if kind == "account":
        assert desk.mt5.account_info().login == 6001 and desk.mt5.initialize(login=5001)
    if kind == "latency":
        assert desk.clock.now_ns() - begun_ns == 700 * 10**6
    desk.clock.sleep_s(1.0)
    assert [row.volume for row in desk.mt5.positions_get()] == ([left] if left else [])


def test_every_fault_is_tried_here():
    assert set(KINDS) - set(FAULTS) == {"block"}, "a call that never returns is tried with the worker process"


def test_an_unknown_answer_may_be_executed_late_and_unseen():
    desk = Desk(script=[{"do": "unknown", "code": 10012, "executed": True, "delay_ms": 500, "hidden_ms": 200}])
    held = desk.book.by_hand("BTCUSD", 0, 1.0)
    assert desk.close(held.ticket, 1.0).retcode == 10012 and desk.mt5.orders_get() == ()
    desk.clock.sleep_s(0.3)
    assert len(desk.mt5.orders_get()) == 1 and desk.mt5.positions_total() == 1
    desk.clock.sleep_s(0.3)
    assert desk.mt5.orders_get() == () and desk.mt5.positions_total() == 0


def test_a_comment_may_be_rewritten():
    desk = Desk()
    desk.terminal.server.rewrite_comment = "broker"
    held = desk.book.by_hand("BTCUSD", 0, 1.0)
    assert desk.mt5.history_deals_get(ticket=desk.close(held.ticket, 1.0, comment="mine").deal)[0].comment == "broker"


def test_the_same_seed_gives_the_same_faults():
    def drawn(seed):
        faults = Faults([], {"retcode": 0.3, "lost": 0.3}, seed)
        return [faults.take("order_send") for _ in range(50)]
    assert drawn(3) == drawn(3) != drawn(4)
    with pytest.raises(BadInput, match="did you mean 'partial'"):
        Faults([{"do": "partail"}])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_the_server_clock_is_new_york_plus_seven_hours(utc_s):
    new_york = datetime.fromtimestamp(utc_s + 37 * 365 * 86_400, timezone.utc)
    if not 2007 <= new_york.year < 2037:
        return
    expected = new_york.astimezone(ZoneInfo("America/New_York")).utcoffset().total_seconds() + 7 * 3600
    assert ServerClock().offset_s(int(new_york.timestamp())) == expected


@pytest.mark.parametrize("rule, zone, hours", [("new_york+7", "America/New_York", 7), ("eu+2", "Europe/Athens", 0)])
@pytest.mark.parametrize("year", [2023, 2024, 2025, 2026])
def test_the_hours_around_each_switch(rule, zone, hours, year):
    clock = ServerClock(rule)
    for day in range(365):
        utc = datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() + day * 86_400
        for second in range(0, 86_400, 3600):
            at = int(utc) + second
            expected = datetime.fromtimestamp(at, ZoneInfo(zone)).utcoffset().total_seconds() + hours * 3600
            assert clock.offset_s(at) == expected
        assert clock.utc_ns(clock.server_msc(at * 10**9)) == at * 10**9


def test_the_offset_is_found_or_not_claimed():
    now_ns = 1_760_000_000 * 10**9
    three = [(now_ns // 10**6 + 3 * 3_600_000 - ms, now_ns) for ms in (5, 400, 2_000)]
    assert detect_offset_s(three) == 3 * 3600
    assert detect_offset_s([*three, (now_ns // 10**6 + 3 * 3_600_000 - 120_000, now_ns)]) is None, "stale by two minutes"
    assert detect_offset_s([*three, (now_ns // 10**6 + 2 * 3_600_000, now_ns)]) is None and detect_offset_s([]) is None


def test_what_the_broker_did_outlives_its_process(tmp_path):
    clock = VirtualClock()
    config = {"symbols": [{"name": "BTCUSD"}], "quotes": [["BTCUSD", BID, ASK]], "state": str(tmp_path / "state.json"),
              "positions": [{"symbol": "BTCUSD", "side": 0, "lots": 1.0, "sl": 59_000.0}],
              "faults": [{"do": "unknown", "code": 10012, "executed": True, "delay_ms": 800}]}
    mt5 = build(config, clock).module
    mt5.initialize()
    ticket = mt5.positions_get()[0].ticket
    assert mt5.order_send({"action": 1, "position": ticket, "symbol": "BTCUSD", "volume": 0.3, "type": 1, "type_filling": 1}).retcode == 10012
    again = build(config, clock).module
    again.initialize()
    assert again.positions_get()[0].volume == 1.0 and len(again.orders_get()) == 1
    clock.sleep_s(1.0)
    assert again.positions_get()[0].volume == 0.7 and again.positions_get()[0].sl == 59_000.0
