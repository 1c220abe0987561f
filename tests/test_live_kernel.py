"""What only a live run folds: answers of the broker, rules given another mode, positions that were open before."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.instruments import Instrument
from engine.kernel import records as R
from engine.positions import open_desk
from engine.run import Run, Settings
from rows import MS, S, change, frame, joined, outcome, position, quote, stream, timers

T0 = 1_000 * S
LIVE = Settings(simulate=False, retry_ns=5 * S, cooldown_ns=0)
STOP = 100_000 - 500           # where tighter_stop wants it, half of the risk


@pytest.fixture
def run(linked: Callable[..., Run]) -> Run:
    """A kernel whose fills come from outside, tighter_stop alone in act."""
    made = linked(settings=LIVE, slots=2)
    made.arrays["modes"][0] = R.MODE_OFF
    made.arrays["modes"][0, rule(made)] = R.MODE_ACT
    return made


def rule(run: Run, name: str = "tighter_stop") -> int:
    return [each.name for each in run.rules].index(name)


def opened(run: Run, seconds: int = 1) -> np.ndarray:
    rows = joined(position(T0, 7, 1, 100, price=100_000, stop=99_000), quote(T0 + MS, 100_000, 100_010), timers(T0, T0 + seconds * S))
    return run.feed(stream(rows))[0]


def switch(ns: int, number: int, mode: int) -> np.ndarray:
    return frame(R.SWITCH, ns, R.EVERY_SYMBOL, [dict(id=number, code=mode)])


def acted(decisions: np.ndarray) -> list[int]:
    """Return when orders went out, in ms after the start."""
    return [int(row.recv_ns - T0) // MS for row in decisions if row.result == R.ACTED]


def test_an_order_waits_for_its_answer_and_no_quote_fills_it(run):
    assert acted(opened(run)) == [1]
    decisions, fills = run.feed(stream(quote(T0 + 10 * S, 100_000, 100_010), timers(T0 + 10 * S, T0 + 20 * S)))
    assert not acted(decisions) and not len(fills) and run.arrays["positions"][0, 0].order == R.TIGHTEN
    _, fills = run.feed(stream(outcome(T0 + 21 * S, 7, R.STOP_MOVED, STOP)))
    assert [(row.code, row.stop_ticks) for row in fills] == [(R.STOP_MOVED, STOP)]
    assert run.arrays["positions"][0, 0].stop_ticks == STOP and run.arrays["positions"][0, 0].order == R.HOLD


def test_a_refused_order_is_asked_again_after_a_while_and_not_before(run):
    opened(run)
    decisions, fills = run.feed(stream(outcome(T0 + 2 * S, 7, R.REJECTED), timers(T0 + 2 * S, T0 + 6 * S + 900 * MS)))
    assert [row.code for row in fills] == [R.REJECTED] and acted(decisions) == [], "5 s have not passed"
    assert acted(run.feed(stream(timers(T0 + 7 * S, T0 + 9 * S)))[0]) == [7000]


def test_a_refusal_does_not_hold_back_what_is_more_severe(run):
    opened(run)
    run.feed(stream(outcome(T0 + 2 * S, 7, R.REJECTED)))
    spot = run.arrays["positions"][0, 0]
    row = np.zeros(1, R.EVENT)[0]
    row.recv_ns = T0 + 3 * S
    setting = run.arrays["settings"][0]
    verdicts = {action: run.module.verdict(row, spot, setting, action) for action in (R.TIGHTEN, R.PARTIAL, R.CLOSE)}
    assert verdicts == {R.TIGHTEN: R.COOLING, R.PARTIAL: R.ACTED, R.CLOSE: R.ACTED}
    run.feed(stream(outcome(T0 + 3 * S, 7, R.STOP_MOVED, STOP)))
    assert run.module.verdict(row, spot, setting, R.TIGHTEN) == R.ACTED, "what was granted since ends the wait"


class Votes:
    """One position of 100 steps at which one rule votes; the kernel's own functions settle its vote, answers come from outside."""

    min_volume = 1

    def __init__(self, run: Run):
        self.run, self.now = run, T0 + S
        run.arrays["modes"][0] = R.MODE_OFF
        run.feed(stream(position(T0, 7, 1, 100, price=100_000, stop=99_000), quote(T0 + MS, 100_000, 100_010)))
        run.arrays["modes"][0] = R.MODE_ACT
        self.spot = run.arrays["positions"][0, 0]

    def ask(self, action: int, occasion: int, share: float = 0.5, rule: int = 0) -> int:
        """Return the volume an order keeps, MISSING where none went out."""
        a, self.now = self.run.arrays, self.now + 10 * S
        a["actions"][:] = R.HOLD               # a rule that holds keeps its occasion, as its state does
        a["actions"][rule], a["occasions"][rule], a["shares"][rule], a["stops"][rule] = action, occasion, share, STOP
        a["counts"][:] = 0
        row = np.zeros(1, R.EVENT)[0]
        row.recv_ns = self.now
        self.run.module.settle_votes(row, a["market"][0], 0, 0, self.spot, a["settings"][0], self.min_volume, a["modes"], a["states"],
                                     a["latches"], int(action > R.HOLD) << rule, a["actions"], a["occasions"], a["stops"], a["shares"], a["decisions"],
                                     a["counts"])
        return int(self.spot.order_volume) if self.spot.order in (R.PARTIAL, R.CLOSE) else R.MISSING

    def tell(self, *rows: np.ndarray) -> None:
        self.run.arrays["modes"][0] = R.MODE_OFF
        self.run.feed(stream(*rows))
        self.run.arrays["modes"][0] = R.MODE_ACT


