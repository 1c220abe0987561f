"""Volatility, flow beta, divergence and the broker basis against numpy on the same samples."""

import math
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernel import records as R
from engine.kernel.slow import rank
from engine.run import Run
from rows import MS, S, best, feed, joined, quote, stream, timer, timers, trade

T0 = 1_000 * S
HELD_BACK, KEPT = 10, 600


def second(ns: int, mid2: int, buys: int, sells: int, number: int) -> np.ndarray:
    """Return one second of market: a touch, two prints, and the timer that ends it."""
    bid = (mid2 - 1) // 2
    return joined(best(ns + MS, bid, mid2 - bid), trade(ns + 2 * MS, 600_000, buys, 1, 2 * number, ns),
                  trade(ns + 3 * MS, 600_000, sells, -1, 2 * number + 1, ns + 1), timer(ns + S))


def market_of(seconds: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of a random market of one timer a second, its mids and its signed flow a second."""
    rng = np.random.default_rng(seed)
    mid2 = 1_200_000 + np.cumsum(rng.integers(-40, 41, seconds))
    buys, sells = rng.integers(1, 500, (2, seconds))
    rows = [second(T0 + n * S, int(mid2[n]), int(buys[n]), int(sells[n]), n) for n in range(seconds)]
    return stream(timer(T0), *rows), mid2, buys - sells


def test_volatility_and_beta_are_those_of_the_last_600_samples_but_ten(linked: Callable[..., Run]) -> None:
    seconds = 900
    rows, mid2, flow = market_of(seconds, 3)
    run = linked()
    market, core = run.arrays["market"][0], run.arrays["core"][0]
    ends = np.flatnonzero(rows["kind"] == R.TIMER)
    run.feed(rows[:ends[0] + 1])
    for n in range(seconds):
        run.feed(rows[ends[n] + 1:ends[n + 1] + 1])
        moves, flows = np.diff(mid2[:n + 1]), flow[1:n + 1]        # the tape begins within the first second: no sample
        kept = slice(max(0, len(moves) - HELD_BACK - KEPT), max(0, len(moves) - HELD_BACK))
        moves, flows = moves[kept], flows[kept]
        assert (core.sum_n, core.sum_mm) == (len(moves), (moves ** 2).sum())
        assert (core.sum_cc, core.sum_mc) == ((flows ** 2).sum(), (moves * flows).sum())
        if len(moves) < 60:
            assert math.isnan(market.sigma_bps) and math.isnan(market.z_residual_30s)
            continue
        assert math.isclose(market.sigma_bps, np.sqrt(np.mean(moves ** 2)) * 1e4 / mid2[n], rel_tol=1e-12)
        move, total = mid2[n] - mid2[n - 30], flow[n - 29:n + 1].sum()
        beta = np.linalg.lstsq(flows[:, None], moves, rcond=None)[0][0]
        rest = np.sqrt(np.mean((moves - beta * flows) ** 2) * 30)
        for found, wanted in ((market.z_move_30s, move / (np.sqrt(np.mean(moves ** 2) * 30))),
                              (market.z_flow_30s, total / np.sqrt(np.mean(flows.astype(float) ** 2) * 30)),
                              (market.z_residual_30s, (move - beta * total) / rest)):
            assert math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12)
    assert core.sum_n == KEPT


def test_a_second_that_was_interrupted_is_no_sample(linked: Callable[..., Run]) -> None:
    rows, *_ = market_of(100, 4)
    for extra in ([feed(T0 + 50 * S + 500 * MS, R.GAP, R.TRADE)], [feed(T0 + 50 * S + 500 * MS, R.LOST, R.TRADE)],
                  [feed(T0 + 50 * S + 500 * MS, R.LOST, R.BEST)]):
        run = linked()
        run.feed(stream(rows, *extra))
        lost = 1 if extra[0]["code"][0] == R.GAP else 2        # what was lost comes back within the second after
        assert run.arrays["core"][0].sample_count == 99 - lost
    run = linked()
    run.feed(rows[(rows["kind"] != R.TIMER) | (rows["recv_ns"] != T0 + 50 * S)])
    assert run.arrays["core"][0].sample_count == 99 - 2        # two seconds between two timers are not one


def test_the_newest_ten_samples_are_not_in_the_volatility_they_are_compared_with(linked: Callable[..., Run]) -> None:
    rows, *_ = market_of(200, 5)
    calm = linked()
    calm.feed(rows)
    before = float(calm.arrays["market"][0].sigma_bps) * int(calm.arrays["market"][0].mid2)
    shock = [second(T0 + (200 + n) * S, 1_200_000 + 9_000 * (1 - n % 2), 1, 1, 200 + n) for n in range(10)]
    calm.feed(stream(*shock))
    market = calm.arrays["market"][0]
    assert market.sigma_bps * market.mid2 < before * 1.2
    calm.feed(second(T0 + 210 * S, 1_200_000, 1, 1, 210))
    assert market.sigma_bps * market.mid2 > before * 5


def test_moves_are_from_the_mid_at_the_start_of_each_window(linked: Callable[..., Run]) -> None:
    rng = np.random.default_rng(8)
    run = linked()
    market = run.arrays["market"][0]
    mids = {}
    bid = 600_000
    for n in range(700):
        now = T0 + n * 100 * MS
        if n >= 20:
            for at in (now + 10 * MS, now + 20 * MS):
                bid += int(rng.integers(-3, 4))
                run.feed(best(at, bid, bid + 1))
                assert_moves(market, mids, now, 2 * bid + 1)
        run.feed(timer(now + 100 * MS))
        mids[now + 100 * MS] = 2 * bid + 1 if n >= 20 else None
        assert_moves(market, mids, now + 100 * MS, 2 * bid + 1)


def assert_moves(market: np.record, mids: dict, now: int, mid2: int) -> None:
    for seconds in (1, 5, 10, 30, 60):
        before = mids.get(now - seconds * S)
        found = market[f"move_{seconds}s_bps"]
        assert math.isnan(found) if before is None else math.isclose(found, (mid2 - before) * 1e4 / mid2, abs_tol=1e-12), seconds


def test_extremes_and_momentum_are_of_the_last_ten_seconds_and_the_ten_before(linked: Callable[..., Run]) -> None:
    rng = np.random.default_rng(9)
    run = linked()
    market = run.arrays["market"][0]
    path = []                       # (time, mid2) of every touch
    bid = 600_000
    for n in range(450):
        now = T0 + n * 100 * MS
        if n not in range(200, 230):
            for at in (now + 30 * MS, now + 60 * MS):
                bid += int(rng.integers(-4, 5))
                run.feed(best(at, bid, bid + 1))
                path.append((at, 2 * bid + 1))
        if n == 200:
            run.feed(feed(now + 1, R.LOST, R.BEST))
        end = now + 100 * MS
        run.feed(timer(end))
        start, middle = end - 20 * S, end - 10 * S
        if start < T0 + 100 * MS or 200 <= n < 430:
            assert market.high_10s_2 == market.high_20s_2 == market.low_10s_2 == market.low_20s_2 == R.MISSING, n
            assert math.isnan(market.move_recent_bps) and math.isnan(market.move_older_bps)
            continue
        old = [mid2 for at, mid2 in path if start < at <= middle]
        new = [mid2 for at, mid2 in path if middle < at <= end]
        # a slot begins with the mid that stood before it
        first = [mid2 for at, mid2 in path if at <= start][-1]
        last_old = old[-1]
        assert (market.high_20s_2, market.low_20s_2) == (max([first, *old]), min([first, *old]))
        assert (market.high_10s_2, market.low_10s_2) == (max([last_old, *new]), min([last_old, *new]))
        assert math.isclose(market.move_recent_bps, (new[-1] - last_old) * 1e4 / new[-1], abs_tol=1e-12)
        assert math.isclose(market.move_older_bps, (last_old - first) * 1e4 / new[-1], abs_tol=1e-12)


@given(st.lists(st.integers(-5, 5), max_size=30), st.integers(-6, 6))
def test_rank_is_where_a_value_belongs(values: list[int], value: int) -> None:
    ordered = np.sort(np.array(values, np.int64))
    assert rank(ordered, len(values), value) == np.searchsorted(ordered, value)


def basis_sample(bid: int, ask: int, mid2: int) -> int:
    """Return the broker's mid over the venue's in 1e-4 bp; the broker's tick is a tenth of the venue's."""
    return math.floor(((bid + ask) / (10.0 * mid2) - 1.0) * 1e8 + 0.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from((5, 9, 10, 11, 60, 700)))
def test_the_basis_is_the_median_of_the_last_600_samples_with_its_spread(linked: Callable[..., Run], seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    run = linked()
    market = run.arrays["market"][0]
    samples = []
    offsets = rng.choice([0, 5, 90, 1_000, 100_000], 1)[0]
    for n in range(count):
        bid, gap = 600_000 + int(rng.integers(-50, 51)), int(rng.integers(0, 300))
        low = bid * 10 + int(rng.integers(-offsets, offsets + 1))
        run.feed(stream(best(T0 + n * S + MS, bid, bid + 1), quote(T0 + n * S + 2 * MS, low, low + gap), timer(T0 + (n + 1) * S)))
        samples.append(basis_sample(low, low + gap, 2 * bid + 1))
        kept = np.sort(samples[-600:])
        assert (run.arrays["ordered"][0][:len(kept)] == kept).all()
        if n + 1 < 10:
            assert math.isnan(market.basis_bps) and not market.basis_ok
            continue
        median = int(kept[len(kept) // 2])
        spread = int(np.sort(np.abs(kept - median))[len(kept) // 2])
        assert (market.basis_bps, market.basis_mad_bps) == (median / 1e4, spread / 1e4)
        assert market.basis_ok == (abs(samples[-1] - median) <= max(4 * spread, 5_000))


def test_the_basis_is_not_claimed_from_a_stale_quote_on_either_side(linked: Callable[..., Run]) -> None:
    def fresh() -> Run:
        run = linked()
        run.feed(stream(*[joined(best(T0 + n * S + 1, 600_000, 600_001), quote(T0 + n * S + 2, 6_000_000, 6_000_010)) for n in range(20)],
                        timers(T0 + S, T0 + 20 * S, S)))
        assert run.arrays["market"][0].basis_ok
        return run
    run = fresh()
    count = int(run.arrays["core"][0].basis_count)
    run.feed(stream(timers(T0 + 21 * S, T0 + 40 * S, S), *[best(T0 + n * S + 1, 600_000, 600_001) for n in range(20, 40)]))
    assert not run.arrays["market"][0].basis_ok and run.arrays["core"][0].basis_count == count + 4      # the quote is 5 s old at most
    run = fresh()
    run.feed(stream(timers(T0 + 21 * S, T0 + 40 * S, S), *[quote(T0 + n * S + 1, 6_000_000, 6_000_010) for n in range(20, 40)]))
    assert not run.arrays["market"][0].basis_ok and run.arrays["core"][0].basis_count == count + 9      # the touch 10 s
    run = fresh()
    run.feed(feed(T0 + 20 * S + 1, R.LOST, R.QUOTE))
    assert not run.arrays["market"][0].basis_ok


def test_a_quote_over_four_spreads_from_the_usual_basis_is_dislocated(linked: Callable[..., Run]) -> None:
    for ticks, usable in ((0, True), (-350, True), (390, True), (410, False), (-600, False)):
        run = linked()
        offsets = [100 * (n % 3 - 1) for n in range(60)] + [ticks]          # median 0, the usual distance from it 100
        run.feed(stream(*[joined(best(T0 + n * S + 1, 600_000, 600_002), quote(T0 + n * S + 2, 6_000_000 + away, 6_000_020 + away),
                                 timer(T0 + (n + 1) * S)) for n, away in enumerate(offsets)]))
        assert bool(run.arrays["market"][0].basis_ok) == usable, ticks
