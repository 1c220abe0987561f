"""From votes to at most one action: who wins, who is written down, what acts once, and what a full buffer changes: nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernel import records as R
from engine.kernel.records import ACTED, ALERT, ALERTED, BUSY, CLOSE, COOLING, HOLD, OUTRANKED, PARTIAL, SHADOWED, TIGHTEN, USELESS
from engine.run import Run, Settings
from rows import MS, S, position, quote, stream, timers, trade

T0 = 1_000 * S
ACT, SHADOW_MODE, ALERT_MODE = R.MODE_ACT, R.MODE_SHADOW, R.MODE_ALERT
KEPT = Settings(latency_ns=200 * MS, cooldown_ns=S, min_stop_step_ticks=5)


class Table:
    """One position at which rules, by number, put their votes; the kernel's own functions settle them."""

    min_volume = 10

    def __init__(self, linked: Callable[..., Run], side: int = 1) -> None:
        self.run = linked(settings=KEPT, slots=1)
        self.arrays = self.run.arrays
        self.run.feed(stream(position(T0, 7, side, 100, price=100_000, stop=100_000 - side * 1_000), quote(T0, 100_000, 100_000)))
        self.position = self.arrays["positions"][0, 0]
        self.modes = np.full(8, ACT)
        self.events = 0

    def vote(self, ns: int, votes: dict[int, tuple]) -> list[tuple[int, int, int]]:
        """Settle (action, occasion, stop, share) of each rule that votes; return rule, action and result of what is written down.

        A rule that holds keeps its occasion, as its state does.
        """
        a, mask = self.arrays, 0
        a["actions"][:] = HOLD
        for r, vote in votes.items():
            action, occasion, stop, share = (*vote, *(0, R.MISSING, 0.5)[len(vote) - 1:])
            a["actions"][r], a["occasions"][r], a["stops"][r], a["shares"][r] = action, occasion, stop, share
            mask |= (action > HOLD) << r
        if mask == 0 and self.position.voted == 0:
            return []
        self.position.voted = mask
        self.events += 1
        row = np.zeros(1, R.EVENT)[0]
        row.recv_ns, row.seq = ns, self.events
        a["counts"][:] = 0
        a["modes"][0] = self.modes
        self.run.module.settle_votes(row, a["market"][0], 0, 0, self.position, a["settings"][0], self.min_volume, a["modes"], a["states"],
                                     a["latches"], mask, a["actions"], a["occasions"], a["stops"], a["shares"], a["decisions"], a["counts"])
        self.written = a["decisions"][:a["counts"][0]].copy()
        return [(int(row.rule), int(row.action), int(row.result)) for row in self.written]

    def fill(self) -> None:
        """Let the order in flight be filled."""
        if self.position.order == TIGHTEN:
            self.position.stop_ticks = self.position.order_stop_ticks
        if self.position.order == PARTIAL:
            self.position.volume = self.position.order_volume
        self.position.order = HOLD


@pytest.fixture
def table(linked: Callable[..., Run]) -> Table:
    return Table(linked)


def test_the_most_severe_vote_acts_and_the_others_are_written_down(table: Table) -> None:
    found = table.vote(T0, {0: (TIGHTEN, 0, 99_900), 1: (PARTIAL,), 2: (ALERT,), 5: (CLOSE,), 6: (CLOSE,), 7: (PARTIAL,)})
    assert found == [(0, TIGHTEN, OUTRANKED), (1, PARTIAL, OUTRANKED), (2, ALERT, ALERTED), (5, CLOSE, ACTED), (6, CLOSE, OUTRANKED),
                     (7, PARTIAL, OUTRANKED)]
    assert (table.position.order, table.position.order_rule) == (CLOSE, 5)
    assert (table.position.order_decided_ns, table.position.order_due_ns) == (T0, T0 + KEPT.latency_ns)
    assert set(table.written["votes"]) == {0b11100111} and (table.written["ticket"] == 7).all() and (table.written["seq"] == 1).all()


@pytest.mark.parametrize("side", [1, -1])
def test_of_two_stops_the_tighter_wins_and_of_equal_ones_the_first(linked: Callable[..., Run], side: int) -> None:
    for away, winner in (((300, 200, 250), 1), ((200, 200, 300), 0), ((300, 250, 200), 2)):
        table = Table(linked, side)
        stops = [100_000 - side * ticks for ticks in away]
        found = table.vote(T0, {r: (TIGHTEN, 0, stop) for r, stop in enumerate(stops)})
        assert [result for *_, result in found] == [ACTED if r == winner else OUTRANKED for r in range(3)]
        assert table.position.order_stop_ticks == stops[winner]
        assert list(table.written["stop_ticks"]) == stops