@pytest.mark.parametrize("occasion, between", [(0, False), (5, False), (5, True)])
def test_a_reduction_that_is_asked_again_never_aims_below_its_first_target(run, occasion, between):
    votes = Votes(run)
    assert votes.ask(R.PARTIAL, occasion) == 50
    votes.tell(outcome(votes.now + 1, 7, R.REJECTED), change(votes.now + 2, 7, R.VOLUME_SET, lots=70))      # it had filled in part
    if between:
        assert votes.ask(R.TIGHTEN, 0, rule=3) == R.MISSING and votes.spot.order == R.TIGHTEN
        votes.tell(outcome(votes.now + 1, 7, R.STOP_MOVED, STOP))
    assert votes.ask(R.PARTIAL, occasion) == 50
    votes.tell(outcome(votes.now + 1, 7, R.REJECTED), change(votes.now + 2, 7, R.VOLUME_SET, lots=50))      # and now in full
    assert votes.ask(R.PARTIAL, occasion) == R.MISSING and votes.spot.order == R.HOLD, "there is nothing left to do"


def test_a_reduction_for_another_reason_has_a_target_of_its_own(run):
    votes = Votes(run)
    assert votes.ask(R.PARTIAL, 5) == 50
    votes.tell(outcome(votes.now + 1, 7, R.REJECTED), change(votes.now + 2, 7, R.VOLUME_SET, lots=50))
    assert votes.ask(R.PARTIAL, 6, 0.2) == 30
    votes.tell(outcome(votes.now + 1, 7, R.REJECTED))
    assert votes.ask(R.PARTIAL, 9, 0.25, rule=4) == 25
    votes.tell(outcome(votes.now + 1, 7, R.REJECTED))
    assert votes.ask(R.CLOSE, 9, rule=4) == R.MISSING and votes.spot.order == R.CLOSE


def test_each_symbol_has_a_smallest_deal_of_its_own(linked):
    """A position of 100 steps is halved where one step may be dealt, and closed where the smallest deal is 60."""
    brokers = [Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2, pair="BTCUSDT"),
               Instrument("US100", "mt5", "0.01", "0.01", 2, 2, pair="ETHUSDT", least_lots=60)]
    venue = [Instrument(name, "binance_usdm", "0.10", "0.001", 2, 3) for name in ("BTCUSDT", "ETHUSDT")]
    run = linked(pairs=open_desk(venue + brokers, "0.01").pairs, settings=LIVE)
    assert list(run.arrays["constants"]["min_volume"]) == [1, 60]
    setting, row, kept = run.arrays["settings"][0], np.zeros(1, R.EVENT)[0], []
    for number, own in enumerate(run.arrays["constants"]):
        rows = position(T0, 7, 1, 100, symbol=number, price=100_000, stop=99_000)
        run.feed(stream(rows, quote(T0 + MS, 100_000, 100_010, symbol=number)))
        spot = run.arrays["positions"][0, number]
        run.module.order(row, spot, setting, 0, R.PARTIAL, R.MISSING, 0.5, 0, own.min_volume)
        kept.append((spot.order, spot.order_volume))
    assert kept == [(R.PARTIAL, 50), (R.CLOSE, 0)]


