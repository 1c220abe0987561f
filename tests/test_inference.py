"""Intervals, corrections for many tries, and forecasts: against closed forms, published numbers and plain loops."""

import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis, rankdata, skew

from engine.errors import BadInput
from engine.measure.inference import (
    _resample,
    brier,
    brier_skill,
    critical_max_z,
    deflated_sharpe,
    deflated_sharpe_of,
    expected_max_z,
    generator,
    holm,
    mean_interval,
    minimum_detectable,
    p_values,
    pbo,
    step_down,
    superior,
    superior_set,
    walk_forward,
    wilson,
)


def test_each_seed_and_purpose_has_its_own_draws():
    keys = [(seed, purpose) for seed in (1, 2) for purpose in ("placebo", "bootstrap")]
    draws = {key: generator(*key).random(4).tolist() for key in keys}
    assert generator(1, "placebo").random(4).tolist() == draws[1, "placebo"]
    assert len({tuple(values) for values in draws.values()}) == 4


def test_permutation_p_is_never_zero_and_counts_ties():
    assert p_values(5.0, np.zeros(999)) == (1 / 1000, 2 / 1000)
    assert p_values(0.0, np.zeros(999)) == (1.0, 1.0)
    assert p_values(2.0, np.array([1.0, 2.0, 3.0])) == (3 / 4, 1.0)
    assert p_values(-5.0, np.zeros(99)) == (1.0, 2 / 100)
    assert p_values(float("nan"), np.zeros(9)) == (1.0, 1.0)
    rng = generator(1, "uniform")
    p = [p_values(rng.normal(), rng.normal(size=99))[0] for _ in range(2000)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)


def sample(rng, groups=20, each=10, between=0.5):
    """Return values of `each` trades in each group that share a shock, with the columns that go with them."""
    session = np.repeat(np.arange(groups), each)
    open_ns = np.tile(np.arange(each) * 1000, groups) + session * 10**6
    values = np.repeat(rng.normal(size=groups), each) * between + rng.normal(size=groups * each)
    return values, session, open_ns, open_ns + 500


def test_standard_error_is_that_of_session_means():
    values, session, open_ns, close_ns = sample(generator(1, "se"))
    found = mean_interval(values, session, open_ns, close_ns, generator(1, "boot"), draws=4000)
    means = values.reshape(20, 10).mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(20)
    assert found.method == "sessions" and found.clusters == 20
    assert found.mean == pytest.approx(values.mean()) and found.standard_error == pytest.approx(error)
    assert found.minimum_detectable == pytest.approx(2.8 * error) == minimum_detectable(error)
    assert error > 1.5 * values.std() / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error * np.sqrt(19 / 20), rel=0.08)
    assert found.high_t - found.low_t == pytest.approx(2 * 2.09 * error, rel=0.12)


