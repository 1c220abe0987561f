"""The null models on trades whose truth is known: rules that know nothing, entries that lose, and planted skill."""

from dataclasses import replace

import numpy as np
import pytest
import walks as W

from engine.kernel.records import CLOSE, PARTIAL, TIGHTEN
from engine.measure.inference import generator
from engine.measure.moments import Manner, act, build_board, closing, manners, net_class, quotes_from, stop_effect
from engine.measure.nulls import age_hazard_placebo, fit_hazard, price_only_twin, time_shift_possible
from engine.measure.outcomes import HARMED, SAVED, classify, delta_r, epsilon_r, take
from engine.measure.paths import Path
from engine.measure.riskset import q_hat, risk_set_match

LOSING = 0.4937                # chance of an up step at which the baseline is worth -0.20R
LATENCY = 1
LATENCY_NS = LATENCY * W.STEP_NS


def measure(walks, step, seed=1, draws=199, **kind):
    """Return one rule's figures and the verdict of every test at 5 %, one-sided."""
    policy = W.close_at(walks, step, LATENCY, **kind)
    trades, paths = walks.trades, build_board(walks.trades, walks.paths)
    change = delta_r(trades, policy)
    net = net_class(trades.y, change, epsilon_r(trades))
    placebo = age_hazard_placebo(trades, policy, paths, LATENCY_NS, generator(seed, "placebo"), draws)
    matched = risk_set_match(trades, policy, paths, LATENCY_NS, generator(seed, "sets"), draws)
    odds = q_hat(trades, policy, paths, LATENCY_NS)
    root = np.sqrt(len(trades))
    return {"net": net.mean(), "delta_r": change.mean(), "fired": policy.fired.mean(),
            "unmatched": matched.unmatched / max(1, matched.fires),
            "net>0": net.mean() * root > 1.645 * net.std(), "placebo net": np.mean(placebo.net >= net.mean()) <= 0.05,
            "placebo": placebo.p_greater <= 0.05, "delta>0": change.mean() * root > 1.645 * change.std(),
            "driftless": odds.driftless_p_greater <= 0.05, "q_hat": odds.p_greater <= 0.05,
            "sets r": matched.r_p_greater <= 0.05, "sets net": matched.net_p_greater <= 0.05}


def rates(rules, seeds, n=300, up=0.5):
    """Return the mean of every figure over seeds, by rule."""
    found = {name: [] for name in rules}
    for seed in seeds:
        walks = W.make(generator(seed, "walk"), n, up)
        for name in rules:
            found[name].append(measure(walks, W.RULES[name](walks, generator(seed, name)), seed))
    return {name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in found.items()}


@pytest.fixture(scope="module")
def driftless():
    """Return 60 samples of 300 trades with nothing to predict."""
    return rates(["coin", "underwater", "momentum"], range(60))


@pytest.fixture(scope="module")
def losing():
    """Return 40 samples of 300 trades that lose 0.20R on average whatever is done."""
    return rates(["coin", "underwater"], range(40), up=LOSING)


def test_counts_mislead_where_nothing_can_be_predicted():
    walks = W.make(generator(1, "table"), 3000)
    table = {}
    for name, rule in W.RULES.items():
        policy = W.close_at(walks, rule(walks, generator(1, name)))
        change, classes = delta_r(walks.trades, policy), classify(walks.trades, policy, 0.1)
        losers = walks.trades.y < 0
        net = np.mean(classes == SAVED) - np.mean(np.isin(classes, HARMED))
        table[name] = (np.mean(classes[losers] == SAVED), net)
        assert net == pytest.approx(net_class(walks.trades.y, change, 0.1).mean())
        assert abs(change.mean()) < 3 * change.std() / np.sqrt(3000)
    assert table["underwater"][0] == 1.0 and table["underwater"][1] == pytest.approx(0.335, abs=0.04)
    assert table["coin"][1] == pytest.approx(0.0, abs=0.03)
    assert table["momentum"][1] > 0.08 and table["give_back"][1] < -0.04


def test_mean_change_against_random_exits_has_its_size(driftless, losing):
    for name in ("coin", "underwater", "momentum"):
        assert 0.0 <= driftless[name]["placebo"] <= 0.12
        assert abs(driftless[name]["delta_r"]) < 0.01
    for name in ("coin", "underwater"):
        assert losing[name]["placebo"] <= 0.12
        assert losing[name]["delta_r"] > 0.06 and losing[name]["delta>0"] > 0.6