@pytest.mark.parametrize("side", [1, -1])
def test_a_stop_that_is_no_tighter_or_beyond_the_price_is_useless(linked: Callable[..., Run], side: int) -> None:
    for ticks, result in ((995, ACTED), (996, USELESS), (1_500, USELESS), (1, ACTED), (0, USELESS), (-5, USELESS), (None, USELESS)):
        table = Table(linked, side)
        stop = R.MISSING if ticks is None else 100_000 - side * ticks
        assert table.vote(T0, {3: (TIGHTEN, 0, stop)}) == [(3, TIGHTEN, result)], ticks
        assert (table.position.order == TIGHTEN) == (result == ACTED)
    table = Table(linked, side)
    assert table.vote(T0, {3: (TIGHTEN, 0, 100_000 - side * 1_500), 4: (PARTIAL,)}) == [(3, TIGHTEN, USELESS), (4, PARTIAL, ACTED)]


def test_a_vote_that_goes_on_is_written_down_once_and_acts_once(table: Table) -> None:
    assert table.vote(T0, {1: (CLOSE,), 2: (PARTIAL,)}) == [(1, CLOSE, ACTED), (2, PARTIAL, OUTRANKED)]
    table.fill()
    assert [table.vote(T0 + n * S, {1: (CLOSE,)}) for n in (1, 2, 3)] == [[], [], []], "what was done is done"
    assert table.vote(T0 + 4 * S, {}) == [] and table.vote(T0 + 5 * S, {}) == []
    assert table.vote(T0 + 6 * S, {1: (CLOSE,)}) == [(1, CLOSE, ACTED)], "it let go and voted anew"


def test_an_outranked_vote_acts_when_it_is_free_and_is_written_down_then(table: Table) -> None:
    table.vote(T0, {1: (PARTIAL,), 2: (CLOSE,)})
    table.fill()
    assert table.vote(T0 + 1, {1: (PARTIAL,), 2: (CLOSE,)}) == [], "cooling, and nothing new"
    assert table.vote(T0 + S, {1: (PARTIAL,), 2: (CLOSE,)}) == [(1, PARTIAL, ACTED)]


def test_while_an_order_is_in_flight_everyone_waits_and_it_is_said_once(table: Table) -> None:
    table.vote(T0, {1: (PARTIAL,)})
    assert table.vote(T0 + 1, {1: (PARTIAL,), 2: (CLOSE,)}) == [(2, CLOSE, BUSY)]
    assert table.vote(T0 + 2, {1: (PARTIAL,), 2: (CLOSE,)}) == [] and table.position.order == PARTIAL
    table.fill()
    assert table.vote(T0 + 3, {1: (PARTIAL,), 2: (CLOSE,)}) == [(2, CLOSE, ACTED)], "a close does not cool down"


def test_after_an_action_others_than_close_cool_down(table: Table) -> None:
    table.vote(T0, {1: (TIGHTEN, 0, 99_900)})
    table.fill()
    assert table.vote(T0 + KEPT.cooldown_ns - 1, {2: (PARTIAL,)}) == [(2, PARTIAL, COOLING)]
    assert table.vote(T0 + KEPT.cooldown_ns, {2: (PARTIAL,)}) == [(2, PARTIAL, ACTED)]


def test_an_occasion_acts_once_even_after_the_rule_let_go(table: Table) -> None:
    assert table.vote(T0, {1: (PARTIAL, 5)}) == [(1, PARTIAL, ACTED)]
    table.fill()
    for n in range(1, 4):
        assert table.vote(T0 + 2 * n * S, {}) == []
        assert table.vote(T0 + (2 * n + 1) * S, {1: (PARTIAL, 5)}) == []
    assert table.vote(T0 + 9 * S, {1: (PARTIAL, 6)}) == [(1, PARTIAL, ACTED)]


def test_an_occasion_acts_once_even_after_another(table: Table) -> None:
    """A void on one side, an alert about the other side's, and the first again."""
    assert table.vote(T0, {1: (PARTIAL, 5)}) == [(1, PARTIAL, ACTED)]
    table.fill()
    assert table.vote(T0 + 2 * S, {1: (ALERT, 8)}) == [(1, ALERT, ALERTED)]
    assert table.vote(T0 + 4 * S, {1: (PARTIAL, 5)}) == [(1, PARTIAL, USELESS)] and table.position.order == HOLD
    assert table.vote(T0 + 5 * S, {1: (TIGHTEN, 5, 99_900)}) == [(1, TIGHTEN, USELESS)], "nor by another action"
    assert table.vote(T0 + 6 * S, {1: (PARTIAL, 9)}) == [(1, PARTIAL, ACTED)]