def test_intervals_cover_as_often_as_they_say():
    inside = {"sessions": 0, "blocks": 0}
    for seed in range(150):
        rng = generator(seed, "cover")
        values, session, open_ns, close_ns = sample(rng)
        found = mean_interval(values, session, open_ns, close_ns, rng, draws=400)
        inside["sessions"] += found.low_t <= 0 <= found.high_t
        entry = np.sort(rng.integers(0, 10**6, 300))
        price = np.concatenate([[0.0], np.cumsum(rng.normal(size=10**4 + 300))])
        shared = price[entry // 100 + 200] - price[entry // 100]
        found = mean_interval(shared, np.zeros(300), entry, entry + 20_000, rng, draws=400)
        assert found.method == "blocks" and found.clusters == pytest.approx(50, abs=2)
        inside["blocks"] += found.low_t <= 0 <= found.high_t
    assert 0.89 <= inside["sessions"] / 150 <= 0.99
    assert 0.84 <= inside["blocks"] / 150 <= 0.98     # trades as if independent: about 0.5


def test_few_sessions_are_cut_into_blocks_as_long_as_the_longest_trade():
    rng = generator(3, "blocks")
    values, session, open_ns, close_ns = sample(rng, groups=7)
    found = mean_interval(values, session, open_ns, close_ns, rng, draws=50)
    assert (found.method, found.clusters) == ("blocks", 70)
    close_ns = close_ns.copy()
    close_ns[3] = open_ns[3] + 5000
    assert mean_interval(values, session, open_ns, close_ns, rng, draws=50).clusters == 14


def test_an_interval_that_cannot_be_had_is_nan():
    rng = generator(4, "none")
    values, session, open_ns, close_ns = sample(rng, groups=1, each=2)
    found = mean_interval(values, session, open_ns, close_ns, rng)
    assert found.method == "none" and found.clusters == 2 and np.isnan([found.low, found.high_t,
                                                                        found.minimum_detectable]).all()
    assert np.isnan(mean_interval(np.full(2, np.nan), session, open_ns, close_ns, rng).mean)
    values, session, open_ns, close_ns = sample(rng)
    holes = np.where(np.arange(200) < 10, np.nan, values)
    found = mean_interval(holes, session, open_ns, close_ns, rng, draws=50)
    assert found.clusters == 19 and found.mean == pytest.approx(values[10:].mean())


def test_a_constant_has_no_width():
    _, session, open_ns, close_ns = sample(generator(5, "constant"))
    found = mean_interval(np.full(200, 0.25), session, open_ns, close_ns, generator(5, "boot"), draws=50)
    assert (found.low, found.high, found.standard_error) == (0.25, 0.25, 0.0) and np.isnan(found.low_t)


def test_the_t_interval_leans_with_the_sample_and_mirrors_it():
    rng = generator(5, "skew")
    values, session, open_ns, close_ns = sample(rng)
    values = np.exp(values)
    found = mean_interval(values, session, open_ns, close_ns, generator(5, "boot"))
    other = mean_interval(-values, session, open_ns, close_ns, generator(5, "boot"))
    assert found.high_t - found.mean > 1.2 * (found.mean - found.low_t)
    assert (other.low_t, other.high_t, other.low) == pytest.approx((-found.high_t, -found.low_t, -found.high))


def test_stationary_bootstrap_keeps_runs_of_the_asked_length():
    places = _resample(50, 400, 5.0, generator(6, "runs"))
    assert places.min() == 0 and places.max() == 49
    follows = (places[:, 1:] - places[:, :-1]) % 50 == 1
    assert follows.mean() == pytest.approx(0.8 + 0.2 / 50, abs=0.01)
    assert np.bincount(places.ravel()).std() < 0.2 * places.size / 50
    assert ((_resample(50, 400, 1.0, generator(6, "runs"))[:, 1:] - places[:, :-1]) % 50 == 1).mean() < 0.05


def test_holm_on_a_worked_case():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_holm_is_the_closed_test_by_bonferroni(p):
    """Holm rejects at a level exactly what every intersection that holds it rejects by Bonferroni; checked for up to
    6."""
    p = p[:6]
    adjusted = holm(np.array(p))
    for i in range(len(p)):
        others = [j for j in range(len(p)) if j != i]
        worst = max(min(1.0, min(p[j] for j in (i, *more)) * (1 + len(more)))
                    for size in range(len(p)) for more in combinations(others, size))
        assert adjusted[i] == pytest.approx(worst)


def test_wilson_on_published_numbers():
    low, high = wilson(190, 200)
    assert (round(low, 2), round(high, 2)) == (0.91, 0.97)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_largest_of_many_nulls():
    assert [round(expected_max_z(tries), 1) for tries in (5, 20, 100, 1000)] == [1.2, 1.9, 2.5, 3.2]
    assert [round(critical_max_z(tries), 1) for tries in (5, 20, 100, 1000)] == [2.3, 2.8, 3.3, 3.9]
    assert expected_max_z(1) == pytest.approx(0.0, abs=1e-9) and critical_max_z(1) == pytest.approx(1.645, abs=1e-3)
    assert expected_max_z(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-6)


def test_deflated_sharpe_of_the_published_example():
    found = deflated_sharpe(2.5 / np.sqrt(250), 1250, -3.0, 10.0, 100, 0.5 / 250)
    assert found.threshold == pytest.approx(0.1132, abs=1e-4) and found.probability == pytest.approx(0.9004, abs=1e-4)
    assert deflated_sharpe(0.1, 400, 0.0, 3.0, 1, 0.0).threshold == 0.0


def test_deflated_sharpe_of_a_series():
    x = generator(7, "series").exponential(size=300) - 0.9
    tried = generator(7, "tried").normal(size=30) * 0.05
    found = deflated_sharpe_of(x, tried)
    naive = deflated_sharpe(float(x.mean() / x.std(ddof=1)), 300, float(skew(x)), float(kurtosis(x) + 3), 30,
                            float(np.var(tried, ddof=1)))
    assert found.probability == pytest.approx(naive.probability) and found.threshold == pytest.approx(naive.threshold)
    assert np.isnan(deflated_sharpe_of(np.zeros(10), tried).probability)


def naive_pbo(results, blocks):
    """Return PBO by the words of its definition."""
    parts = np.array_split(np.arange(len(results)), blocks)
    low = []
    for inside in combinations(range(blocks), blocks // 2):
        train = np.concatenate([parts[b] for b in inside])
        test = np.setdiff1d(np.arange(len(results)), train)
        best = np.argmax(results[train].mean(axis=0))
        share = rankdata(results[test].mean(axis=0))[best] / (results.shape[1] + 1)
        low.append(np.log(share / (1 - share)) <= 0)
    return np.mean(low)


def test_pbo_against_its_definition_and_known_cases():
    noise = generator(8, "noise").normal(size=(23, 7))
    assert pbo(noise, 8) == pytest.approx(naive_pbo(noise, 8))
    better = noise.copy()
    better[:, 2] += 10
    assert pbo(better) == 0.0
    halves = np.zeros((4, 2))
    halves[:, 0] = [1, -1, 1, -1]
    assert pbo(halves + [[0, 1e-9]]) == naive_pbo(halves + [[0, 1e-9]], 4)
    many = [pbo(generator(seed, "many").normal(size=(16, 20)), 8) for seed in range(40)]
    assert np.mean(many) == pytest.approx(0.5, abs=0.12)
    assert np.isnan(pbo(noise[:3])) and np.isnan(pbo(noise[:, :1]))


def test_step_down_finds_the_planted_and_holds_the_family_level():
    results = generator(9, "planted").normal(size=(60, 20))
    results[:, 3] += 0.8
    p = step_down(results, generator(9, "boot"), 999)
    assert p[3] == pytest.approx(1 / 1000) and np.delete(p, 3).min() > 0.05
    assert step_down(np.column_stack([results, np.zeros(60)]), generator(9, "boot"), 99)[-1] == 1.0
    wrong = [step_down(generator(seed, "family").normal(size=(40, 10)), generator(seed, "boot"),
                       199).min() <= 0.05 for seed in range(150)]
    assert 0.005 <= np.mean(wrong) <= 0.11


def test_step_down_second_best_is_judged_without_the_best():
    results = generator(10, "two").normal(size=(50, 2))
    results[:, 0] += 3.0
    results[:, 1] += 0.28
    p = step_down(results, generator(10, "boot"), 999)
    alone = step_down(results[:, 1:], generator(11, "boot"), 999)[0]
    assert p[1] == pytest.approx(alone, abs=0.03) and p[0] == pytest.approx(1 / 1000)


def test_without_arch_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "arch", None)
    monkeypatch.setitem(sys.modules, "arch.bootstrap", None)
    with pytest.raises(BadInput, match=r"need the package arch.*pip install 'tapeguard\[stats\]'"):
        superior(np.zeros((10, 2)), 1)


def test_superior_predictive_ability_with_arch():
    pytest.importorskip("arch", reason="the package arch (extra `stats`) is not installed")
    results = generator(12, "arch").normal(size=(60, 10))
    assert superior(results, 1) > 0.05
    results[:, 3] += 0.8
    assert 0 < superior(results, 1) < 0.01 and superior_set(results, 1) == [3]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100)), min_size=4, max_size=60), st.integers(1, 5),
       st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_walk_forward_never_trains_on_what_the_test_knows(trades, folds, embargo_ns):
    open_ns = np.array([start for start, _ in trades])
    close_ns = open_ns + np.array([held for _, held in trades])
    splits = walk_forward(open_ns, close_ns, folds, embargo_ns)
    seen = np.concatenate([test for _, test in splits]) if splits else np.zeros(0, int)
    assert len(set(seen.tolist())) == len(seen)
    for train, test in splits:
        assert not set(train.tolist()) & set(test.tolist())
        first_ns = open_ns[test].min()
        assert (close_ns[train] + embargo_ns < first_ns).all()
        left_out = np.setdiff1d(np.arange(len(trades)), train)
        assert ((close_ns[left_out] + embargo_ns >= first_ns) | (open_ns[left_out] >= first_ns)).all()


