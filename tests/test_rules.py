"""Every shipped rule: when it speaks, when it is silent, both sides, and which parameters it takes."""

import math

import numpy as np
import pytest
from cases import (
    CASES,
    ENTRY,
    HELD,
    NAMES,
    NOW_NS,
    RULES,
    Case,
    ask,
    market_of,
    record_of,
    reflected_market,
    reflected_position,
)
from streams import SECOND

from engine.errors import BadInput
from engine.kernel import records as R
from engine.kernel.market import POSITION
from engine.rules import choose


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_rule_speaks_when_its_conditions_hold(case, side):
    params, market, position = case.parts()
    if side < 0:
        market, position = reflected_market(market), reflected_position(position)
    assert ask(case.rule, params, market, position, again_after_s=case.dwell_s)[0] == case.action
    if case.dwell_s:
        assert ask(case.rule, params, market, position)[0] == R.HOLD
        assert ask(case.rule, params, market, position, again_after_s=case.dwell_s - 0.001)[0] == R.HOLD


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("case, changes", [(case, changes) for case in CASES for changes in case.misses],
                         ids=[f"{name}-{changes}" for case, name in zip(CASES, NAMES, strict=True) for changes in case.misses])
def test_a_rule_is_silent_when_one_condition_fails(case, changes, side):
    params, market, position = case.parts(changes)
    if side < 0:
        market, position = reflected_market(market), reflected_position(position)
    assert ask(case.rule, params, market, position, again_after_s=5.0 if case.dwell_s else 0.0)[0] == R.HOLD


def unknown_places(case: Case) -> list[tuple]:
    """Return each value the case gives, as a place to make unknown: (name,) or (side, name)."""
    places = [(name, inner) for name, value in case.market.items() if isinstance(value, dict) for inner in value]
    places += [(name,) for name, value in case.market.items() if not isinstance(value, dict)]
    return [place for place in [*places, *((name,) for name in case.held)] if place[-1] not in case.spare]


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("case, place", [(case, place) for case in CASES for place in unknown_places(case)],
                         ids=[f"{name}-{'.'.join(place)}" for case, name in zip(CASES, NAMES, strict=True)
                              for place in unknown_places(case)])
def test_a_rule_is_silent_when_one_thing_is_not_known(case, place, side):
    """NaN, MISSING, or a feed that is not well: never a reason (R42, C30)."""
    params, market, position = case.parts()
    if place[-1] in ("peak_ticks", "gain_ticks", "exit_ticks", "entry_ticks"):
        pytest.skip("always known once a position is marked, and a rule is asked only then")
    held = place[0] in case.held
    row = position if held else market[place[0]] if len(place) == 2 else market
    value = row[place[-1]]
    row[place[-1]] = math.nan if isinstance(value, float | np.floating) else 0 if place[-1].endswith("_ok") else R.MISSING
    if place[-1] == "flow_10s_lots":
        market["trades_10s"] = R.MISSING      # both are sums over the same window
    if side < 0:
        market, position = reflected_market(market), reflected_position(position)
    assert ask(case.rule, params, market, position, again_after_s=5.0 if case.dwell_s else 0.0)[0] == R.HOLD


@pytest.mark.parametrize("case", [case for case in CASES if case.dwell_s], ids=lambda case: f"{case.rule}-{case.preset}")
def test_a_dwell_starts_anew_after_anything_unknown(case):
    """A second of not knowing is no second in which the condition held."""
    params, market, position = case.parts()
    state = RULES[case.rule].module.State()
    assert ask(case.rule, params, market, position, state)[0] == R.HOLD
    dark = market_of({"now_ns": NOW_NS + SECOND})
    assert ask(case.rule, params, dark, position, state)[0] == R.HOLD
    later = market.copy()
    later["now_ns"] += 2 * SECOND
    assert ask(case.rule, params, later, position, state)[0] == R.HOLD


# Parameters


@pytest.mark.parametrize("name, params", [
    ("momentum_reversal", {"adverse_pct": 0.0}), ("momentum_reversal", {"adverse_pct": -0.2}), ("momentum_reversal", {"adverse_pct": 11.0}),
    ("momentum_reversal", {"fire_z": -1.0}), ("momentum_reversal", {"dwell_ms": -1.0}), ("momentum_reversal", {"action": R.TIGHTEN}),
    ("order_flow", {"score": 0.0}), ("order_flow", {"score": 100.0}), ("order_flow", {"min_trades": 0}), ("order_flow", {"action": 5}),
    ("whale", {"large_usd": 400_000.0}), ("whale", {"large_usd": 2e6}), ("whale", {"share": 0.0}), ("whale", {"share": 1.01}),
    ("whale", {"fresh_ms": 0.0}),
    ("whale", {"large_stop_pct": 0.0}), ("whale", {"whale_action": 0}), ("void", {"within_bps": 0.0}), ("void", {"within_bps": 21.0}),
    ("void", {"adverse_action": R.TIGHTEN}), ("void", {"favourable_action": 5}), ("void", {"reach": -1.0}),
    ("divergence", {"residual_z": -1.0}),
    ("divergence", {"action": R.HOLD}), ("breakeven", {"at_r": 0.0}), ("breakeven", {"spreads": -1.0}),
    ("trailing_stop", {"distance_r": 0.0}),
    ("trailing_stop", {"arm_r": -0.1}), ("tighter_stop", {"at_r": 1.0}), ("tighter_stop", {"at_r": 0.0})])
def test_parameters_out_of_range_are_refused(name, params):
    with pytest.raises(ValueError):
        RULES[name].module.Params(**params)
    place, value = next(iter(params.items()))
    with pytest.raises(BadInput, match=f"--set {name}"):
        choose(RULES, "all", [f"{name}.{place}={value}"])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize("place", [f"{name}.{param}" for name, rule in RULES.items() for param, kind in rule.params_fields if kind == "f8"])
def test_no_parameter_may_be_nan_or_infinite(place, value):
    with pytest.raises(BadInput, match=f"--set {place.split('.')[0]}"):
        choose(RULES, "all", [f"{place}={value}"])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_both_presets_or_is_a_control(name):
    assert list(RULES[name].presets) in (["robust", "classic"], ["default"])
    assert (name in ("breakeven", "trailing_stop", "tighter_stop")) == (list(RULES[name].presets) == ["default"])


# Stops of the controls


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("name, held, distance", [("breakeven", {"gain_r": 0.6}, 100),
                                                  ("trailing_stop", {"peak_r": 0.9, "peak_ticks": 5_400}, 2_400),
                                                  ("tighter_stop", {}, -3_000)])
def test_where_the_price_only_controls_put_the_stop(name, held, distance, side):
    """Breakeven at the entry plus one spread, the trail half a risk behind the best, the tighter stop at half the risk."""
    position = record_of(POSITION, {**HELD, **held})
    if side < 0:
        position = reflected_position(position)
    action, state = ask(name, RULES[name].presets["default"], market_of({}), position)
    assert action == R.TIGHTEN and state.stop_ticks == ENTRY + side * distance
    position["stop_ticks"] = ENTRY + side * (distance + 1)
    assert ask(name, RULES[name].presets["default"], market_of({}),
               position)[0] == R.HOLD, "a stop that is as near already is not asked for again"
