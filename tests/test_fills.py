"""Entries, broker exits and orders in flight: at which quote, at what price, and who comes first."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel import records as R
from engine.kernel.arbitration import volume_left
from engine.kernel.market import POSITION
from engine.positions import most_open, open_desk, position_rows
from engine.run import Run, Settings
from engine.trades import TradePlan
from rows import MS, S, change, joined, outcome, position, quote, stream, timer

T0 = 1_000 * S
PLAIN = Settings(latency_ns=0, entry_latency_ns=0)
SIDES = pytest.mark.parametrize("side", [1, -1], ids=["long", "short"])
PIVOT = 100_000                # prices of a short are those of a long mirrored here


def at(side: int, price: int) -> int:
    """Return a price as it is for a long, mirrored for a short."""
    return price if side > 0 else 2 * PIVOT - price


def tick(ns: int, side: int, bid: int, spread: int = 2) -> np.ndarray:
    """Return a quote whose price to leave a long at is `bid`, mirrored for a short."""
    return quote(ns, bid, bid + spread) if side > 0 else quote(ns, at(-1, bid) - spread, at(-1, bid))


def opened(linked: Callable[..., Run], side: int, kept: Settings = PLAIN, **levels: int) -> Run:
    """Return a run with one position, ticket 7, entered at 100,000 and marked at 99,998."""
    run = linked(settings=kept)
    placed = {name: at(side, level) if name in ("stop", "take") else level for name, level in levels.items()}
    run.feed(stream(position(T0, 7, side, price=PIVOT, **placed), tick(T0, side, 99_998)))
    return run


def put_order(run: Run, action: int, due_ns: int, stop: int = R.MISSING, volume: int = R.MISSING, rule: int = 3) -> None:
    """Put an order in flight as a rule would have."""
    mine = held(run)
    mine.order, mine.order_due_ns, mine.order_stop_ticks, mine.order_volume, mine.order_rule = action, due_ns, stop, volume, rule
    mine.order_decided_ns = due_ns - 1


def held(run: Run, v: int = 0) -> np.record:
    """Return the only open position."""
    assert run.arrays["active_count"][v] == 1
    return run.arrays["positions"][v, run.arrays["active"][v, 0]]


def gone(run: Run) -> bool:
    return run.arrays["active_count"][0] == 0


def only(fills: np.ndarray) -> np.record:
    assert len(fills) == 1, fills
    return fills[0]


@SIDES
def test_an_entry_fills_at_the_first_quote_after_its_latency(linked: Callable[..., Run], side: int) -> None:
    run = linked(settings=Settings(latency_ns=9 * S, entry_latency_ns=100 * MS))
    _, fills = run.feed(stream(tick(T0 - 1, side, 99_000), position(T0, 7, side, 50, stop=1_000, take=3_000, hold_ns=S, relative=True),
                               tick(T0 + 99 * MS, side, 99_500), timer(T0 + 99 * MS)))
    assert len(fills) == 0 and held(run).status == R.ENTERING
    _, fills = run.feed(tick(T0 + 100 * MS, side, 99_998))
    made = only(fills)
    assert (made.code, made.price_ticks, made.entry_ticks, made.volume, made.volume_left) == (R.ENTERED, PIVOT, PIVOT, 50, 50)
    assert (made.ticket, made.side, made.rule, made.recv_ns) == (7, side, -1, T0 + 100 * MS)
    mine = held(run)                               # 10 and 30 bp of 100,000
    assert (mine.stop_ticks, mine.take_ticks, mine.risk_ticks) == (at(side, 99_900), at(side, 100_300), 100)
    assert (mine.deadline_ns, mine.open_ns) == (T0 + 100 * MS + S, T0 + 100 * MS)
    assert (mine.exit_ticks, mine.gain_ticks, mine.peak_ticks, mine.trough_ticks, mine.gain_r) == (at(side, 99_998), -2, -2, -2, -0.02)


@SIDES
def test_a_waiting_entry_with_levels_knows_its_risk_as_one_with_distances_does(linked: Callable[..., Run], side: int) -> None:
    run = linked(settings=PLAIN)
    run.feed(stream(position(T0, 7, side, stop=at(side, 99_900), take=at(side, 100_300)), tick(T0, side, 99_998)))
    mine = held(run)
    assert (mine.initial_stop_ticks, mine.risk_ticks, mine.gain_r) == (at(side, 99_900), 100, -0.02)


@SIDES
def test_a_known_entry_with_distances_gets_its_levels_at_once(linked: Callable[..., Run], side: int) -> None:
    run = linked(settings=PLAIN)
    run.feed(stream(position(T0, 7, side, price=PIVOT, stop=1_000, take=3_000, relative=True)))
    mine = held(run)
    assert (mine.stop_ticks, mine.take_ticks, mine.risk_ticks) == (at(side, 99_900), at(side, 100_300), 100)


@SIDES
def test_a_stop_fills_at_the_quote_that_is_at_or_through_it(linked: Callable[..., Run], side: int) -> None:
    for low, price in ((99_901, None), (99_900, 99_900), (99_899, 99_899), (99_000, 99_000)):
        for slippage in (0, 3):
            run = opened(linked, side, Settings(latency_ns=0, slippage_ticks=slippage), stop=99_900)
            _, fills = run.feed(tick(T0 + 1, side, low))
            if price is None:
                assert len(fills) == 0 and not gone(run)
                continue
            made = only(fills)
            assert (made.code, made.price_ticks) == (R.STOPPED, at(side, price - slippage)) and gone(run)
            assert (made.volume, made.volume_left, made.risk_ticks) == (100, 0, 100)


@SIDES
def test_a_take_profit_fills_at_its_level_and_never_better(linked: Callable[..., Run], side: int) -> None:
    for high, taken in ((100_299, False), (100_300, True), (100_900, True)):
        run = opened(linked, side, Settings(latency_ns=0, slippage_ticks=3), take=100_300)
        _, fills = run.feed(tick(T0 + 1, side, high))
        assert gone(run) == taken
        if taken:
            assert (only(fills).code, only(fills).price_ticks) == (R.TAKEN, at(side, 100_300))


@SIDES
def test_a_time_limit_ends_at_the_first_quote_at_or_after_it(linked: Callable[..., Run], side: int) -> None:
    run = opened(linked, side, Settings(latency_ns=0, slippage_ticks=3), hold_ns=S)
    assert len(run.feed(joined(tick(T0 + S - 1, side, 100_010), timer(T0 + S)))[1]) == 0
    made = only(run.feed(tick(T0 + S + 7, side, 100_020))[1])
    assert (made.code, made.price_ticks, made.recv_ns) == (R.TIMED_OUT, at(side, 100_017), T0 + S + 7)


@SIDES
def test_the_brokers_own_exit_comes_before_the_rules_order_at_one_quote(linked: Callable[..., Run], side: int) -> None:
    for low, code in ((99_900, R.STOPPED), (100_300, R.TAKEN), (100_000, R.RULE_CLOSED)):
        run = opened(linked, side, stop=99_900, take=100_300)
        put_order(run, R.CLOSE, T0 + 1)
        assert only(run.feed(tick(T0 + 1, side, low))[1]).code == code
    run = opened(linked, side, hold_ns=S)
    put_order(run, R.CLOSE, T0 + S)
    assert only(run.feed(tick(T0 + S, side, 100_000))[1]).code == R.TIMED_OUT


@SIDES
def test_a_close_waits_for_its_latency_and_pays_the_quote_it_meets(linked: Callable[..., Run], side: int) -> None:
    run = opened(linked, side, Settings(latency_ns=0, slippage_ticks=3), stop=99_900)
    put_order(run, R.CLOSE, T0 + 250 * MS)
    assert len(run.feed(joined(tick(T0 + 1, side, 100_200), tick(T0 + 249 * MS, side, 100_100), timer(T0 + 250 * MS)))[1]) == 0
    made = only(run.feed(tick(T0 + 260 * MS, side, 99_950))[1])
    assert (made.code, made.price_ticks, made.rule) == (R.RULE_CLOSED, at(side, 99_947), 3) and gone(run)
    assert (made.decided_ns, made.peak_ticks, made.trough_ticks) == (T0 + 250 * MS - 1, 200, -50)


@SIDES
def test_a_stop_is_moved_unless_price_has_passed_it(linked: Callable[..., Run], side: int) -> None:
    for low, code in ((99_951, R.STOP_MOVED), (99_950, R.REJECTED), (99_940, R.REJECTED)):
        run = opened(linked, side, stop=99_900)
        put_order(run, R.TIGHTEN, T0 + 1, stop=at(side, 99_950))
        made = only(run.feed(tick(T0 + 1, side, low))[1])
        assert (made.code, made.price_ticks, made.volume) == (code, at(side, 99_950), 0)
        mine = held(run)
        assert mine.order == R.HOLD and mine.initial_stop_ticks == at(side, 99_900) and mine.risk_ticks == 100
        assert mine.stop_ticks == made.stop_ticks == at(side, 99_950 if code == R.STOP_MOVED else 99_900)
        made = only(run.feed(tick(T0 + 2, side, 99_890))[1])
        assert (made.code, made.price_ticks) == (R.STOPPED, at(side, 99_890))


@SIDES
def test_a_partial_leaves_the_volume_it_aims_at_and_the_rest_goes_on(linked: Callable[..., Run], side: int) -> None:
    run = opened(linked, side, Settings(latency_ns=0, slippage_ticks=3), stop=99_900)
    put_order(run, R.PARTIAL, T0 + 1, volume=40)
    made = only(run.feed(tick(T0 + 1, side, 100_100))[1])
    assert (made.code, made.price_ticks, made.volume, made.volume_left) == (R.RULE_REDUCED, at(side, 100_097), 60, 40)
    assert (held(run).volume, held(run).initial_volume) == (40, 100)
    put_order(run, R.PARTIAL, T0 + 2, volume=40)        # asked for again it closes nothing
    assert len(run.feed(tick(T0 + 2, side, 100_100))[1]) == 0 and held(run).volume == 40 and held(run).order == R.HOLD
    made = only(run.feed(tick(T0 + 3, side, 99_000))[1])
    assert (made.code, made.volume, made.volume_left) == (R.STOPPED, 40, 0)


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0.001, 1.0), st.integers(1, 500))
def test_a_partial_leaves_and_closes_only_what_may_be_left_and_closed(initial: int, part: int, share: float, least: int) -> None:
    mine = np.zeros(1, POSITION).view(np.recarray)[0]
    mine.initial_volume, mine.volume = initial, min(part, initial)
    left = volume_left(mine, share, least)
    assert left == 0 or (left >= least and mine.volume - left >= least)
    if left:                       # no more is closed than was asked for, except to reach the smallest deal
        assert mine.volume - left <= max(initial * share + 1e-9, least)
    elif mine.volume >= 2 * least:
        assert mine.volume - max(int(initial * share + 1e-9), least) < least


@pytest.mark.parametrize("initial,share,closed", [(100, 0.29, 29), (10, 0.5, 5), (3, 0.5, 1), (7, 1 / 7, 1), (100, 1.0, 100), (1, 0.5, 1)])
def test_shares_are_cut_to_whole_steps(initial: int, share: float, closed: int) -> None:
    mine = np.zeros(1, POSITION).view(np.recarray)[0]
    mine.initial_volume = mine.volume = initial
    assert volume_left(mine, share, 1) == initial - closed


@SIDES
def test_a_recorded_close_is_at_its_price_or_at_the_quote(linked: Callable[..., Run], side: int) -> None:
    for price, wanted in ((at(side, 100_500), at(side, 100_500)), (None, at(side, 100_100))):
        run = opened(linked, side, stop=99_900)
        put_order(run, R.CLOSE, T0 + 5)
        made = only(run.feed(stream(tick(T0 + 1, side, 100_100), change(T0 + 2, 7, R.CLOSED, price)))[1])
        assert (made.code, made.price_ticks, made.volume, made.volume_left, made.rule) == (R.RECORDED_CLOSE, wanted, 100, 0, -1)
        assert gone(run) and len(run.feed(tick(T0 + 9, side, 90_000))[1]) == 0
    run = linked(settings=PLAIN)
    assert len(run.feed(stream(position(T0, 7, side), change(T0 + 1, 7, R.CLOSED), tick(T0 + 2, side, 99_998)))[1]) == 0
    assert gone(run), "closed before it was entered"


def test_the_record_may_change_a_position_and_unknown_tickets_change_nothing(linked: Callable[..., Run]) -> None:
    run = opened(linked, 1, stop=99_900)
    run.feed(stream(change(T0 + 1, 7, R.STOP_SET, 99_950), change(T0 + 2, 7, R.TAKE_SET, 100_200), change(T0 + 3, 7, R.VOLUME_SET, lots=60),
                    change(T0 + 4, 8, R.STOP_SET, 1), change(T0 + 5, 7, R.HOLD_SET, lots=S)))
    mine = held(run)
    assert (mine.stop_ticks, mine.initial_stop_ticks, mine.risk_ticks, mine.take_ticks) == (99_950, 99_900, 100, 100_200)
    assert (mine.volume, mine.initial_volume, mine.deadline_ns) == (60, 100, T0 + S)


def test_a_crossed_or_empty_broker_quote_is_no_quote(linked: Callable[..., Run]) -> None:
    run = opened(linked, 1, stop=99_900)
    before = run.arrays["market"][0].quote_ns
    for bid, ask in ((99_000, 98_999), (0, 99_000), (R.MISSING, 99_000)):
        assert len(run.feed(quote(T0 + 1, bid, ask))[1]) == 0
        assert run.arrays["market"][0].quote_ns == before and held(run).exit_ticks == 99_998


def test_a_position_without_a_slot_is_told_of_and_the_row_says_nothing_else(linked: Callable[..., Run]) -> None:
    run = linked(settings=PLAIN, slots=2)
    run.arrays["fills"][:] = np.ones(1, run.arrays["fills"].dtype)          # what an earlier event may have left
    for name in run.arrays["fills"].dtype.names:
        run.arrays["fills"][name] = 77
    _, fills = run.feed(stream(*[position(T0 + n, 10 + n, 1, price=PIVOT, stop=99_900) for n in range(3)]))
    made = only(fills)
    assert (made.code, made.ticket, made.seq, made.recv_ns, made.variant, made.side) == (R.NO_SLOT, 12, 3, T0 + 2, 0, 1)
    assert (made.rule, made.volume, made.volume_left) == (-1, 0, 0)
    told = {"code", "ticket", "seq", "recv_ns", "variant", "side", "rule", "volume", "volume_left", "symbol"}
    assert [name for name in fills.dtype.names if name not in told and made[name] != R.MISSING] == []
    _, fills = run.feed(stream(change(T0 + 5, 10, R.CLOSED, PIVOT), position(T0 + 6, 13, 1, price=PIVOT)))
    assert only(fills).code == R.RECORDED_CLOSE, "the slot is free again"


def test_a_slot_used_again_begins_as_new(linked: Callable[..., Run]) -> None:
    run = linked("all", settings=Settings(latency_ns=0, entry_latency_ns=0, cooldown_ns=0), slots=1)
    quotes = [quote(T0 + n, PIVOT + 300 * n, PIVOT + 300 * n + 2) for n in range(1, 6)]
    run.feed(stream(position(T0, 7, 1, price=PIVOT, stop=99_000), *quotes))
    first = run.arrays["states"][0, 0].copy()
    assert run.arrays["latches"].any() and first != run.arrays["defaults"][0]
    run.feed(stream(change(T0 + 10, 7, R.CLOSED, PIVOT)))
    run.feed(stream(position(T0 + 11, 8, -1, price=PIVOT)))
    mine = held(run)
    assert run.arrays["states"][0, 0] == run.arrays["defaults"][0] and not run.arrays["latches"].any()
    fresh = linked("all", slots=1)
    fresh.feed(stream(position(T0 + 11, 8, -1, price=PIVOT)))
    assert mine.tobytes() == held(fresh).tobytes()


def test_two_variants_live_side_by_side(linked: Callable[..., Run]) -> None:
    slow = Settings(latency_ns=0, entry_latency_ns=S, slippage_ticks=5)
    both = linked(variants=[("none", PLAIN), ("none", slow)])
    rows = stream(position(T0, 7, 1, stop=1_000, relative=True), position(T0 + 1, 8, -1, price=PIVOT, stop=PIVOT + 50),
                  *[quote(T0 + n * 300 * MS, PIVOT - 30 * n, PIVOT - 30 * n + 2) for n in range(9)],
                  quote(T0 + 4 * S, PIVOT + 60, PIVOT + 62))
    _, fills = both.feed(rows)
    for v, kept in enumerate((PLAIN, slow)):
        _, wanted = linked(settings=kept).feed(rows)
        mine = fills[fills["variant"] == v].copy()
        mine["variant"] = 0
        assert len(wanted) == 3 and (mine == wanted).all()
    assert {int(price) for price in fills["entry_ticks"][fills["ticket"] == 7]} == {PIVOT + 2, PIVOT - 118}


def test_where_fills_are_real_none_is_made_here(linked: Callable[..., Run]) -> None:
    run = opened(linked, 1, Settings(latency_ns=0, simulate=False), stop=99_900, take=100_300, hold_ns=S)
    put_order(run, R.CLOSE, T0 + 1)
    for n, low in enumerate((99_000, 101_000, 100_000)):
        assert len(run.feed(quote(T0 + (1 + n) * S, low, low + 2))[1]) == 0
    assert held(run).exit_ticks == 100_000 and held(run).order == R.CLOSE
    made = only(run.feed(outcome(T0 + 9 * S, 7, R.REJECTED))[1])
    assert made.code == R.REJECTED and held(run).order == R.HOLD and held(run).volume == 100
    made = only(run.feed(outcome(T0 + 10 * S, 7, R.STOP_MOVED, 99_950))[1])
    assert (made.code, held(run).stop_ticks) == (R.STOP_MOVED, 99_950)
    made = only(run.feed(outcome(T0 + 11 * S, 7, R.RULE_REDUCED, 100_010, 30))[1])
    assert (made.code, made.volume, made.volume_left, made.price_ticks, held(run).volume) == (R.RULE_REDUCED, 70, 30, 100_010, 30)
    made = only(run.feed(outcome(T0 + 12 * S, 7, R.RULE_CLOSED, 100_020))[1])
    assert (made.code, made.volume, made.volume_left, made.price_ticks) == (R.RULE_CLOSED, 30, 0, 100_020) and gone(run)


PATH = st.lists(st.tuples(st.sampled_from((1, 40 * MS, 200 * MS, 700 * MS)), st.integers(-70, 70), st.integers(0, 6)),
                min_size=2, max_size=30)


@settings(max_examples=200, deadline=None)
@given(path=PATH, stop=st.integers(1, 150), take=st.integers(1, 150), hold=st.sampled_from((None, S, 4 * S)),
       entry=st.sampled_from((0, 100 * MS)), slippage=st.sampled_from((0, 4)))
def test_a_position_ends_as_told_by_hand_and_a_short_mirrors_a_long(linked: Callable[..., Run], path: list[tuple], stop: int, take: int,
                                                                    hold: int | None, entry: int, slippage: int) -> None:
    now, bid, quotes = T0, 100_000, []
    for pause, step, spread in path:
        now, bid = now + pause, bid + step
        quotes.append((now, bid, bid + spread))
    kept = Settings(latency_ns=0, entry_latency_ns=entry, slippage_ticks=slippage)
    told = {}
    for side in (1, -1):
        run = linked(settings=kept)
        seen = quotes if side > 0 else [(ns, 2 * PIVOT - ask, 2 * PIVOT - bid) for ns, bid, ask in quotes]
        run.feed(stream(position(T0, 7, side, 10, hold_ns=hold)))
        mine = held(run)
        made = []
        for each in seen:
            before = mine.status
            _, fills = run.feed(quote(*each))
            made += [(int(row["code"]), at(side, int(row["price_ticks"])), int(row["recv_ns"])) for row in fills]
            if before == R.ENTERING and mine.status == R.OPEN:
                run.feed(stream(change(each[0], 7, R.STOP_SET, mine.entry_ticks - side * stop),
                                change(each[0], 7, R.TAKE_SET, mine.entry_ticks + side * take)))
        told[side] = made
    assert told[1] == told[-1]
    assert told[1] == by_hand(quotes, stop, take, hold, entry, slippage)


def by_hand(quotes: list[tuple], stop: int, take: int, hold: int | None, entry: int, slippage: int) -> list[tuple]:
    """Return the fills of a long: entered at the ask, then stop before take before time."""
    made, entered = [], None
    for ns, bid, ask in quotes:
        if entered is None:
            if ns >= T0 + entry:
                entered = (ns, ask)
                made.append((R.ENTERED, ask, ns))
            continue
        if bid <= entered[1] - stop:
            return [*made, (R.STOPPED, bid - slippage, ns)]
        if bid >= entered[1] + take:
            return [*made, (R.TAKEN, entered[1] + take, ns)]
        if hold is not None and ns >= entered[0] + hold:
            return [*made, (R.TIMED_OUT, bid - slippage, ns)]
    return made


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-300, 300), min_size=1, max_size=30), st.sampled_from((1, -1)))
def test_a_position_is_valued_at_the_price_it_could_be_left_at(linked: Callable[..., Run], steps: list[int], side: int) -> None:
    run = opened(linked, side, stop=90_000)
    gains = [-2]
    for n, step in enumerate(steps):
        run.feed(tick(T0 + 1 + n, side, 99_998 + step, spread=3))
        gains.append(step - 2)
        mine = held(run)
        assert (mine.gain_ticks, mine.peak_ticks, mine.trough_ticks) == (gains[-1], max(0, *gains), min(0, *gains))
        assert (mine.gain_r, mine.peak_r, mine.spread_ticks) == (gains[-1] / 10_000, max(0, *gains) / 10_000, 3)
        assert math.isclose(mine.gain_bps, gains[-1] / 10)
        best = max(0, *gains)
        first = T0 if best == 0 else T0 + gains.index(best)
        assert mine.peak_ns == first


def plan(**changes: object) -> TradePlan:
    return TradePlan(**{**dict(ticket=7, symbol="BTCUSD", side=1, volume="0.30", open_ns=T0), **changes})


BROKER = [Instrument("BTCUSDT", "binance_usdm", "0.10", "0.001", 2, 3), Instrument("ETHUSDT", "binance_usdm", "0.01", "0.001", 2, 3),
          Instrument("BTCUSD", "mt5", "0.05", "0.01", 2, 2, pair="BTCUSDT")]


def test_planned_trades_become_frames_in_order_of_time() -> None:
    desk = open_desk(BROKER, "0.01")
    assert desk.quoted == [True, False] and [pair.quote_tick_size for pair in desk.pairs] == ["0.05", "0.01"]
    plans = [plan(ticket=2, open_ns=T0 + 5, price="60000.04", sl="59900", tp="60100.03", close_ns=T0 + 20, close_price="60001"),
             plan(ticket=1, symbol="ETHUSDT", side=-1, sl_bps=Fraction(25, 2), max_hold_ns=S, close_ns=T0 + 5)]
    rows = position_rows(plans, desk, "0.01", recorded_exits=True)
    found = [(int(r["recv_ns"]), int(r["id"]), int(r["symbol"]), int(r["code"]), *(None if v == R.MISSING else int(v) for v in
             (r["price_ticks"], r["qty_lots"])), int(r["bits"])) for r in rows]
    first, last = R.FIRST, R.LAST
    assert found == [(T0, 1, 1, R.OPENED, None, 30, first), (T0, 1, 1, R.STOP_SET, 1_250, None, R.RELATIVE),
                     (T0, 1, 1, R.HOLD_SET, None, S, last),
                     (T0 + 5, 2, 0, R.OPENED, 1_200_001, 30, first), (T0 + 5, 2, 0, R.STOP_SET, 1_198_000, None, 0),
                     (T0 + 5, 2, 0, R.TAKE_SET, 1_202_001, None, last), (T0 + 5, 1, 1, R.CLOSED, None, None, first | last),
                     (T0 + 20, 2, 0, R.CLOSED, 1_200_020, None, first | last)]
    assert (rows["kind"] == R.POSITION).all() and [int(side) for side in rows["side"]] == [-1] * 3 + [1] * 3 + [-1, 1]
    assert R.CLOSED not in position_rows(plans, desk, "0.01", recorded_exits=False)["code"]


def test_a_volume_off_the_step_and_a_symbol_not_there_are_refused() -> None:
    desk = open_desk(BROKER, "0.01")
    for changes, words in ((dict(volume="0.305"), "0.305 is not a whole number of steps"), (dict(symbol="XAUUSD"), "no symbol 'XAUUSD'")):
        with pytest.raises(BadInput, match=words):
            position_rows([plan(**changes)], desk, "0.01", False)


@given(st.lists(st.tuples(st.integers(1, 200), st.one_of(st.none(), st.integers(1, 90))), max_size=12))
def test_the_most_open_at_once_is_never_less_than_are(made: list[tuple[int, int | None]]) -> None:
    plans = [plan(ticket=n + 1, open_ns=start * S, max_hold_ns=None if hold is None else hold * S) for n, (start, hold) in enumerate(made)]
    ends = [300 * S if each.max_hold_ns is None else each.open_ns + each.max_hold_ns for each in plans]
    at_once = [sum(each.open_ns <= at.open_ns <= end for each, end in zip(plans, ends, strict=True)) for at in plans]
    assert most_open(plans, 300 * S) >= max(at_once, default=0)