def test_matched_counts_have_their_size_and_raw_counts_do_not(driftless, losing):
    for name in ("underwater", "momentum"):
        assert driftless[name]["net"] > 0.1
        assert driftless[name]["net>0"] > 0.98 and driftless[name]["placebo net"] > 0.98
    assert driftless["coin"]["net>0"] < 0.15 and losing["coin"]["net>0"] > 0.6
    for figures in (*driftless.values(), *losing.values()):
        assert figures["sets net"] <= 0.12 and figures["sets r"] <= 0.12 and figures["q_hat"] <= 0.12
        assert figures["unmatched"] < 0.8
    assert driftless["coin"]["driftless"] <= 0.12 and losing["coin"]["driftless"] > 0.6


def test_planted_skill_is_found():
    found = [measure(*W.skilled(seed), seed) for seed in range(12)]
    assert np.mean([row["delta_r"] for row in found]) == pytest.approx(0.13, abs=0.03)
    assert sum(row["placebo"] for row in found) >= 11 and sum(row["q_hat"] for row in found) >= 10
    assert sum(row["sets net"] for row in found) >= 7 and sum(row["sets r"] for row in found) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("up", [0.5, LOSING])
def test_sizes_over_many_samples(up):
    for figures in rates(list(W.RULES), range(1000, 1300), up=up).values():
        for test in ("placebo", "q_hat", "sets r", "sets net"):
            assert figures[test] <= 0.11
        assert figures["q_hat"] >= 0.01 and figures["sets net"] >= 0.01


@pytest.mark.parametrize(("kind", "manner"), [({}, (CLOSE, 1.0, np.nan)), ({"share": 0.5}, (PARTIAL, 0.5, np.nan)),
                                              ({"stop_ticks": 4}, (TIGHTEN, 1.0, 4 / W.RISK))])
def test_acting_is_what_the_step_by_step_account_says(kind, manner):
    walks = W.make(generator(2, "act"), 200, sessions=3, spread=2)
    policy = W.close_at(walks, generator(2, "step").integers(0, 400, 200), 20, **kind)
    rows = np.flatnonzero(policy.acted)
    fired = policy.fired[rows]
    alike = Manner(*(np.full(len(rows), part) for part in manner))
    effect = act(build_board(walks.trades, walks.paths), rows, policy.decided_ns[rows] + 20 * W.STEP_NS, alike)
    assert 50 < fired.sum() < len(fired) and np.array_equal(effect.fired, fired)
    assert effect.delta_r == pytest.approx(delta_r(walks.trades, policy)[rows])
    assert effect.gain_r[fired] == pytest.approx(policy.fill_gain_r[rows][fired])
    own = manners(walks.trades, policy, rows[fired])
    for found, expected in zip((own.action, own.share, own.distance_r), manner):
        assert found == pytest.approx(np.full(fired.sum(), expected), nan_ok=True)


def test_a_gap_through_both_stops_is_the_baseline_s_exit():
    walks = W.make(generator(2, "gap"), 2)
    recv_ns = walks.trades.open_ns[0] + np.arange(4) * W.STEP_NS
    price = W.START_TICKS + np.array([0, 2, -20, -20])
    trades = replace(take(walks.trades, np.array([0])), close_ns=recv_ns[2:3], y=np.array([-20 / W.RISK]))
    board = build_board(trades, [[Path(recv_ns, price, price)]])
    start = recv_ns[:1] + board.shift_ns
    change, met = stop_effect(board, np.array([0]), start, np.array([W.START_TICKS - 8]))
    assert (change.tolist(), met.tolist()) == ([0.0], [False])
    change, met = stop_effect(board, np.array([0]), start, np.array([W.START_TICKS + 2]))
    assert (change.tolist(), met.tolist()) == ([20 / W.RISK], [True])


def test_a_look_up_never_leaves_the_trade_s_own_session():
    walks = W.make(generator(3, "edge"), 9, sessions=3)
    board = build_board(walks.trades, walks.paths)
    rows = np.arange(9)
    place, price, before = quotes_from(board, rows, walks.trades.open_ns)
    assert (price == W.START_TICKS + walks.trades.side * walks.x[:, 0]).all() and before.all()
    assert (board.path.recv_ns[place] - board.shift_ns == walks.trades.open_ns).all()
    assert not quotes_from(board, rows, walks.trades.open_ns + 10**15)[2].any()
    assert not quotes_from(board, rows, walks.trades.close_ns)[2].any()
    assert quotes_from(board, rows, walks.trades.close_ns - W.STEP_NS)[2].all()
    early = quotes_from(board, rows[3:4], walks.trades.open_ns[3:4] - (86_400 + 50) * W.STEP_NS)[0]
    assert early[0] == board.first[3] > board.first[0]


