"""The requirements on rules and exits, R35 to R65, and how contradictions between them were resolved, C1 to C31."""

import math
from dataclasses import replace

import pytest
from cases import BEHIND, CASES, HELD, RULES, THIN, ask, market_of, record_of, reflected_market, reflected_position
from streams import SECOND, Stream, play

from engine.kernel import records as R
from engine.kernel.market import POSITION
from engine.rules import choose, find_rules
from engine.run import Settings


def only(wanted: str, *changes: str):
    """Return one rule, acting."""
    found = find_rules()
    choices = choose(found, wanted, list(changes))
    return [choice for choice in choices if choice.mode != "off"]


def falling(stream: Stream, bps: float, seconds: float = 5.0, quotes: bool = True) -> Stream:
    """Let the venue fall by so many basis points in even steps; negative rises."""
    start = stream.bid
    for step in range(1, round(seconds * 10) + 1):
        ticks = round(start * bps / 10_000 * step / (seconds * 10))
        stream.best(start - ticks, start - ticks + 1)
        stream.wait(0.1, quotes)
    return stream


@pytest.mark.parametrize("side", [1, -1])
def test_R35_R44_C3_C4_the_venue_turns_the_rule_decides_and_the_broker_fills(side):
    """Check the broker's price, then the venue's momentum, then leave: decided on the venue's move, filled at a later quote."""
    stream = Stream().wait(12).open(7, side, 6_000_000, 6_000_000 - side * 60_000)
    falling(stream.wait(1), side * 25.0).wait(1)
    _, decisions, fills = play(stream, only("momentum_reversal:classic"))
    acted = decisions[decisions["result"] == R.ACTED]
    assert len(acted) == 1 and acted["action"][0] == R.CLOSE and acted["ticket"][0] == 7
    assert list(fills["code"]) == [R.RULE_CLOSED] and fills["decided_ns"][0] == acted["recv_ns"][0]
    assert fills["recv_ns"][0] >= acted["recv_ns"][0] + 250_000_000
    assert acted["evidence_0"][0] < -20.0 and acted["evidence_1"][0] == pytest.approx(20.0)
    other = Stream().wait(12).open(7, side, 6_000_000, 6_000_000 - side * 60_000)
    falling(other.wait(1), -side * 25.0).wait(1)
    assert not len(play(other, only("momentum_reversal:classic"))[1]), "a move in favour is no reason to leave"


def test_R38_R62_R64_C27_every_action_is_one_row_of_one_shape():
    stream = Stream().wait(12).open(7, 1, 6_000_000, 5_940_000)
    _, decisions, _ = play(falling(stream, 25.0).wait(1), only("momentum_reversal:classic"))
    row = decisions[0]
    assert {"seq", "recv_ns", "ticket", "symbol", "rule", "action", "mode", "result", "votes", "occasion", "bid_ticks", "ask_ticks",
            "venue_mid2", "stop_ticks",
            "volume_left", "gain_r", "age_ns", "evidence_0"} <= set(decisions.dtype.names)
    assert row["ticket"] == 7 and row["rule"] == 0 and row["votes"] == 1 and row["venue_mid2"] > 0 and row["bid_ticks"] > 0


@pytest.mark.parametrize("side", [1, -1])
def test_R39_C31_profit_is_signed_at_the_price_it_could_be_left_at(side):
    """A long is valued at the bid, a short at the ask; percent and R are positive when it gains."""
    stream = Stream().wait(1).open(7, side, 6_000_000, 6_000_000 - side * 60_000).quote(6_030_000, 6_030_100)
    run, *_ = play(stream, only("momentum_reversal:classic"))
    position = run.arrays["positions"][0, 0]
    price = 6_030_000 if side > 0 else 6_030_100
    assert position.exit_ticks == price and position.gain_ticks == side * (price - 6_000_000)
    assert position.gain_bps == pytest.approx(side * (price - 6_000_000) / 6_000_000 * 1e4)
    assert position.gain_r == pytest.approx(position.gain_ticks / 60_000)


@pytest.mark.parametrize("preset", ["classic", "robust"])
def test_R36_R42_without_the_venue_the_checks_are_skipped_and_nothing_fails(preset):
    """Only broker quotes: price-only rules go on, the others say nothing."""
    stream = Stream().quote(5_999_500, 6_000_500).open(7, 1, 6_000_000, 5_940_000)
    for step in range(60):
        stream.timer().quote(6_000_000 + 1_000 * step, 6_000_100 + 1_000 * step)
    choices = choose(RULES, ",".join(f"{name}:{preset}" if preset in rule.presets else name for name, rule in RULES.items()), [])
    _, decisions, _ = play(stream, choices)
    assert {choices[r].rule.name for r in decisions["rule"]} == {"breakeven", "trailing_stop", "tighter_stop"}


