"""Controls are in the state of the fire they answer for, and the odds come from trades that cannot know."""

from dataclasses import replace

import numpy as np
import pytest
import walks as W

from engine.kernel.records import MISSING
from engine.measure.inference import generator
from engine.measure.moments import build_board
from engine.measure.outcomes import take
from engine.measure.riskset import _controls, _level, _permute, fold_numbers, q_hat, risk_set_match

LATENCY = 1
LATENCY_NS = LATENCY * W.STEP_NS


def test_controls_are_in_the_same_state_and_not_decided_on():
    walks = W.make(generator(11, "sets"), 160, sessions=2)
    policy = W.close_at(walks, W.coin_flip(walks, generator(11, "coin")), LATENCY)
    trades, fires = walks.trades, np.flatnonzero(policy.fired)
    chosen, states = _controls(build_board(trades, walks.paths), policy, fires, LATENCY_NS, 0.15, 5, 8)
    decided = np.where(policy.acted, (policy.decided_ns - trades.open_ns) // W.STEP_NS, 10**9)
    matched = 0
    for row, i in enumerate(fires):
        age = decided[i] + LATENCY
        x = walks.x[:, min(age, W.LONGEST)] / W.RISK
        able = [j for j in range(160) if j != i and trades.side[j] == trades.side[i]
                and walks.end[j] > age and decided[j] > decided[i] and abs(x[j] - x[i]) <= 0.15]
        mine = [j for j in chosen[row] if j >= 0]
        if len(able) < 5:
            assert mine == [] and np.isnan(states[row]).all()
            continue
        matched += 1
        rank = {j: (trades.session[j] != trades.session[i], round(abs(x[j] - x[i]), 9)) for j in able}
        assert len(mine) == len(set(mine)) == min(8, len(able))
        assert sorted(rank[j] for j in mine) == sorted(rank.values())[:8]
        assert states[row, :len(mine)] == pytest.approx(x[mine])
    assert matched > 10


def test_a_trade_of_the_same_minute_is_the_last_choice():
    walks = W.make(generator(12, "minute"), 300)
    twice = np.concatenate([np.arange(300), np.arange(300)])
    trades = take(walks.trades, twice)
    policy = take(W.close_at(walks, W.coin_flip(walks, generator(12, "coin"), 1 / 100), LATENCY), twice)
    policy.acted[300:] = policy.fired[300:] = False
    fires = np.flatnonzero(policy.fired)
    chosen, _ = _controls(build_board(trades, walks.paths), policy, fires, LATENCY_NS, 0.15, 5, 6)
    full = chosen[:, -1] >= 0
    clone = chosen == fires[:, None] + 300
    assert full.sum() > 50 and clone[full].mean() < 0.02 and clone.any()


def test_another_take_profit_is_another_state():
    walks = W.make(generator(13, "take"), 200)
    policy = W.close_at(walks, W.coin_flip(walks, generator(13, "coin"), 1 / 100), LATENCY)
    far = np.arange(200) % 4 < 2
    trades = replace(walks.trades, take_ticks=np.where(far, walks.trades.take_ticks, MISSING))
    fires = np.flatnonzero(policy.fired)
    chosen, _ = _controls(build_board(trades, walks.paths), policy, fires, LATENCY_NS, 0.3, 1, 20)
    row, column = np.nonzero(chosen >= 0)
    assert len(row) > 100 and (far[chosen[row, column]] == far[fires[row]]).all()


def test_a_difference_that_state_explains_is_no_effect():
    rng = generator(14, "level")
    states = rng.uniform(-0.6, -0.2, (200, 12))
    states[:, 0] -= 0.1
    states[5, 9:] = np.nan
    curve = 0.3 - 0.9 * states + 0.2 * states**2
    assert np.nanmax(np.abs(_level(curve, states))) < 1e-9
    shifted = curve + 0.25 * (np.arange(12) == 0)
    assert _level(shifted, states)[:, 0] == pytest.approx(0.25)


def test_labels_are_permuted_over_the_whole_set():
    values = np.array([[1.0, 0.0, np.nan], [1.0, 0.0, np.nan], [1.0, 0.0, 0.0]])
    greater, two_sided, excess = _permute(values, np.array([2, 2, 3]), generator(15, "labels"), 4000)
    assert greater == pytest.approx(1 / 12, abs=0.015) and two_sided == pytest.approx(2 * greater)
    assert excess.tolist() == [1.0, 1.0, 1.0]


def test_excess_adds_up_over_trades():
    walks, at = W.skilled(15, 300)
    policy = W.close_at(walks, at, LATENCY)
    matched = risk_set_match(walks.trades, policy, walks.paths, LATENCY_NS, generator(15, "sets"), 99)
    none = np.isnan(matched.excess_r)
    assert none.sum() == matched.unmatched and (policy.fired[none]).all() and matched.fires == policy.fired.sum()
    assert np.nansum(matched.excess_r) / 300 == pytest.approx(matched.r_per_trade)
    assert np.nansum(matched.excess_net) / (matched.fires - matched.unmatched) == pytest.approx(matched.net_per_fire)
    assert not matched.excess_r[~policy.fired].any() and 5 <= matched.controls <= 20
    again = risk_set_match(walks.trades, policy, walks.paths, LATENCY_NS, generator(15, "sets"), 99)
    assert again.net_p_greater == matched.net_p_greater and again.r_per_fire == matched.r_per_fire


def test_estimated_odds_are_gambler_s_ruin_without_drift():
    walks = W.make(generator(16, "odds"), 1500)
    policy = W.close_at(walks, W.coin_flip(walks, generator(16, "coin")), LATENCY)
    odds = q_hat(walks.trades, policy, walks.paths, LATENCY_NS)
    known = ~np.isnan(odds.chance)
    theory = (1 - policy.fill_gain_r[known]) / 2
    assert known.sum() > 500 and np.abs(odds.chance[known] - theory).mean() < 0.06
    assert np.corrcoef(odds.chance[known], theory)[0, 1] > 0.95
    assert odds.expected == pytest.approx(theory.sum(), rel=0.05) and abs(odds.z) < 2.5 and abs(odds.driftless_z) < 2.5
    assert odds.influence.sum() == pytest.approx(odds.lost - odds.expected)
    expected = (walks.trades.y[policy.fired] < 0) - (1 - policy.fill_gain_r[policy.fired]) / 2
    spread = np.sqrt(((1 - policy.fill_gain_r[policy.fired] ** 2) / 4).sum())
    assert odds.driftless_z == pytest.approx(expected.sum() / spread)


def test_odds_near_the_stop_do_not_lean_to_the_middle():
    walks = W.make(generator(16, "deep"), 1500)
    odds = q_hat(walks.trades, W.close_at(walks, W.underwater(walks, at=14)), walks.paths, 0)
    assert odds.expected / (odds.fires - odds.unmatched) == pytest.approx(15 / 16, abs=0.012)


def test_odds_come_from_other_sessions_only():
    walks = W.make(generator(17, "folds"), 600, sessions=6)
    policy = W.close_at(walks, W.coin_flip(walks, generator(17, "coin")), LATENCY)
    before = q_hat(walks.trades, policy, walks.paths, LATENCY_NS, folds=6).chance
    mine = walks.trades.session == 2
    changed = replace(walks.trades, y=np.where(mine, 1.0, walks.trades.y))
    after = q_hat(changed, policy, walks.paths, LATENCY_NS, folds=6).chance
    assert np.array_equal(before[mine], after[mine], equal_nan=True)
    known = ~mine & ~np.isnan(before)
    assert (after[known] <= before[known] + 1e-9).mean() > 0.9 and after[known].mean() < before[known].mean() - 0.05


def test_a_trade_that_overlaps_in_time_does_not_vote():
    walks = W.make(generator(18, "overlap"), 300)
    policy = W.close_at(walks, W.coin_flip(walks, generator(18, "coin")), LATENCY)
    before = q_hat(walks.trades, policy, walks.paths, LATENCY_NS, folds=300)
    i = int(np.flatnonzero(~np.isnan(before.chance))[5])
    twice = np.concatenate([np.arange(300), np.full(30, i)])
    silent = take(policy, twice)
    silent.acted[300:] = silent.fired[300:] = False
    after = q_hat(take(walks.trades, twice), silent, walks.paths, LATENCY_NS, folds=330)
    assert after.chance[i] == before.chance[i]


def test_folds_are_whole_sessions_or_stretches_of_time():
    walks = W.make(generator(19, "fold"), 100, sessions=10)
    fold = fold_numbers(walks.trades, 5)
    assert np.array_equal(fold, np.arange(100) // 20)
    shuffled = np.random.Generator(np.random.Philox(1)).permutation(100)
    one = take(W.make(generator(19, "fold"), 100).trades, shuffled)
    assert np.array_equal(fold_numbers(one, 5), shuffled // 20)