def test_slippage_is_paid_by_the_random_exit_too():
    walks = W.make(generator(4, "slip"), 50)
    rows = np.arange(50)
    boards = [build_board(walks.trades, walks.paths, ticks) for ticks in (0, 2)]
    free, paid = (act(board, rows, walks.trades.open_ns, closing(50)) for board in boards)
    assert free.delta_r - paid.delta_r == pytest.approx(2 / W.RISK)


def test_hazard_is_the_rule_s_own():
    walks = W.make(generator(5, "hazard"), 2000)
    policy = W.close_at(walks, W.coin_flip(walks, generator(5, "coin")), LATENCY)
    hazard = fit_hazard(walks.trades, policy)
    ages = np.array([50, 200, 500]) * W.STEP_NS
    assert hazard.chance(ages) == pytest.approx(1 - np.exp(-ages / W.STEP_NS / 300), abs=0.03)
    assert (np.diff(hazard.edges_ns) > 0).all() and hazard.chance(np.array([0])) == 0.0
    assert hazard.chance(hazard.age_ns(np.array([0.1, 0.4]))) == pytest.approx([0.1, 0.4], abs=1e-6)
    few = take(walks.trades, np.arange(40)), take(policy, np.arange(40))
    alive = 1.0
    ages = np.where(few[1].acted, few[1].decided_ns, few[0].close_ns) - few[0].open_ns
    fires = np.sort(ages[few[1].acted]).tolist()
    for place, age in enumerate(fires):
        at_risk = np.sum(ages >= age) - (place - fires.index(age))
        alive *= (at_risk - 0.5) / (at_risk + 0.5)
    assert fit_hazard(*few).chance(ages.max()) == pytest.approx(1 - alive)


def test_a_rule_that_always_fires_at_one_age_is_its_own_placebo():
    walks = W.make(generator(6, "clock"), 400)
    policy = W.close_at(walks, np.full(400, 7), 30)
    placebo = age_hazard_placebo(walks.trades, policy, walks.paths, 30 * W.STEP_NS, generator(6, "placebo"), 99)
    assert placebo.fired == pytest.approx(policy.fired.mean(), abs=0.01)
    assert placebo.expected_r == pytest.approx(delta_r(walks.trades, policy), abs=0.01)


@pytest.mark.parametrize("kind", [{}, {"share": 0.5}, {"stop_ticks": 4}])
def test_the_placebo_of_coin_flips_is_other_coin_flips(kind):
    walks = W.make(generator(7, "coin"), 1000)
    flips = []
    for seed in range(60):
        policy = W.close_at(walks, W.coin_flip(walks, generator(seed, "flip")), LATENCY, **kind)
        change = delta_r(walks.trades, policy)
        net = net_class(walks.trades.y, change, 0.1)
        flips.append((change.mean(), np.mean(net > 0), np.mean(net < 0), policy.fired.mean(), net.mean()))
    means, spread = np.mean(flips, axis=0), np.std(flips, axis=0)
    placebo = age_hazard_placebo(walks.trades, policy, walks.paths, LATENCY_NS, generator(7, "placebo"), 499)
    found = np.array([placebo.means_r.mean(), placebo.saved, placebo.harmed, placebo.fired, placebo.net.mean()])
    assert (np.abs(found - means) < 2.5 * spread).all()
    assert (placebo.means_r.std(), placebo.net.std()) == pytest.approx((spread[0], spread[4]), rel=0.3)
    assert placebo.means_r.mean() == pytest.approx(placebo.expected_r.mean(), abs=0.002)
    assert placebo.net.mean() == pytest.approx(placebo.saved - placebo.harmed, abs=0.003)


def test_placebo_p_is_never_zero():
    walks = W.make(generator(8, "sure"), 200)
    oracle = np.where(walks.trades.y < 0, 20, -1)
    policy = W.close_at(walks, oracle, LATENCY)
    placebo = age_hazard_placebo(walks.trades, policy, walks.paths, LATENCY_NS, generator(8, "placebo"), 99)
    matched = risk_set_match(walks.trades, policy, walks.paths, LATENCY_NS, generator(8, "sets"), 99)
    assert placebo.p_greater == matched.r_p_greater == matched.net_p_greater == 1 / 100
    assert placebo.p_two_sided == matched.r_p_two_sided == 2 / 100