def test_brier_parts_add_up_and_known_forecasts_score_as_they_should():
    rng = generator(13, "brier")
    truth = np.round(rng.random(2000), 1)
    hit = rng.random(2000) < truth
    found = brier(truth, hit)
    assert found.brier == pytest.approx(found.reliability - found.resolution + found.uncertainty)
    assert found.within == pytest.approx(0.0, abs=1e-12) and found.reliability < 0.005 and len(found.bins) == 11
    assert found.brier == pytest.approx((truth * (1 - truth)).mean(), abs=0.01)
    assert all(each.low <= each.observed <= each.high for each in found.bins)
    base = brier(np.full(2000, hit.mean()), hit)
    assert base.resolution == pytest.approx(0.0) and base.skill == pytest.approx(0.0) and len(base.bins) == 1
    certain = brier(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]))
    assert (certain.brier, certain.skill) == (0.0, 1.0)
    over = brier(np.where(truth > 0.5, 0.95, 0.05), hit)
    assert over.reliability > 10 * found.reliability
    smooth = brier(rng.random(2000), hit)
    assert len(smooth.bins) == 10 and sum(each.count for each in smooth.bins) == 2000
    assert smooth.brier == pytest.approx(smooth.reliability - smooth.resolution + smooth.uncertainty + smooth.within)
    assert np.isnan(brier(np.zeros(0), np.zeros(0)).brier)


def test_a_forecast_that_repeats_the_reference_has_no_skill_over_it():
    rng = generator(14, "skill")
    state = rng.random(500)
    hit = rng.random(500) < state
    assert brier_skill(state, hit, state) == 0.0
    assert brier_skill(state, hit, np.full(500, 0.5)) > 0.2
