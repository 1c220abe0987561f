"""The share of each rule: the axioms of Shapley's value, a naive average over orders, and real coalitions run by the
kernel."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replays import ENTRIES, generated_session

from engine.entries import parse_entries, plan_entries
from engine.errors import BadInput
from engine.kernel import records as R
from engine.measure.attribution import (
    attribute,
    by_mask,
    coalition_name,
    coalition_variants,
    interaction,
    members,
    rule_numbers,
    shapley,
)
from engine.measure.experiment import BASELINE, Variant, only, run_experiment
from engine.measure.outcomes import Policy, Trades, delta_r
from engine.replay import Plan
from engine.rules import choose, find_rules
from engine.run import Settings

RULES = ["momentum_reversal", "order_flow", "tighter_stop"]


def trades_of(n: int, end: int = R.STOPPED) -> Trades:
    """Return trades that all ended at 0 R."""
    zero = np.zeros(n, np.int64)
    return Trades(zero, zero, np.arange(n) + 1, zero + 1, zero, zero + 100, zero + 10, zero + 90, zero + 120,
                  zero + R.MISSING, zero + 1,
                  np.zeros(n), zero + end, np.zeros(n), np.zeros(n), np.zeros(n))


def policy_of(change: np.ndarray, rule: np.ndarray) -> Policy:
    """Return a policy that changes those trades by so many R, `rule` acting first, -1 none."""
    n = len(change)
    missing, nan = np.full(n, R.MISSING), np.full(n, np.nan)
    return Policy(np.asarray(change, float), rule >= 0, rule >= 0, missing, missing, nan, np.zeros(n, np.int64),
                  missing, nan, missing, rule)


def game(n: int, trades: int, seed: int) -> np.ndarray:
    """Return a game drawn at random: the value of each coalition on each trade, 0 for the empty one."""
    value = np.random.default_rng(seed).normal(size=(1 << n, trades))
    value[0] = 0.0
    return value


def naive_shapley(value: np.ndarray, n: int) -> np.ndarray:
    """Average what each rule adds over every order in which they may come."""
    total = np.zeros((n, value.shape[1]))
    orders = list(permutations(range(n)))
    for order in orders:
        mask = 0
        for r in order:
            total[r] += value[mask | 1 << r] - value[mask]
            mask |= 1 << r
    return total / len(orders)


GAMES = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10_000))


@settings(max_examples=60, deadline=None)
@given(GAMES)
def test_it_is_the_average_over_all_orders_and_adds_up_on_every_trade(drawn):
    value = game(*drawn)
    shared = shapley(value, drawn[0])
    np.testing.assert_allclose(shared, naive_shapley(value, drawn[0]), atol=1e-12)
    np.testing.assert_allclose(shared.sum(axis=0), value[-1], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(GAMES, st.integers(0, 4))
def test_a_rule_that_changes_nothing_gets_exactly_nothing(drawn, place):
    n, r = drawn[0], place % drawn[0]
    value = game(*drawn)
    for mask in range(1 << n):
        if mask >> r & 1:
            value[mask] = value[mask & ~(1 << r)]
    assert (shapley(value, n)[r] == 0.0).all()
    for other in range(n):
        if other != r:
            assert (interaction(value, n, min(r, other), max(r, other)) == 0.0).all()


@settings(max_examples=40, deadline=None)
@given(GAMES, st.integers(0, 10_000))
def test_two_games_added_are_shared_out_as_each_alone(drawn, seed):
    n, trades, _ = drawn
    one, other = game(*drawn), game(n, trades, seed + 20_000)
    np.testing.assert_allclose(shapley(one + 2.0 * other, n), shapley(one, n) + 2.0 * shapley(other, n), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(0, 10_000)))
def test_rules_that_can_be_exchanged_get_the_same(drawn):
    n = drawn[0]
    value = game(*drawn)
    for mask in range(1 << n):
        if mask & 3 == 2:
            value[mask] = value[mask ^ 3]
    shared = shapley(value, n)
    np.testing.assert_allclose(shared[0], shared[1], atol=1e-12)


def test_interaction_of_two_is_what_they_make_together_less_what_each_makes_alone():
    value = np.array([[0.0], [3.0], [4.0], [5.0]])
    assert interaction(value, 2, 0, 1) == pytest.approx(-2.0)
    assert shapley(value, 2)[:, 0] == pytest.approx([2.0, 3.0])


def test_interactions_average_over_what_else_acts():
    value = game(3, 2, 7)
    without, with_third = (value[3 | k] - value[1 | k] - value[2 | k] + value[k] for k in (0, 4))
    np.testing.assert_allclose(interaction(value, 3, 0, 1), (without + with_third) / 2, atol=1e-12)


def test_a_duplicated_rule_shares_its_credit_and_leaving_one_out_loses_nothing():
    change = np.array([0.5, -0.25, 0.0, 1.0])
    rule = np.where(change != 0, 0, -1)
    policies = {1: policy_of(change, rule), 2: policy_of(change, np.where(rule == 0, 1, -1)),
                3: policy_of(change, rule)}
    found = attribute(trades_of(4), policies, ["a", "b"])
    assert found["leave_one_out"] == {"a": {"total_r": 0.0, "mean_r": 0.0}, "b": {"total_r": 0.0, "mean_r": 0.0}}
    assert found["shapley"]["a"] == found["shapley"]["b"] == {"total_r": 0.625, "mean_r": 0.15625}
    assert found["interaction"] == [{"rules": ["a", "b"], "total_r": -1.25, "mean_r": -0.3125}]
    assert found["displaced"]["a"] == {"b": {"trades": 3, "gain_r": 0.0,
                                             "delta_r": 1.25}} and found["displaced"]["b"] == {}


def test_what_a_rule_displaced_is_the_next_rule_or_the_kind_of_exit():
    trades = trades_of(4)
    trades.end[:] = [R.STOPPED, R.TAKEN, R.TIMED_OUT, R.STOPPED]
    policies = {1: policy_of(np.array([0.5, -1.0, 0.25, 0.0]), np.array([4, 4, 4, -1])),
                2: policy_of(np.array([0.2, 0.0, 0.0, 0.5]), np.array([2, -1, -1, 2])),
                3: policy_of(np.array([0.5, -1.0, 0.25, 0.75]), np.array([4, 4, 4, 2]))}
    found = attribute(trades, policies, ["a", "b"], [4, 2])
    assert found["displaced"]["a"] == {
        "b": {"trades": 1, "gain_r": pytest.approx(0.3), "delta_r": 0.5}, "taken": {"trades": 1, "gain_r": -1.0,
                                                                                    "delta_r": -1.0},
        "timed_out": {"trades": 1, "gain_r": 0.25, "delta_r": 0.25}, "after_another": {"trades": 1, "gain_r": 0.25,
                                                                                       "delta_r": 0.75}}
    assert found["displaced"]["b"] == {"stopped": {"trades": 1, "gain_r": 0.75, "delta_r": 0.75}}
    for name in "ab":
        gained = sum(entry["gain_r"] for entry in found["displaced"][name].values())
        assert gained == pytest.approx(found["leave_one_out"][name]["total_r"])


def test_a_trade_without_a_result_in_one_coalition_is_left_out_of_all():
    policies = {1: policy_of(np.array([0.5, 1.0]), np.array([0, 0])), 2: policy_of(np.array([np.nan, 1.0]),
                                                                                   np.array([1, 1])),
                3: policy_of(np.array([0.5, 2.0]), np.array([0, 0]))}
    found = attribute(trades_of(2), policies, ["a", "b"])
    assert found["trades"] == 1 and found["value"] == {"total_r": 2.0, "mean_r": 2.0}
    assert np.isnan(found["per_trade"]["shapley"][:, 0]).all() and found["per_trade"]["shapley"][:, 1].tolist() == [1.0,
                                                                                                                    1.0]


def test_a_rule_alone_has_everything():
    found = attribute(trades_of(2), {1: policy_of(np.array([0.5, 0.0]), np.array([3, -1]))}, ["a"])
    assert found["solo"]["a"] == found["leave_one_out"]["a"] == found["shapley"]["a"] == {"total_r": 0.5,
                                                                                          "mean_r": 0.25}
    assert found["displaced"]["a"] == {"stopped": {"trades": 1, "gain_r": 0.5, "delta_r": 0.5}}


def test_seven_rules_are_too_many():
    with pytest.raises(BadInput, match="6 at most"):
        attribute(trades_of(1), {}, list("abcdefg"))


@pytest.fixture(scope="module")
def coalitions(tmp_path_factory):
    """Return trades, policies and choices of three rules in all seven coalitions on a generated session."""
    session = generated_session(tmp_path_factory.mktemp("attribution"))
    choices = choose(find_rules(), ",".join(RULES), ["momentum_reversal.fire_z=1.0", "momentum_reversal.floor_bps=0.5",
                                                     "order_flow.score=30"])
    broker = next(entry.symbol for entry in session.instruments if entry.venue == "mt5")
    trades = plan_entries(parse_entries(ENTRIES), session.manifest["first_recv_ns"], session.manifest["last_recv_ns"],
                          broker)
    variants = [Variant(BASELINE, only(choices, set()), Settings()), *coalition_variants(choices, RULES, Settings())]
    return run_experiment(Plan(session, trades, choices), variants), choices


def test_every_coalition_is_a_variant_with_just_its_rules_acting(coalitions):
    _, choices = coalitions
    variants = coalition_variants(choices, RULES, Settings())
    assert [variant.name for variant in variants] == [coalition_name(RULES, mask) for mask in range(1, 8)]
    for mask, variant in enumerate(variants, 1):
        assert [choice.rule.name for choice in variant.choices if choice.mode == "act"] == members(RULES, mask)
    with pytest.raises(ValueError, match="no_such"):
        coalition_variants(choices, ["no_such"], Settings())


def test_coalitions_run_by_the_kernel_add_up_and_agree_with_their_displacements(coalitions):
    measured, choices = coalitions
    policies = by_mask(measured.policies, RULES)
    found = attribute(measured.trades, policies, RULES, rule_numbers(choices, RULES))
    whole = delta_r(measured.trades, policies[7])
    assert found["trades"] > 20 and np.abs(whole).sum() > 0
    np.testing.assert_allclose(found["per_trade"]["shapley"].sum(axis=0), whole, atol=1e-12)
    assert sum(entry["total_r"] for entry in found["shapley"].values()) == pytest.approx(whole.sum())
    assert sum(entry["trades"] > 0 for groups in found["displaced"].values() for entry in groups.values()) >= 3
    for r, name in enumerate(RULES):
        assert found["solo"][name]["total_r"] == pytest.approx(delta_r(measured.trades, policies[1 << r]).sum())
        gained = sum(entry["gain_r"] for entry in found["displaced"][name].values())
        assert gained == pytest.approx(found["leave_one_out"][name]["total_r"], abs=1e-12)
    assert attribute(measured.trades, policies, RULES)["displaced"] == found["displaced"]