def test_a_rule_that_never_fires_claims_nothing():
    walks = W.make(generator(9, "never"), 50)
    policy = W.close_at(walks, np.full(50, -1))
    arguments = walks.trades, policy, walks.paths, LATENCY_NS
    placebo = age_hazard_placebo(*arguments, generator(9, "placebo"), 99)
    matched = risk_set_match(*arguments, generator(9, "sets"), 99)
    odds, twin = q_hat(*arguments), price_only_twin(*arguments)
    assert placebo.p_greater == matched.net_p_greater == 1.0 and odds.z == 0.0 and odds.fires == matched.fires == 0
    assert not placebo.expected_r.any() and not matched.excess_r.any() and not twin.delta_r.any()
    assert np.isnan(odds.chance).all()


def test_results_do_not_know_long_from_short():
    walks = W.make(generator(10, "mirror"), 200, spread=1)
    policy = W.close_at(walks, W.momentum(walks), LATENCY)
    top = 2 * W.START_TICKS
    trades = walks.trades
    flipped = replace(trades, side=-trades.side, entry_ticks=top - trades.entry_ticks,
                      stop_ticks=top - trades.stop_ticks, take_ticks=top - trades.take_ticks)
    path = walks.paths[0][0]
    mirrored = [[Path(path.recv_ns, top - path.ask_ticks, top - path.bid_ticks)]]
    for one, other in ((trades, walks.paths), (flipped, mirrored)):
        placebo = age_hazard_placebo(one, policy, other, LATENCY_NS, generator(10, "placebo"), 99)
        matched = risk_set_match(one, policy, other, LATENCY_NS, generator(10, "sets"), 99)
        odds, twin = q_hat(one, policy, other, LATENCY_NS), price_only_twin(one, policy, other, LATENCY_NS)
        figures = (placebo.means_r.tolist(), matched.r_per_fire, matched.net_p_greater, odds.z, odds.driftless_z,
                   twin.delta_r.tolist())
        if one is trades:
            expected = figures
    assert figures == expected


def test_the_twin_fires_as_often_and_is_the_stop_it_says():
    walks = W.make(generator(20, "twin"), 800, spread=1)
    policy = W.close_at(walks, W.underwater(walks, at=6), LATENCY)
    twin = price_only_twin(walks.trades, policy, walks.paths, 0)
    assert twin.fired.mean() == pytest.approx(policy.fired.mean(), abs=0.03) and twin.applied > 0.95
    assert twin.stop_r == pytest.approx(6 / W.RISK, abs=1.1 / W.RISK)
    level = -np.ceil(twin.stop_r * W.RISK - 1e-9)
    for i in range(100):
        hits = np.flatnonzero(walks.x[i, :walks.end[i]] <= level)
        change = walks.x[i, hits[0]] / W.RISK - walks.trades.y[i] if len(hits) else 0.0
        assert twin.delta_r[i] == pytest.approx(twin.applied * change)
        assert np.isnan(twin.gain_r[i]) == (not len(hits))


def test_the_twin_of_a_rare_rule_is_applied_to_a_part():
    walks = W.make(generator(21, "rare"), 800)
    policy = W.close_at(walks, W.momentum(walks), LATENCY)
    twin = price_only_twin(walks.trades, policy, walks.paths, LATENCY_NS)
    assert policy.fired.mean() < 0.3 and twin.applied * twin.fired.mean() == pytest.approx(policy.fired.mean())
    assert twin.stop_r == pytest.approx(-policy.fill_gain_r[policy.fired].mean())
    part = replace(policy, action=np.where(policy.fired, 3, 0), share=np.where(policy.fired, 0.25, np.nan))
    assert price_only_twin(walks.trades, part, walks.paths, LATENCY_NS).delta_r == pytest.approx(twin.delta_r / 4)


def test_a_moved_stop_counts_for_the_twin_only_where_it_ended_the_trade():
    walks = W.make(generator(22, "moved"), 600)
    policy = W.close_at(walks, W.coin_flip(walks, generator(22, "coin"), 1 / 50), LATENCY, stop_ticks=12)
    ended = policy.fired & (policy.close_ns < walks.trades.close_ns)
    twin = price_only_twin(walks.trades, policy, walks.paths, LATENCY_NS)
    assert ended.sum() < 0.9 * policy.fired.sum()
    assert twin.applied * twin.fired.sum() == pytest.approx(ended.sum(), rel=0.1)


def test_shifts_are_an_hour_or_more_both_ways():
    assert time_shift_possible(7199.0) == (False, pytest.approx(np.zeros(0)))
    possible, shifts = time_shift_possible(7200.0)
    assert possible and shifts.tolist() == [3600.0]
    possible, shifts = time_shift_possible(86_400.0)
    assert possible and len(shifts) == 20 and shifts.min() == 3600.0 and (86_400.0 - shifts).min() == 3600.0
    assert len(time_shift_possible(7200.0 + 150.0)[1]) == 3
    assert time_shift_possible(float("nan"))[0] is False