@pytest.mark.parametrize("occasion", [0, 5])
@pytest.mark.parametrize("action", [R.CLOSE, R.PARTIAL])
def test_what_filled_in_part_and_failed_is_asked_again(run, action, occasion):
    votes = Votes(run)
    votes.ask(action, occasion)
    votes.tell(outcome(votes.now + 1, 7, R.RULE_REDUCED, 99_990, 70))
    assert votes.spot.order == R.HOLD and votes.spot.volume == 70
    votes.ask(action, occasion)
    assert (votes.spot.order, votes.spot.order_volume) == ((R.CLOSE, R.MISSING) if action == R.CLOSE else (R.PARTIAL, 50))
    votes.tell(outcome(votes.now + 1, 7, R.RULE_REDUCED, 99_990, 50))
    votes.ask(action, occasion)
    assert votes.spot.order == (R.CLOSE if action == R.CLOSE else R.HOLD), "half was asked for and is done"


def test_an_answer_for_a_position_that_is_gone_changes_nothing(run):
    opened(run)
    run.feed(stream(change(T0 + 2 * S, 7, R.CLOSED, 100_100)))
    decisions, fills = run.feed(stream(outcome(T0 + 3 * S, 7, R.RULE_CLOSED, 100_050)))
    assert not len(decisions) and not len(fills) and run.arrays["active_count"][0] == 0


@pytest.mark.parametrize("code", [R.STOPPED, R.TAKEN, R.RULE_CLOSED])
def test_an_answer_that_closes_ends_the_position_at_its_price(run, code):
    opened(run)
    _, fills = run.feed(stream(outcome(T0 + 2 * S, 7, code, 99_500)))
    assert [(row.code, row.price_ticks, row.volume, row.volume_left) for row in fills] == [(code, 99_500, 100, 0)]
    assert run.arrays["active_count"][0] == 0


def test_a_rule_switched_to_act_acts_on_the_vote_it_stands_by_and_one_switched_back_does_not(run):
    number = rule(run)
    run.arrays["modes"][0, number] = R.MODE_SHADOW
    decisions = opened(run)
    assert [row.result for row in decisions] == [R.SHADOWED]
    decisions, _ = run.feed(stream(switch(T0 + 2 * S, number, R.MODE_ACT), timers(T0 + 2 * S, T0 + 3 * S)))
    assert acted(decisions) == [2000]
    run.feed(stream(outcome(T0 + 4 * S, 7, R.REJECTED)))
    decisions, _ = run.feed(stream(switch(T0 + 5 * S, number, R.MODE_SHADOW), timers(T0 + 5 * S, T0 + 30 * S)))
    assert acted(decisions) == []


def test_a_switch_of_a_rule_there_is_not_is_passed_over(run):
    before = run.arrays["modes"].copy()
    run.feed(stream(switch(T0, 99, R.MODE_ACT), switch(T0 + 1, -1, R.MODE_ACT)))
    assert (run.arrays["modes"] == before).all()


def test_a_position_that_was_open_before_has_its_age(run):
    rows = position(T0, 7, 1, 100, price=100_000, stop=99_000)
    rows["event_ns"][0] = T0 - 60 * S
    late = position(T0, 8, 1, 100, price=100_000)
    late["event_ns"][0] = T0 + S          # a broker's clock that is ahead
    run.feed(stream(rows, late, quote(T0 + MS, 100_000, 100_010), timers(T0, T0 + S)))
    ages = {int(p.ticket): int(p.age_ns) for p in run.arrays["positions"][0]}
    assert ages == {7: 61 * S, 8: S}


def test_a_stop_that_is_taken_away_is_unknown_and_the_risk_stays(run):
    opened(run)
    run.feed(stream(outcome(T0 + 2 * S, 7, R.REJECTED), change(T0 + 2 * S + 1, 7, R.STOP_SET, None)))
    spot = run.arrays["positions"][0, 0]
    assert spot.stop_ticks == R.MISSING and spot.risk_ticks == 1_000 and spot.initial_stop_ticks == 99_000