def test_R43_C20_momentum_is_the_percent_change_over_ten_seconds():
    stream = falling(Stream().wait(12), 20.0, seconds=2.0)
    run, *_ = play(stream, only("momentum_reversal:classic"))
    assert run.arrays["market"]["move_10s_bps"][0] == pytest.approx(-20.0, abs=0.1)
    run, *_ = play(stream.wait(10.5), only("momentum_reversal:classic"))
    assert run.arrays["market"]["move_10s_bps"][0] == 0.0


def test_R45_C3_only_an_adverse_move_counts():
    params, _, position = CASES[0].parts()
    answers = [ask("momentum_reversal", params, market_of({"move_10s_bps": move}), position)[0] for move in (-25.0, -19.9, 0.0, 19.9, 25.0)]
    assert answers == [R.CLOSE, R.HOLD, R.HOLD, R.HOLD, R.HOLD]


def test_R46_lead_can_be_measured():
    """The claim of 5 to 10 s is not built in: the decision and the fill carry the times it is measured from."""
    stream = Stream().wait(12).open(7, 1, 6_000_000, 5_940_000)
    _, decisions, fills = play(falling(stream, 25.0).wait(1), only("momentum_reversal:classic"), Settings(latency_ns=SECOND))
    assert fills["decided_ns"][0] == decisions["recv_ns"][0] and fills["recv_ns"][0] - fills["decided_ns"][0] >= SECOND


@pytest.mark.parametrize("side, against", [(1, "bearish"), (-1, "bullish")])
def test_R47_R48_C4_C5_strong_contrary_flow_leaves_on_both_sides(side, against):
    params, market, position = CASES[2].parts()
    if side < 0:
        market, position = reflected_market(market), reflected_position(position)
    action, state = ask("order_flow", params, market, position)
    assert action == R.CLOSE and state.score == 80.0 > params.score == 75.0


def test_C7_the_classic_score_has_six_values():
    module, seen = RULES["order_flow"].module, set()
    for top5 in (0.0, -0.2, 0.2):
        for sells in (0, 9):
            for flow in (0.0, -0.3, 0.3):
                seen.add(module.points(1,
                                       market_of({"top5_imbalance": top5, "big_buys_60s": 1, "big_sells_60s": sells,
                                                  "imbalance_30s": flow})))
    assert seen == {0.0, 25.0, 30.0, 50.0, 55.0, 80.0}


