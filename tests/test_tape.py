"""The tape against a recomputation from the raw prints: windows, coverage, sweeps, whales, and the usual sweep."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernel import records as R
from engine.kernel.tape import bucket_floor, bucket_of
from engine.run import Pair, Run
from rows import MS, S, best, feed, joined, stream, timer, timers, trade

T0 = 1_000 * S
TICKLOTS_PER_USD = 10_000      # tick 0.10, lot 0.001
MEDIUM, LARGE, WHALE = (usd * TICKLOTS_PER_USD for usd in (100_000, 500_000, 1_000_000))
IMBALANCES = {"imbalance_10s": 10, "imbalance_30s": 30, "imbalance_180s": 180, "imbalance_600s": 600, "imbalance_3600s": 3600}


class NaiveTape:
    """Every print kept; a window is the prints of slots that ended less than its length before the last timer, and the open slot."""

    def __init__(self) -> None:
        self.prints: list[dict] = []
        self.now_ns = self.timer_ns = 0
        self.from_ns: int | None = None
        self.cvd = 0
        self.at_timer: dict[int, list[dict]] = {}

    def take(self, row: np.void) -> None:
        if row["kind"] == R.TRADE and row["bits"] & R.NOT_MARKET:
            return
        self.now_ns = int(row["recv_ns"])
        kind, code = row["kind"], row["code"]
        if kind == R.TIMER:
            self.timer_ns = self.now_ns
            for made in self.prints:
                made["end_ns"] = made["end_ns"] or self.now_ns
        elif kind == R.TRADE:
            if self.from_ns is None:
                self.from_ns, self.cvd = self.now_ns, 0
            value = int(row["price_ticks"]) * int(row["qty_lots"])
            self.prints.append(dict(end_ns=0, side=int(row["side"]), lots=int(row["qty_lots"]), value=value, big=value >= MEDIUM))
            self.cvd += int(row["side"]) * int(row["qty_lots"])
        elif kind == R.FEED and row["id"] in (R.MISSING, R.TRADE):
            if code in (R.LOST, R.STALE, R.GAP):
                self.from_ns = None
            if code == R.GAP or (code in (R.CONNECTED, R.RESYNC) and self.from_ns is None):
                self.from_ns, self.cvd = self.now_ns, 0

    def window(self, seconds: int, open_slot: bool = True) -> list[dict]:
        since = self.timer_ns - seconds * S
        return [made for made in self.prints if (made["end_ns"] > since if made["end_ns"] else open_slot)]

    def covered(self, seconds: int) -> bool:
        return self.from_ns is not None and self.from_ns <= self.now_ns - seconds * S

    def sums(self, seconds: int) -> dict[int, int]:
        found = dict.fromkeys((R.BUY, R.SELL, R.BUY_VALUE, R.SELL_VALUE, R.TRADES, R.BIG_BUYS, R.BIG_SELLS, R.BIG_BUY_VALUE,
                               R.BIG_SELL_VALUE), 0)
        for made in self.window(seconds):
            buy = made["side"] > 0
            found[R.TRADES] += 1
            found[R.BUY if buy else R.SELL] += made["lots"]
            found[R.BUY_VALUE if buy else R.SELL_VALUE] += made["value"]
            if made["big"]:
                found[R.BIG_BUYS if buy else R.BIG_SELLS] += 1
                found[R.BIG_BUY_VALUE if buy else R.BIG_SELL_VALUE] += made["value"]
        return found

    def imbalance(self, seconds: int) -> float:
        sums = self.sums(seconds)
        both = sums[R.BUY] + sums[R.SELL]
        return (sums[R.BUY] - sums[R.SELL]) / both if both and self.covered(seconds) else math.nan


def same(found: float, wanted: float) -> bool:
    return found == wanted or (math.isnan(found) and math.isnan(wanted))


def check(run: Run, naive: NaiveTape, kind: int) -> None:
    """Compare everything the tape shows with the naive one after a row."""
    market, windows, slot = (run.arrays[name][0] for name in ("market", "windows", "slot"))
    for w, seconds in enumerate(R.WINDOW_S):
        assert {c: windows[w, c] + slot[c] for c in naive.sums(seconds)} == naive.sums(seconds), seconds
    assert market.tape_ok == (naive.from_ns is not None)
    if naive.from_ns is not None:
        assert market.cvd_lots == naive.cvd
    fresh = ("imbalance_10s", "imbalance_30s") if kind == R.TRADE else IMBALANCES
    for name in fresh:
        assert same(market[name], naive.imbalance(IMBALANCES[name])), name
    for seconds, trades, flow in ((10, market.trades_10s, market.flow_10s_lots), (30, market.trades_30s, market.flow_30s_lots)):
        sums = naive.sums(seconds)
        wanted = (sums[R.TRADES], sums[R.BUY] - sums[R.SELL]) if naive.covered(seconds) else (R.MISSING, R.MISSING)
        assert (trades, flow) == wanted, seconds
    if kind == R.TIMER:
        check_slow(market, naive)


def check_slow(market: np.record, naive: NaiveTape) -> None:
    """Compare what changes with the timer only."""
    sums = naive.sums(60)
    wanted = (sums[R.BIG_BUYS], sums[R.BIG_SELLS]) if naive.covered(60) else (R.MISSING, R.MISSING)
    assert (market.big_buys_60s, market.big_sells_60s) == wanted
    sums = naive.sums(30)
    cluster = [sums[c] / TICKLOTS_PER_USD if naive.covered(30) else math.nan for c in (R.BIG_BUY_VALUE, R.BIG_SELL_VALUE)]
    assert same(market.cluster_buy_usd, cluster[0]) and same(market.cluster_sell_usd, cluster[1])
    long, short = (sum(made["lots"] for made in naive.window(seconds)) for seconds in (180, 10))
    assert same(market.volume_ratio, short * 18 / long if long and naive.covered(180) else math.nan)


# how long until the next row, and what it is: mostly timers near 100 ms, now and then a long silence
PAUSE = st.one_of(st.integers(60 * MS, 140 * MS), st.sampled_from(
    (100 * MS, 100 * MS, 1, 999 * MS, 1 * S, 5 * S, 29 * S, 170 * S, 601 * S)))
PRINT = st.tuples(st.just("trade"), st.sampled_from((1, -1)), st.sampled_from((1, 7, 900, 2_000, 20_000)),
                  st.integers(0, 20).map(lambda n: R.NOT_MARKET if n == 0 else R.AGGREGATED if n == 1 else 0))
FEED = st.tuples(st.just("feed"), st.sampled_from((R.LOST, R.GAP, R.STALE, R.CONNECTED, R.RESYNC)),
                 st.sampled_from((R.MISSING, R.TRADE, R.DEPTH, R.BEST)), st.just(0))
TIMER = st.just(("timer", 0, 0, 0))
TAPE = st.lists(st.tuples(PAUSE, st.one_of(PRINT, PRINT, TIMER, TIMER, TIMER, FEED)), min_size=10, max_size=80)


@settings(max_examples=150, deadline=None)
@given(made=TAPE)
def test_every_window_holds_what_the_raw_prints_add_up_to(linked: Callable[..., Run], made: list[tuple]) -> None:
    run, naive, now = linked(), NaiveTape(), T0
    for number, (pause, (what, first, second, bits)) in enumerate(made):
        now += pause
        rows = (timer(now) if what == "timer" else feed(now, first, second) if what == "feed"
                else trade(now, 600_000, second, first, number, now, bits=bits))
        run.feed(rows)
        naive.take(rows[0])
        check(run, naive, R.TIMER if what == "timer" else R.FEED if what == "feed" else R.TRADE)


def test_the_windows_stay_exact_through_an_hour_and_more(linked: Callable[..., Run]) -> None:
    rng = np.random.default_rng(5)
    run, naive = linked(), NaiveTape()
    times = np.sort(rng.integers(T0, T0 + 3_700 * S, 3_000))
    prints = [trade(int(ns), 600_000, int(lots), 1 if up else -1, n, int(ns))
              for n, (ns, lots, up) in enumerate(zip(times, rng.integers(1, 3_000, 3_000), rng.random(3_000) < 0.5, strict=True))]
    rows = stream(timers(T0, T0 + 3_700 * S), *prints)
    run.feed(rows)
    for row in rows:
        if row["kind"] != R.TIMER:
            naive.take(row)
    naive.prints = []
    closed = rows["recv_ns"][rows["kind"] == R.TIMER]
    for row in rows[rows["kind"] == R.TRADE]:       # ends of slots at once: the naive tape is quadratic
        naive.take(row)
        naive.prints[-1]["end_ns"] = int(closed[np.searchsorted(closed, row["recv_ns"])])
    naive.now_ns = naive.timer_ns = T0 + 3_700 * S
    naive.cvd = sum(made["side"] * made["lots"] for made in naive.prints)
    assert len(naive.window(3600)) < len(naive.prints) and naive.covered(3600)
    check(run, naive, R.TIMER)


def test_a_print_that_is_no_market_trade_is_not_seen_at_all(linked: Callable[..., Run]) -> None:
    run = linked()
    run.feed(stream(trade(T0, 600_000, 10, 1, 1, T0)))
    before = run.arrays["market"][0].copy()
    run.feed(stream(trade(T0 + 1, 999_999, 10_000_000, -1, 2, T0, bits=R.NOT_MARKET)))
    after = run.arrays["market"][0]
    changed = [name for name in after.dtype.names if name != "now_ns" and not same_field(before[name], after[name])]
    assert changed == []


def same_field(a: np.void, b: np.void) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_what_a_lost_stream_no_longer_proves_is_absent_at_once(linked: Callable[..., Run]) -> None:
    rows = [timers(T0, T0 + 700 * S, S), best(T0, 599_999, 600_001)]
    rows += [joined(trade(ns, 600_000, 2_000 + n % 7, 1, n, ns), best(ns + 1, 599_999 - n - n % 3, 600_001 - n))
             for n, ns in enumerate(range(T0 + 1, T0 + 700 * S, S))]
    numbers = ["imbalance_10s", "imbalance_30s", "imbalance_180s", "imbalance_600s", "volume_ratio", "cluster_buy_usd", "z_flow_30s",
               "z_residual_30s"]
    whole = ["trades_10s", "trades_30s", "flow_10s_lots", "flow_30s_lots", "big_buys_60s"]
    for code in (R.LOST, R.STALE, R.GAP):
        run = linked()
        run.feed(stream(*rows))
        market = run.arrays["market"][0]
        assert not any(math.isnan(market[name]) for name in numbers) and not any(market[name] == R.MISSING for name in whole)
        run.feed(feed(T0 + 700 * S + 1, code, R.TRADE))
        assert [name for name in numbers if not math.isnan(market[name])] == [], code
        assert [name for name in whole if market[name] != R.MISSING] == [], code
        assert not math.isnan(market.move_10s_bps) and not math.isnan(market.ofi_10s), "the touch was not lost"
        run.feed(feed(T0 + 700 * S + 2, code, R.BEST))
        assert math.isnan(market.move_10s_bps) and math.isnan(market.ofi_10s) and math.isnan(market.sigma_bps)
        assert market.high_10s_2 == R.MISSING and math.isnan(market.move_recent_bps)


def test_a_feed_row_of_no_symbol_speaks_of_all(linked: Callable[..., Run]) -> None:
    pairs = [Pair(name, "0.10", "0.001", "0.01", True) for name in ("BTCUSDT", "ETHUSDT", "LTCUSDT")]
    run = linked(pairs=pairs)
    run.feed(stream(*[trade(T0, 600_000, 1, 1, 1, T0, symbol=n) for n in range(3)]))
    assert [market.tape_ok for market in run.arrays["market"]] == [1, 1, 1]
    run.feed(feed(T0 + 1, R.LOST, symbol=1))
    assert [market.tape_ok for market in run.arrays["market"]] == [1, 0, 1]
    run.feed(feed(T0 + 2, R.LOST, symbol=R.EVERY_SYMBOL))
    assert [market.tape_ok for market in run.arrays["market"]] == [0, 0, 0]


def usd(lots: int, price: int = 600_000) -> float:
    return lots * price / TICKLOTS_PER_USD


def test_a_sweep_is_one_side_at_one_instant_with_adjacent_ids(linked: Callable[..., Run]) -> None:
    run = linked()
    market = run.arrays["market"][0]
    lots = 9_000                                    # $540,000: large alone
    run.feed(stream(trade(T0, 600_000, lots, 1, 10, T0)))
    assert (market.whale_id, market.whale_side, market.whale_usd, market.whale_trade_id) == (1, 1, usd(lots), 10)
    run.feed(stream(trade(T0 + 1, 600_010, lots, 1, 11, T0)))
    assert (market.whale_id, market.whale_usd, market.whale_trade_id) == (1, usd(lots) + usd(lots, 600_010), 10)
    assert market.whale_print_usd == usd(lots, 600_010) and market.whale_ticks == 600_010 and market.whale_ns == T0 + 1
    for rows, why in ((trade(T0 + 2, 600_010, lots, 1, 12, T0 + MS), "another instant"),
                      (trade(T0 + 3, 600_010, lots, 1, 14, T0 + MS), "a hole in the ids"),
                      (trade(T0 + 4, 600_010, lots, 1, 15, None), "an instant not known"),
                      (trade(T0 + 5, 600_010, lots, 1, 16, None), "an instant not known again"),
                      (trade(T0 + 6, 600_010, lots, 1, 17, T0 + 2 * MS, bits=R.AGGREGATED), "one aggregated print"),
                      (trade(T0 + 7, 600_010, lots, -1, 18, T0 + 2 * MS), "the other side")):
        before = int(market.whale_id)
        run.feed(rows)
        assert market.whale_id > before and market.whale_usd == usd(lots, 600_010), why


def test_two_sides_in_one_instant_are_two_sweeps_that_both_go_on(linked: Callable[..., Run]) -> None:
    run = linked()
    market = run.arrays["market"][0]
    seen = {}
    for n, side in enumerate((1, -1, -1, 1, -1, 1)):
        run.feed(stream(trade(T0 + n, 600_000, 9_000, side, 20 + n, T0)))
        seen.setdefault(side, []).append((int(market.whale_id), round(market.whale_usd / usd(9_000)), int(market.whale_trade_id)))
    assert seen == {1: [(1, 1, 20), (1, 2, 20), (1, 3, 20)], -1: [(2, 1, 21), (2, 2, 21), (2, 3, 21)]}
    assert market.whale_sweeps == 2 and market.whale_prints == 0 and market.whale_largest_usd == 3 * usd(9_000)


@pytest.mark.parametrize("between", [
    [feed(T0 + 1, R.GAP, R.TRADE)],
    [feed(T0 + 1, R.LOST, R.TRADE), feed(T0 + 1, R.CONNECTED, R.TRADE)],
    [trade(T0 + 1, 600_000, 1, 1, 13, T0, bits=R.NOT_MARKET)],
], ids=["gap", "lost", "print that is none"])
def test_a_hole_ends_a_sweep_whatever_the_recorder_says_of_it(linked: Callable[..., Run], between: list[np.ndarray]) -> None:
    run = linked()
    run.feed(stream(trade(T0, 600_000, 9_000, 1, 10, T0), *between, trade(T0 + 2, 600_000, 9_000, 1, 14, T0)))
    market = run.arrays["market"][0]
    assert (market.whale_id, market.whale_usd, market.whale_trade_id) == (2, usd(9_000), 14)


def test_a_print_that_is_none_inside_a_sweep_is_no_hole(linked: Callable[..., Run]) -> None:
    run = linked()
    run.feed(stream(trade(T0, 600_000, 9_000, 1, 10, T0), trade(T0 + 1, 600_000, 1, 1, 11, T0, bits=R.NOT_MARKET),
                    trade(T0 + 2, 600_000, 9_000, 1, 12, T0)))
    assert run.arrays["market"][0].whale_usd == 2 * usd(9_000)


def test_tiers_are_crossed_in_the_middle_of_a_sweep_and_counted_once(linked: Callable[..., Run]) -> None:
    run = linked()
    market = run.arrays["market"][0]
    shown = []
    for n, dollars in enumerate((499_980, 60, 499_920, 60, 60_000, 1_000_020)):
        run.feed(stream(trade(T0 + n, 600_000, dollars // 60, -1, 30 + n, T0)))
        shown.append((int(market.whale_id) if market.whale_id > 0 else None, None if math.isnan(market.whale_usd) else market.whale_usd,
                      int(market.whale_sweeps), int(market.whale_prints)))
    assert shown == [(None, None, 0, 0), (1, 500_040, 0, 0), (1, 999_960, 0, 0), (1, 1_000_020, 1, 0), (1, 1_060_020, 1, 0),
                     (1, 2_060_040, 1, 1)]


prints = st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(0, 2), st.sampled_from((1, 1, 1, 2)), st.integers(1, 12_000)),
                  min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(made=prints)
def test_sweeps_and_whales_are_those_of_a_grouping_of_the_whole_tape(linked: Callable[..., Run], made: list[tuple]) -> None:
    run = linked()
    market = run.arrays["market"][0]
    groups: list[dict] = []
    running: dict[int, dict] = {}
    trade_id = event_ns = 0
    for n, (side, later, step, lots) in enumerate(made):
        trade_id, event_ns = trade_id + step, event_ns + later * MS
        if step > 1:
            running = {}
        if side not in running or running[side]["event_ns"] != event_ns:
            running[side] = dict(event_ns=event_ns, side=side, first_id=trade_id, value=0)
            groups.append(running[side])
        running[side]["value"] += lots * 600_000
        run.feed(stream(trade(T0 + n, 600_000, lots, side, trade_id, event_ns)))
        if running[side]["value"] >= LARGE:
            assert (market.whale_side, market.whale_trade_id) == (side, running[side]["first_id"])
            assert market.whale_usd == running[side]["value"] / TICKLOTS_PER_USD
    values = [group["value"] for group in groups]
    assert run.arrays["core"][0].sweep_count == len(groups)
    assert market.whale_sweeps == sum(value >= WHALE for value in values)
    largest = max([value for value in values if value >= LARGE], default=None)
    assert math.isnan(market.whale_largest_usd) if largest is None else market.whale_largest_usd == largest / TICKLOTS_PER_USD
    counts = run.arrays["sweep_counts"][0]
    assert counts.sum() == len(groups) - (run.arrays["running"][0]["ticklots"] > 0).sum()


@given(st.integers(0, 2**60), st.integers(0, 2**60))
def test_buckets_are_in_order_and_hold_their_floor(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 0 <= bucket_of(low) <= bucket_of(high) < R.BUCKETS
    bucket = bucket_of(high)
    assert bucket_floor(bucket) <= high * (1 + 1e-15) and (high == 0 or high < 1.26 * bucket_floor(bucket))


def test_each_bucket_up_to_four_and_beyond_begins_at_its_floor() -> None:
    assert [bucket_of(value) for value in (0, 1, 2, 3, 4, 5, 6, 7, 8)] == [0, 1, 5, 7, 9, 10, 11, 12, 13]
    for bucket in range(10, 4 * 59):
        floor = bucket_floor(bucket)
        assert bucket_of(int(floor)) == bucket and bucket_of(int(floor) - 1) == bucket - 1


def usual(run: Run) -> float:
    return float(run.arrays["market"][0].whale_usual_usd)


@pytest.mark.parametrize("scale", [1, 4_000_000], ids=["USD-M", "values as large as those of spot"])
def test_the_usual_sweep_is_the_quantile_of_past_ones(linked: Callable[..., Run], scale: int) -> None:
    rng = np.random.default_rng(11)
    run = linked()
    lots = np.maximum(1, (rng.pareto(1.1, 20_000) * 20).astype(np.int64)) * scale
    step = 1_500
    for start in range(0, len(lots), step):
        part = range(start, min(len(lots), start + step))
        run.feed(stream(*[trade(T0 + n, 600_000, int(lots[n]), 1, n, T0 + n * MS) for n in part]))
        run.feed(timer(T0 + (start // step + 1) * S))
        past = np.sort(lots[max(0, part[-1] - R.SWEEPS):part[-1]])         # the last is still running
        wanted = usd(1) * past[-(len(past) // 1000 + 1)]
        assert wanted / 1.26 <= usual(run) <= wanted, start


def test_the_usual_sweep_is_not_claimed_from_a_few(linked: Callable[..., Run]) -> None:
    run = linked()
    run.feed(stream(*[trade(T0 + n, 600_000, 5, 1, n, T0 + n * MS) for n in range(1_000)], timer(T0 + S)))
    assert math.isnan(usual(run))                   # 999 are over, one is running
    run.feed(stream(trade(T0 + S + 1, 600_000, 5, 1, 1_000, T0 + 2 * S), timer(T0 + 2 * S)))
    assert usd(5) / 1.26 <= usual(run) <= usd(5)


TOUCH = st.lists(st.tuples(st.sampled_from((100 * MS, 70 * MS, 1_000 * MS, 4_000 * MS)), st.integers(-1, 1), st.integers(-1, 1),
                           st.integers(1, 9), st.integers(1, 9), st.sampled_from(("touch", "touch", "timer", "timer", "lost", "none"))),
                 min_size=5, max_size=120)


@settings(max_examples=100, deadline=None)
@given(made=TOUCH)
def test_the_imbalance_of_best_quotes_is_summed_over_known_changes_only(linked: Callable[..., Run], made: list[tuple]) -> None:
    run = linked()
    market = run.arrays["market"][0]
    now, touch, known_from, timer_ns, touched_ns = T0, None, None, 0, 0
    changes: list[list[int]] = []                   # end of slot, change
    bid, ask = 600_000, 600_003
    for pause, bid_step, ask_step, bid_lots, ask_lots, what in made:
        now += pause
        if what == "timer":
            run.feed(timer(now))
            timer_ns = now
            if now - touched_ns > 10 * S:           # the market is absent after that silence
                touch = known_from = None
            for change in changes:
                change[0] = change[0] or now
        elif what == "lost":
            run.feed(feed(now, R.LOST, R.BEST))
            touch = known_from = None
            run.feed(feed(now + 1, R.CONNECTED, R.BEST))
        elif what == "touch":
            bid, ask = bid + bid_step, max(bid + bid_step + 1, ask + ask_step)
            run.feed(best(now, bid, ask, bid_lots, ask_lots))
            if touch is None:
                known_from = now
            else:
                old_bid, old_bid_lots, old_ask, old_ask_lots = touch
                changes.append([0, (bid >= old_bid) * bid_lots - (bid <= old_bid) * old_bid_lots
                                - (ask <= old_ask) * ask_lots + (ask >= old_ask) * old_ask_lots])
            touch, touched_ns = (bid, bid_lots, ask, ask_lots), now
        if what == "timer":
            inside = [change for end, change in changes if end > timer_ns - 10 * S]
            size = sum(map(abs, inside))
            covered = known_from is not None and known_from <= now - 10 * S
            assert same(market.ofi_10s, sum(inside) / size if covered and size else math.nan)


def test_the_imbalance_of_best_quotes_is_claimed_ten_seconds_after_the_first(linked: Callable[..., Run]) -> None:
    run = linked()
    market = run.arrays["market"][0]
    run.feed(stream(feed(T0, R.CONNECTED), timers(T0, T0 + 9 * S), best(T0 + 9 * S + 1, 600_000, 600_001, 5, 5)))
    run.feed(stream(*[best(T0 + 9 * S + n, 600_000, 600_001, 5 + n, 5) for n in (2, 3)], timers(T0 + 9 * S + 100 * MS, T0 + 19 * S)))
    assert math.isnan(market.ofi_10s), "one second of it was seen when ten had passed since the connection"
    run.feed(stream(*[best(T0 + 19 * S + n, 600_000, 600_001, 8 + n, 5) for n in (2, 3)], timer(T0 + 19 * S + 100 * MS)))
    assert market.ofi_10s == 1.0