@pytest.mark.parametrize("side", [1, -1])
def test_a_stop_without_an_occasion_follows_the_price_and_only_tightens(linked: Callable[..., Run], side: int) -> None:
    table = Table(linked, side)
    taken = []
    for n, ticks in enumerate((500, 495, 491, 400, 450, 300, 302)):
        found = table.vote(T0 + 2 * n * S, {3: (TIGHTEN, 0, 100_000 - side * ticks)})
        if found:
            assert found == [(3, TIGHTEN, ACTED)]
            taken.append(ticks)
            table.fill()
    assert taken == [500, 495, 400, 300]


@pytest.mark.parametrize("mode,result", [(ALERT_MODE, ALERTED), (SHADOW_MODE, SHADOWED)])
def test_alert_and_shadow_never_act_nor_stand_in_the_way(table: Table, mode: int, result: int) -> None:
    table.modes[2] = mode
    for action in (ALERT, TIGHTEN, PARTIAL, CLOSE):
        found = table.vote(T0 + action, {2: (action, 0, 99_900)})
        assert found == [(2, action, ALERTED if action == ALERT else result)]
        assert table.position.order == HOLD and table.position.acted_ns == R.MISSING
        assert table.vote(T0 + action, {2: (action, 0, 99_900)}) == []
    assert table.vote(T0 + 9, {2: (CLOSE,), 4: (PARTIAL,)})[-1] == (4, PARTIAL, ACTED)


def test_an_alert_never_acts_whatever_the_mode(table: Table) -> None:
    assert table.vote(T0, {2: (ALERT,)}) == [(2, ALERT, ALERTED)] and table.position.order == HOLD


def test_a_partial_that_would_leave_too_little_closes_whole(table: Table) -> None:
    for share, left in ((0.5, 50), (0.25, 75), (0.01, 90), (0.92, 0), (1.0, 0)):
        table.position.order, table.position.acted_ns = HOLD, R.MISSING
        assert table.vote(T0, {}) == [] and table.vote(T0, {2: (PARTIAL, 0, R.MISSING, share)}) == [(2, PARTIAL, ACTED)]
        assert (table.position.order_volume, table.position.order) == (left, PARTIAL if left else CLOSE), share
        assert table.written["volume_left"][0] == left


VOTE = st.tuples(st.sampled_from((HOLD, HOLD, ALERT, TIGHTEN, PARTIAL, CLOSE)), st.sampled_from((0, 0, 1, 2)),
                 st.sampled_from((50, 100, 400, 2_000)))
SCENE = st.lists(st.tuples(st.sampled_from((1, 100 * MS, 600 * MS, 2 * S)), st.lists(VOTE, min_size=4, max_size=4)),
                 min_size=2, max_size=20)


@settings(max_examples=100, deadline=None)
@given(scene=SCENE, modes=st.lists(st.sampled_from((ACT, ACT, SHADOW_MODE, ALERT_MODE)), min_size=4, max_size=4))
def test_whatever_the_votes_the_promises_hold(linked: Callable[..., Run], scene: list[tuple], modes: list[int]) -> None:
    table = Table(linked)
    table.modes[:4] = modes
    now, acted_ns, done, was = T0, None, {}, {}
    for pause, votes in scene:
        now += pause
        if table.position.order != HOLD and now >= table.position.order_due_ns:
            table.fill()
        busy, stop, volume = table.position.order != HOLD, int(table.position.stop_ticks), int(table.position.volume)
        cast = {r: (action, occasion, 100_000 - ticks) for r, (action, occasion, ticks) in enumerate(votes) if action != HOLD}
        found = table.vote(now, cast)
        acts = [(r, action) for r, action, result in found if result == ACTED]
        assert len(acts) <= 1 and (not acts or not busy)
        for r, action, result in found:
            assert (result == ALERTED) == (action == ALERT or modes[r] == ALERT_MODE)
            assert (result == SHADOWED) == (action != ALERT and modes[r] == SHADOW_MODE)
            assert result == ACTED or was.get(r) != cast[r][:2], "said twice"
        for r, vote in cast.items():
            assert was.get(r) == vote[:2] or r in {written for written, *_ in found}, "a new vote is always written down"
        for r, action in acts:
            assert modes[r] == ACT and action > ALERT
            assert action == CLOSE or acted_ns is None or now - acted_ns >= KEPT.cooldown_ns
            assert cast[r][1] == 0 or done.get(r) != cast[r][1]
            done[r] = cast[r][1] or done.get(r)
            acted_ns = now
            if action == TIGHTEN:
                assert stop + KEPT.min_stop_step_ticks <= table.position.order_stop_ticks < 100_000
            if table.position.order == PARTIAL:
                assert 10 <= table.position.order_volume <= volume - 10
        if not acts:
            assert busy == (table.position.order != HOLD) and table.position.stop_ticks == stop
        # a rule that holds lets go of a vote without an occasion
        was = {r: cast[r][:2] if r in cast else was[r] for r in {*was, *cast} if r in cast or was[r][1] != 0}


