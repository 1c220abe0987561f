"""Broker quotes modelled from the venue's: exact, rounded away from the mid, late, and only when they change."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.kernel import records as R
from engine.quotes import Modeller, QuoteModel, parse_quotes
from rows import MS, S, best, joined, stream, timer, trade

TICKS = st.sampled_from(("0.01", "0.10", "0.00001", "0.25", "1", "5"))
BPS = st.decimals(0, 500, places=2).map(Fraction)
MODELS = st.builds(QuoteModel, BPS, st.decimals(-200, 200, places=2).map(Fraction), st.sampled_from((0, 1, 100 * MS, 3 * S)), TICKS)
TOUCHES = st.lists(st.tuples(st.sampled_from((0, 1)), st.integers(1, 5 * MS), st.integers(1, 3_000_000), st.integers(0, 50),
                             st.booleans()), min_size=1, max_size=20)


def by_hand(model: QuoteModel, tick_size: str, bid: int, ask: int) -> tuple[int, int]:
    """Return the broker's bid and ask in its ticks, in exact fractions; the half spread counts in whole hundredths of a bp."""
    mid = Fraction(bid + ask, 2) * Fraction(tick_size)
    half = Fraction(math.floor(model.spread_bps * 50), 10**6)
    basis = Fraction(math.trunc(model.basis_bps * 100), 10**6)
    return tuple(rounded(mid * (1 + basis + way * half) / Fraction(model.tick_size)) for way, rounded in ((-1, math.floor), (1, math.ceil)))


@settings(max_examples=300, deadline=None)
@given(model=MODELS, ticks=st.tuples(TICKS, TICKS), touches=TOUCHES, cut=st.integers(0, 20))
def test_quotes_are_those_worked_out_in_fractions(model: QuoteModel, ticks: tuple[str, str], touches: list[tuple], cut: int) -> None:
    now, frames, wanted, last = 0, [], [], {}
    for symbol, pause, bid, spread, other in touches:
        now += pause
        frames.append(best(now, bid, bid + spread, symbol=symbol))
        if other:
            frames.append(joined(timer(now + 1), trade(now + 1, bid, 5, 1)))
        made = by_hand(model, ticks[symbol], bid, bid + spread)
        if last.get(symbol) != made:
            wanted.append((now + model.lag_ns, symbol, *made))
        last[symbol] = made
    modeller = Modeller(model, list(ticks))
    found = joined(*[modeller.quotes(joined(*part)) for part in (frames[:cut], [], frames[cut:])])
    bids, asks = found[0::2], found[1::2]
    assert [(int(b["recv_ns"]), int(b["symbol"]), int(b["price_ticks"]), int(a["price_ticks"]))
            for b, a in zip(bids, asks, strict=True)] == wanted
    for name, low, high in (("side", 1, -1), ("bits", R.FIRST | R.MODELLED, R.LAST | R.MODELLED), ("kind", R.QUOTE, R.QUOTE)):
        assert (bids[name] == low).all() and (asks[name] == high).all()
    for name in ("recv_ns", "symbol"):
        assert (bids[name] == asks[name]).all()
    assert (found["id"] == R.MISSING).all() and (found["qty_lots"] == R.MISSING).all() and (found["event_ns"] == R.MISSING).all()


@settings(max_examples=200, deadline=None)
@given(model=MODELS, tick=TICKS, bid=st.integers(1, 3_000_000), spread=st.integers(0, 50))
def test_rounding_never_narrows_the_spread_and_costs_less_than_a_tick_a_side(model: QuoteModel, tick: str, bid: int, spread: int) -> None:
    low, high = Modeller(model, [tick]).quotes(best(5, bid, bid + spread))["price_ticks"]
    mid = Fraction(2 * bid + spread, 2) * Fraction(tick)
    basis, half = Fraction(int(model.basis_bps * 100), 10**6), Fraction(int(model.spread_bps * 50), 10**6)
    exact = [mid * (1 + basis + way * half) / Fraction(model.tick_size) for way in (-1, 1)]
    assert exact[0] - 1 < int(low) <= exact[0] <= exact[1] <= int(high) < exact[1] + 1


def test_a_chunk_without_best_quotes_leads_to_none() -> None:
    modeller = Modeller(QuoteModel(), ["0.10"])
    assert len(modeller.quotes(stream(timer(1), trade(2, 5, 1, 1)))) == 0 and len(modeller.quotes(np.zeros(0, R.EVENT))) == 0


def test_two_basis_points_around_the_mid() -> None:
    found = Modeller(QuoteModel(), ["0.10"]).quotes(best(7, 599_999, 600_001))
    assert list(found["price_ticks"]) == [5_999_400, 6_000_600] and list(found["recv_ns"]) == [7 + 100 * MS] * 2


def test_a_model_is_read_as_it_is_written() -> None:
    assert parse_quotes("") == QuoteModel()
    assert parse_quotes("spread=3.5bps,basis=-1.25bps,lag=2s,tick=0.1") == QuoteModel(Fraction(7, 2), Fraction(-5, 4), 2 * S, "0.1")
    assert parse_quotes(" lag=0.5ms ") == QuoteModel(lag_ns=500_000)


@settings(max_examples=200, deadline=None)
@given(st.builds(QuoteModel, st.decimals(0, 10_000, places=7).map(Fraction), st.decimals(-10_000, 10_000, places=7).map(Fraction),
                 st.integers(0, 10**15), TICKS))
def test_a_model_in_a_manifest_is_the_model_that_was_run(model: QuoteModel) -> None:
    assert parse_quotes(model.text()) == model


@pytest.mark.parametrize("text", ["spread=2", "spread=2ms", "lag=5", "tick=0", "tick=-1", "lag=-1ms", "spread=-1bps", "width=2bps",
                                  "spread", "spread=twobps", "tick=1bps"])
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--quotes "):
        parse_quotes(text)