def sweep(stream: Stream, side: int, usd: float, prints: int = 1) -> Stream:
    """Add one sweep of this value at 60,000.0: prints of one instant with adjacent ids."""
    lots, event_ns = round(usd / 60), stream.now_ns
    parts = [lots // prints] * (prints - 1)
    for each in [*parts, lots - sum(parts)]:
        stream.trade(side, each, event_ns=event_ns)
    return stream


@pytest.mark.parametrize("usd, tier", [(499_980, 0), (500_000, 1), (520_020, 1), (999_960, 1), (1_000_020, 2)])
@pytest.mark.parametrize("side", [1, -1])
def test_R49_R52_C1_C2_two_tiers_each_from_its_limit_on(usd, tier, side):
    """$500k is large, $1M a whale, both limits belong to the tier; below there is nothing."""
    stream = sweep(Stream().wait(1).open(7, side, 6_000_000, 6_000_000 - side * 60_000).wait(0.2), -side, math.ceil(usd / 60) * 60)
    _, decisions, _ = play(stream.wait(0.3), only("whale:classic"))
    assert len(decisions) == (tier > 0)
    if tier:
        assert decisions["evidence_2"][0] == tier and decisions["action"][0] == R.TIGHTEN and decisions["result"][0] == R.ACTED
        distance = {1: 0.0025, 2: 0.0015}[tier]
        assert side * (6_000_000 - decisions["stop_ticks"][0]) == pytest.approx(6_000_000 * distance, abs=600)


def test_R49_C1_exactly_the_limit_is_large():
    """62,500 has lots that make exactly $500,000: 8,000 of 62.50."""
    stream = Stream().best(625_000, 625_001)
    stream.wait(1).open(7, 1, 6_250_000, 6_190_000).wait(0.2).trade(-1, 8_000, 625_000)
    _, decisions, _ = play(stream.wait(0.3), only("whale:classic"))
    assert len(decisions) == 1 and decisions["evidence_0"][0] == 500_000.0


def test_R50_R53_R64_a_sell_whale_of_1m_tightens_a_long():
    stream = sweep(Stream().wait(1).open(7, 1, 6_000_000, 5_940_000).wait(0.2), -1, 1_200_000)
    run, decisions, fills = play(stream.wait(1), only("whale:classic"))
    row = decisions[0]
    assert (row["action"], row["result"], row["ticket"]) == (R.TIGHTEN, R.ACTED, 7)
    assert (row["evidence_0"], row["evidence_1"], row["evidence_2"], row["evidence_3"]) == (1_200_000.0, stream.trade_id, 2, -1)
    assert list(fills["code"]) == [R.STOP_MOVED] and run.arrays["positions"][0, 0].stop_ticks == row["stop_ticks"] > 5_940_000
    assert run.arrays["market"]["whale_ticks"][0] == 600_000


def test_R51_a_buy_whale_of_1m_tightens_a_short():
    stream = sweep(Stream().wait(1).open(7, -1, 6_000_000, 6_060_000).wait(0.2), 1, 1_200_000)
    run, decisions, _ = play(stream.wait(1), only("whale:classic"))
    assert decisions["action"][0] == R.TIGHTEN and run.arrays["positions"][0, 0].stop_ticks == decisions["stop_ticks"][0] < 6_060_000
    same = sweep(Stream().wait(1).open(7, -1, 6_000_000, 6_060_000).wait(0.2), -1, 1_200_000)
    assert not len(play(same.wait(1), only("whale:classic"))[1]), "a whale on the position's own side is no warning"


def test_R50_R63_a_whale_may_exit_immediately():
    stream = sweep(Stream().wait(1).open(7, 1, 6_000_000, 5_940_000).wait(0.2), -1, 1_200_000)
    _, decisions, fills = play(stream.wait(1), only("whale:classic", f"whale.whale_action={R.CLOSE}"))
    assert decisions["action"][0] == R.CLOSE and list(fills["code"]) == [R.RULE_CLOSED]


def test_R54_C13_the_rule_answers_a_whale_that_has_traded():
    """It cannot leave before the order hits: the decision is on the very print that made the sweep large, never before it."""
    stream = Stream().wait(1).open(7, 1, 6_000_000, 5_940_000).wait(0.2)
    sweep(stream, -1, 1_260_000, prints=6)
    prints = [row["recv_ns"] for row in stream.rows if row["kind"] == R.TRADE]
    _, decisions, _ = play(stream.wait(0.5), only("whale:classic"))
    assert list(decisions["recv_ns"]) == [prints[2], prints[4]] and list(decisions["evidence_2"]) == [1, 2]


def test_C14_a_whale_is_a_sweep_and_not_a_print():
    """The same value in one instant counts once; the same prints a millisecond apart, or with a hole in their ids, are small orders."""
    for event_step, skip, expected in ((0, 0, {R.TIGHTEN}), (1_000_000, 0, set()), (0, 1, set())):
        stream = Stream().wait(1).open(7, 1, 6_000_000, 5_940_000).wait(0.2)
        begun = stream.now_ns
        for n in range(8):
            stream.trade(-1, 1_250, event_ns=begun + n * event_step, skip=skip)
        _, decisions, _ = play(stream.wait(0.3), only("whale:classic"))
        assert set(decisions["action"].tolist()) == expected


def test_C29_one_whale_acts_once():
    """It stays in view for two seconds and many events, and moves the stop once; the next whale moves it again."""
    stream = sweep(Stream().wait(1).open(7, 1, 6_000_000, 5_940_000).wait(0.2), -1, 600_000).wait(4)
    _, decisions, fills = play(stream, only("whale:classic"))
    assert len(decisions) == 1 and list(fills["code"]) == [R.STOP_MOVED]
    falling(stream, -10.0).wait(1)
    sweep(stream, -1, 600_000).wait(4)
    _, decisions, fills = play(stream, only("whale:classic"))
    assert len(decisions) == 2 and len(set(decisions["occasion"])) == 2 and len(fills) == 2


def test_C29_a_whale_from_before_the_position_is_history():
    stream = sweep(Stream().wait(1), -1, 2_000_000).open(7, 1, 6_000_000, 5_940_000)
    assert not len(play(stream.wait(2), only("whale:classic"))[1])


@pytest.mark.parametrize("preset, near, count", [("classic", "thin", "thin_id"), ("robust", "void", "void_id")])
def test_C29_one_void_acts_once_whatever_else_is_seen_meanwhile(preset, near, count):
    """An alert about the void ahead must not make the one behind count as new, nor the other way round."""
    behind = {**BEHIND, **THIN, count: 3}
    ahead = {**BEHIND, **THIN, count: 5}
    params = RULES["void"].presets[preset]
    position = record_of(POSITION, HELD)
    state, seen = RULES["void"].module.State(), []
    for sides in ({"bid": behind}, {"bid": {**behind, f"{near}_near_bps": 15.0}, "ask": ahead}, {"bid": behind, "ask": ahead},
                  {"bid": {**behind, f"{near}_near_bps": 15.0}, "ask": ahead}):
        market = market_of({"book_ok": 1, "flow_10s_lots": -2_000, "trades_10s": 50, "imbalance_10s": -0.5, **sides})
        action, state = ask("void", params, market, position, state)
        seen.append((action, state.occasion if action else 0))
    occasions = [occasion for _, occasion in seen if occasion]
    changes = [occasion for n, occasion in enumerate(occasions) if n == 0 or occasion != occasions[n - 1]]
    assert len(changes) == len(set(changes)), f"an occasion comes back after another: {seen}"
    assert seen[0][0] == R.PARTIAL


@pytest.mark.parametrize("side", [1, -1])
def test_R55_R58_C9_a_void_ahead_warns_and_a_void_behind_reduces(side):
    """The plan's literal rule (R56 ask void over a long, R57 bid void under a short) lets price run for the position: only an alert."""
    for case, expected in ((CASES[6], R.PARTIAL), (CASES[7], R.ALERT)):
        params, market, position = case.parts()
        if side < 0:
            market, position = reflected_market(market), reflected_position(position)
        action, state = ask("void", params, market, position)
        assert action == expected and state.adverse == (expected == R.PARTIAL) and state.share == 0.5
        literal = replace(params, favourable_action=R.PARTIAL, adverse_action=R.HOLD)
        assert ask("void", literal, market, position)[0] == (R.HOLD if expected == R.PARTIAL else R.PARTIAL)


def test_R56_C10_C11_approaching_means_within_a_tenth_of_a_percent_of_the_venues_own_touch():
    params, market, position = CASES[7].parts()
    answers = []
    for near in (9.99, 10.0, 10.01):
        market["ask"]["thin_near_bps"] = near
        answers.append(ask("void", params, market, position)[0])
    assert answers == [R.ALERT, R.ALERT, R.HOLD]
    position["exit_ticks"] += 60_000
    market["ask"]["thin_near_bps"] = 9.0
    assert ask("void", params, market, position)[0] == R.ALERT, "the broker's price, basis and all, does not enter"


def book(hollow: dict[int, range], levels: int = 40, lots: int = 1_000) -> tuple[dict, dict]:
    """Return a book of one level in each half basis point (30 ticks) of 60,000, empty in some bins of a side."""
    sides = []
    for side, touch in ((1, 600_000), (-1, 600_001)):
        sides.append({touch - side * 30 * j: lots for j in range(levels) if j not in hollow.get(side, ())})
    return tuple(sides)


@pytest.mark.parametrize("hollow, expected", [(range(0), None), (range(1, 4), 0.5), (range(6, 9), 3.0), (range(6, 7), None)])
def test_R56_C12_the_bin_at_the_touch_never_counts(hollow, expected):
    """A gap right behind the best price begins a bin away from it; one bin alone is no void."""
    bids, asks = book({1: hollow})
    bids[600_000] = 1              # the touch bin itself is nearly empty
    stream = Stream().snapshot(bids, asks).open(7, 1, 6_000_000, 5_940_000).wait(0.5)
    run, decisions, _ = play(stream, only("void:classic"))
    near = run.arrays["market"][0]["bid"]["thin_near_bps"]
    assert math.isnan(near) if expected is None else near == pytest.approx(expected, rel=1e-4)
    assert len(decisions) == (expected is not None)
    if expected:
        assert decisions["action"][0] == R.PARTIAL


def test_R57_C9_a_void_over_a_short_is_behind_it():
    bids, asks = book({-1: range(6, 9)})
    stream = Stream().snapshot(bids, asks).open(7, -1, 6_000_000, 6_060_000).open(8, 1, 6_000_000, 5_940_000).wait(0.5)
    _, decisions, fills = play(stream, only("void:classic"))
    assert {(int(row["ticket"]), int(row["action"])) for row in decisions} == {(7, R.PARTIAL), (8, R.ALERT)}
    assert list(fills["code"]) == [R.RULE_REDUCED] and fills["volume"][0] == fills["volume_left"][0] == 50


def test_C11_nothing_is_claimed_beyond_recorded_depth():
    bids, asks = book({}, levels=15)
    run, decisions, _ = play(Stream().snapshot(bids, asks).open(7, 1, 6_000_000, 5_940_000).wait(0.5), only("void:classic"))
    assert math.isnan(run.arrays["market"][0]["bid"]["thin_near_bps"]) and not len(decisions)


def extremes(stream: Stream, older_bps: float, recent_bps: float) -> Stream:
    """Move the venue over two halves of ten seconds."""
    falling(stream.wait(12), -older_bps, 10.0)
    return falling(stream, -recent_bps, 10.0)


@pytest.mark.parametrize("side", [1, -1])
def test_R59_R60_R61_C4_C15_a_new_extreme_with_less_momentum_warns(side):
    """Ten seconds and the ten before them, of time and not of ticks; both sides."""
    stream = extremes(Stream(), side * 8.0, side * 3.0).open(7, side, 6_000_000, 6_000_000 - side * 90_000).wait(0.2)
    run, decisions, _ = play(stream, only("divergence:classic"))
    market = run.arrays["market"][0]
    assert market["move_older_bps"] * side == pytest.approx(8.0, abs=0.3)
    assert market["move_recent_bps"] * side == pytest.approx(3.0, abs=0.3)
    assert decisions["action"][0] == R.ALERT
    assert decisions["evidence_0"][0] == pytest.approx(5.0, abs=0.5), "R61, R64: strength is the momentum lost"
    steady = extremes(Stream(), side * 8.0, side * 8.0).open(7, side, 6_000_000, 6_000_000 - side * 90_000).wait(0.2)
    assert not len(play(steady, only("divergence:classic"))[1]), "C21: a steady move has not lost momentum"


def test_R59_too_little_history_is_no_divergence():
    stream = falling(Stream().wait(5), -8.0, 5.0).open(7, 1, 6_000_000, 5_910_000).wait(0.2)
    run, decisions, _ = play(stream, only("divergence:classic"))
    assert run.arrays["market"][0]["high_20s_2"] == R.MISSING and not len(decisions)


def test_R62_R63_the_four_kinds_of_the_plan_and_what_they_do():
    """early_exit, whale_alert + tighten_stop, void_warning + partial_exit, divergence_warning + consider_exit."""
    classic = {name: rule.presets["classic"] for name, rule in RULES.items() if "classic" in rule.presets}
    assert set(classic) == {"momentum_reversal", "order_flow", "whale", "void", "divergence"}
    assert classic["momentum_reversal"].action == classic["order_flow"].action == R.CLOSE
    assert classic["whale"].large_action == classic["whale"].whale_action == R.TIGHTEN
    assert classic["void"].adverse_action == R.PARTIAL and classic["divergence"].action == R.ALERT
    assert (classic["momentum_reversal"].adverse_pct, classic["order_flow"].score, classic["whale"].large_usd, classic["whale"].whale_usd,
            classic["void"].within_bps) == (0.2, 75.0, 500_000.0, 1_000_000.0, 10.0)


@pytest.mark.parametrize("name", RULES)
def test_R64_evidence_is_the_first_eight_fields_of_state(name):
    rule = RULES[name]
    assert rule.evidence == [field for field, _ in rule.state_fields][:8]
    wanted = {"whale": {"usd", "side", "trade_id"}, "void": {"near_bps", "far_bps", "adverse"}, "divergence": {"strength"},
              "order_flow": {"score"},
              "momentum_reversal": {"move_bps"}}
    assert wanted.get(name, set()) <= set(rule.evidence)


def test_R65_C5_C6_one_sign_for_every_side():
    """Positions, whales and flow speak of sides as +1 and -1, so that no spelling can keep a branch from running."""
    stream = sweep(Stream().wait(12).open(7, 1, 6_000_000).open(8, -1, 6_000_000), -1, 700_000).wait(0.1)
    run, *_ = play(stream, only("whale:classic"))
    assert sorted(run.arrays["positions"]["side"][0][:2]) == [-1, 1] and run.arrays["market"]["whale_side"][0] == -1
    assert run.arrays["market"]["imbalance_10s"][0] == -1.0 or math.isnan(run.arrays["market"]["imbalance_10s"][0])
