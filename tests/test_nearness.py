"""How near a rule says it is to firing: never below 1 where it votes, whatever the market, for both sides."""

import math

import numpy as np
import pytest
from cases import CASES, NAMES, RULES, ask, reflected_market, reflected_position
from replays import at_second, frame_starts, generated, new_run, own_cache, shipped  # noqa: F401
from test_rule_files import GOOD, rules_of

from engine.errors import BadInput
from engine.kernel import records as R

NEAR = GOOD + '''

def nearness(params, state, market, position):
    """Return the contrary share of flow over the limit."""
    return -position.side * market.imbalance_10s / params.limit
'''


def near(name: str, params, state, market, position) -> float:
    """Ask a rule how near it is, with nothing changed by it."""
    kept = [each.copy() for each in (market, position)]
    with np.errstate(all="ignore"):
        value = float(RULES[name].nearness(params, state, market, position))
    assert [each.tobytes() for each in (market, position)] == [each.tobytes() for each in kept]
    return value


def test_every_shipped_rule_says_how_near_it_is():
    assert all(rule.nearness is not None for rule in RULES.values())


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_rule_that_votes_is_near_and_one_that_is_not_near_holds(case, side):
    """The case itself, each of its misses, and 400 markets drawn around it, some values of them unknown."""
    dice = np.random.default_rng(case.market.get("whale_id", 0) + 7)
    met, silent = 0, False
    for changes in [None, *case.misses, *range(400)]:
        params, market, position = case.parts(changes if isinstance(changes, dict) else None)
        if isinstance(changes, int):
            disturb(dice, case, market, position)
        if side < 0:
            market, position = reflected_market(market), reflected_position(position)
        state = RULES[case.rule].module.State()
        before = near(case.rule, params, state, market, position)
        action, state = ask(case.rule, params, market, position, state, again_after_s=case.dwell_s)
        after = near(case.rule, params, state, market, position)
        if action > R.HOLD:
            met += 1
            assert before >= 1 - 1e-9 and after >= 1 - 1e-9, (before, after)
        else:
            silent |= not (before >= 1 and after >= 1)
    assert met > 20 and (silent or case.rule == "tighter_stop")


def disturb(dice, case, market, position) -> None:
    """Scale some of a case's values, and hide one now and then."""
    places = [(market, name) for name, value in case.market.items() if not isinstance(value, dict)]
    places += [(market[name], inner) for name, value in case.market.items() if isinstance(value, dict) for inner in value]
    places += [(position, name) for name in ("gain_r", "peak_r", "spread_ticks", "stop_ticks")]
    for row, name in places:
        if name.endswith(("_ok", "_ns", "_id", "_side")) or row[name] == R.MISSING or dice.random() < 0.7:
            continue
        unknown = dice.random() < 0.1 and name not in ("spread_ticks", "stop_ticks")
        value = row[name] * dice.choice((dice.uniform(0, 2), dice.uniform(0.999, 1.001)))
        real = isinstance(row[name], float | np.floating)
        row[name] = (math.nan if real else R.MISSING) if unknown else value if real else round(value)
        if unknown and name == "flow_10s_lots":
            row["trades_10s"] = R.MISSING      # both are sums over the same window


@pytest.mark.parametrize("preset, mode", [("robust", "act"), ("classic", "act"), pytest.param("robust", "shadow", marks=pytest.mark.slow),
                                          pytest.param("classic", "shadow", marks=pytest.mark.slow)])
def test_in_a_market_a_rule_that_votes_is_near(generated, own_cache, preset, mode):  # noqa: F811
    """Frame by frame through the compiled kernel, as the screen sees it between two frames."""
    choices = [choice if mode == "act" else replaced(choice) for choice in shipped(preset)]
    run, events = new_run(generated, choices), generated.events
    starts = frame_starts(events)
    begin = at_second(events, 97.0)
    run.feed(events[:begin])
    edges = [*starts[(starts >= begin) & (starts < at_second(events, 145.0))], at_second(events, 145.0)]
    a, voted, quiet = run.arrays, {}, {}
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        run.feed(events[first:end])
        for k in a["active"][0][:a["active_count"][0]]:
            position = a["positions"][0][k]
            market = a["market"][position["symbol"]]
            if position["exit_ticks"] == R.MISSING or market["seq"] != events[first]["seq"]:
                continue
            for r, choice in enumerate(choices):
                name = choice.rule.name
                votes = position["voted"] >> r & 1
                if not votes and first % 8:
                    continue
                value = near(name, a["params"][0][name], a["states"][0, k][name].copy(), market, position)
                place = (name, int(position["side"]))
                if votes:
                    assert value >= 1 - 1e-9, (place, value, events[first]["seq"])
                    voted[place] = voted.get(place, 0) + 1
                elif value < 1:
                    quiet[place] = quiet.get(place, 0) + 1
    assert {place[0] for place in voted} >= {"whale", "void", "divergence", "tighter_stop"}
    assert len(quiet) >= 12, quiet


def replaced(choice):
    import dataclasses
    return dataclasses.replace(choice, mode="shadow")


# The contract


def test_an_own_rule_may_say_how_near_it_is(tmp_path):
    assert rules_of(tmp_path / "one", GOOD)["own"].nearness is None
    assert rules_of(tmp_path / "two", NEAR)["own"].nearness is not None


@pytest.mark.parametrize("text, expected", [
    (NEAR.replace("    return -position.side * market.imbalance_10s / params.limit\n", "    return None\n"), "nearness answers None"),
    (NEAR.replace("    return -position.side * market.imbalance_10s / params.limit\n", "    return 0.5\n"),
     "nearness answers 0.5 .* where nothing is known of the market; 0 or NaN is right there"),
    (NEAR.replace("-position.side * market.imbalance_10s / params.limit", "1e999 if market.mid_ok else 0.0"), "nearness answers inf .* where everything is known"),
    (NEAR.replace("/ params.limit", "/ params.limits"), "params has no 'limits'"),
    (NEAR.replace("    return -position.side * market", "    return 1 / 0 - position.side * market"), "line 38: ZeroDivisionError: .*nearness"),
    (NEAR.replace("nearness(params, state, market, position)", "nearness(market)").replace("-position.side * ", "").replace(
        " / params.limit", ""), "TypeError: nearness"),
], ids=["no answer", "near in the dark", "infinite", "typo", "fails", "too few arguments"])
def test_a_broken_nearness_is_named_in_one_sentence(tmp_path, text, expected):
    assert text != NEAR
    with pytest.raises(BadInput, match=expected) as caught:
        rules_of(tmp_path, text)
    assert str(tmp_path / "own.py") in str(caught.value)