def scene() -> np.ndarray:
    """Return a market that makes every price rule and the whale rule act on several positions at once."""
    rng = np.random.default_rng(2)
    parts, bid = [timers(T0, T0 + 40 * S)], 6_000_000
    for n in range(8):
        parts.append(position(T0 + n * 3 * S, 10 + n, 1 - 2 * (n % 2), stop=2_000, take=6_000, hold_ns=20 * S, relative=True))
    for n in range(400):
        bid += int(rng.integers(-400, 401)) + (300 if n % 100 < 50 else -300)
        parts.append(quote(T0 + n * 100 * MS + 7, bid, bid + 20))
        parts.append(trade(T0 + n * 100 * MS + 9, bid // 10, 9_000 if n % 25 else 20_000, 1 if n % 7 < 3 else -1, n, T0 + n * MS))
    return stream(*parts)


def test_full_buffers_are_drained_and_change_nothing(linked: Callable[..., Run]) -> None:
    rows = scene()
    kept = Settings(latency_ns=50 * MS, entry_latency_ns=0, cooldown_ns=0)
    asked = "breakeven,trailing_stop,tighter_stop,whale:classic,momentum_reversal:classic"
    plain = [(asked, kept), (asked, Settings(latency_ns=300 * MS))]
    roomy = linked(variants=plain, slots=6).feed(rows)
    assert len(roomy[0]) > 60 and {ACTED, OUTRANKED} <= set(roomy[0]["result"]) and len(set(roomy[0]["rule"])) >= 4
    assert {R.STOPPED, R.STOP_MOVED, R.ENTERED} <= set(roomy[1]["code"])
    tight = linked(variants=plain, slots=6)
    per_event, rules = 2 * 6, len(tight.rules)
    tight.arrays["decisions"] = tight.arrays["decisions"][:per_event * rules].copy()
    tight.arrays["fills"] = tight.arrays["fills"][:2 * per_event + 2].copy()
    tight.arrays["fills"]["volume"] = tight.arrays["decisions"]["occasion"] = 77
    found = tight.feed(rows)
    assert [each.tobytes() for each in found] == [each.tobytes() for each in roomy]
    small = linked(variants=plain, slots=6)
    small.arrays["decisions"] = small.arrays["decisions"][:per_event * rules - 1].copy()
    with pytest.raises(RuntimeError, match="output buffer is too small"):
        small.feed(rows)


def test_a_rule_is_not_asked_before_the_position_is_entered_and_quoted(linked: Callable[..., Run]) -> None:
    run = linked("tighter_stop", settings=Settings(latency_ns=0, entry_latency_ns=S))
    decisions, _ = run.feed(stream(position(T0, 7, 1, stop=1_000, relative=True), timers(T0, T0 + S), quote(T0 + 5, 99_998, 100_000)))
    assert len(decisions) == 0
    decisions, _ = run.feed(quote(T0 + S, 99_998, 100_000))
    assert [(row.ticket, row.result, row.stop_ticks) for row in decisions] == [(7, ACTED, 99_950)]
    known = linked("tighter_stop")
    assert len(known.feed(stream(position(T0, 7, 1, price=100_000, stop=99_900), timers(T0, T0 + S)))[0]) == 0
    assert len(known.feed(quote(T0 + S, 99_998, 100_000))[0]) == 1


def test_a_rule_that_is_off_is_not_asked(linked: Callable[..., Run]) -> None:
    run = linked("tighter_stop,breakeven=off")
    run.feed(stream(position(T0, 7, 1, price=100_000, stop=99_900), *[quote(T0 + n, 100_000 + 90 * n, 100_002 + 90 * n) for n in range(9)]))
    state, entry = run.arrays["states"][0, 0], run.arrays["defaults"][0]
    assert [name for name in state.dtype.names if state[name] != entry[name]] == ["tighter_stop"]
