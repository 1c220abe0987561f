"""Order flow, its trend and the decision, R18 to R34, and the earlier system's mistakes in them."""

import pytest
from analyses import PER_USD, Tape, folded, lots_between
from streams import SECOND

from engine.analysis.decision import Recommendation, contradicts, recommend, signed
from engine.analysis.enrichment import health
from engine.analysis.order_flow import WINDOWS, activity, earlier_score, order_flow_signal, recent_whales, score, several, side_of, voids, window_of
from engine.analysis.server import _PROMPT_TEXT, INSTRUCTIONS
from engine.analysis.summary import analyse_moment, get_order_flow_signal, get_order_flow_trend, get_signal
from engine.analysis.trend import order_flow_trend
from engine.errors import BadInput
from engine.kernel import records as R

LARGE_LOTS = round(600_000 / PER_USD)      # of the large tier


def bullish(**options) -> Tape:
    return Tape().walk(70, lean=0.9, book=(200, 100), **options)


def flow_of(side: int, confidence: float, v1: int = 0) -> dict:
    """Return a signal as the decision reads it."""
    name = {1: "BULLISH", 0: "NEUTRAL", -1: "BEARISH"}[side]
    return {"window_s": 30, "side": side, "signal": name, "score": side * confidence, "confidence": confidence, "whale_activity": "NEUTRAL", "parts": {},
            "v1": {"score": v1, "signal": name if v1 else "NEUTRAL"}}


WELL = {"value": "healthy", "troubles": []}


def advice(flow: dict, direction: str | None = None, longer: int = 0, trend: int = 0, feed: dict = WELL) -> dict:
    words = {1: "BULLISH", 0: "NEUTRAL", -1: "BEARISH"}
    return recommend(flow, {"window_s": 180, "side": longer, "signal": words[longer]}, {"side": trend, "trend": words[trend]}, feed, {}, direction)


def test_R18_C30_without_order_flow_nothing_fails_and_nothing_is_claimed():
    stream = Tape().wait(40)
    answer = analyse_moment(folded(stream), "BTCUSDT")
    flow, said = answer["order_flow"], answer["recommendation"]
    assert flow["side"] is None and flow["signal"] is None and flow["confidence"] is None and flow["reason"]
    assert said["direction"] == "HOLD" and said["warnings"] and said["order_flow_signal"] is None


def test_R18_C25_one_method_with_a_window_and_its_old_name():
    moment = folded(bullish())
    assert get_order_flow_signal(moment, "BTCUSDT") == get_signal(moment, "BTCUSDT") == get_signal(moment, "btcusdt", window=30)
    assert get_signal(moment, "BTCUSDT", window="M5")["window_s"] == 30


def test_R19_R20_R21_order_flow_stands_on_the_recommendation_itself():
    answer = analyse_moment(folded(bullish()), "BTCUSDT")
    said, flow = answer["recommendation"], answer["order_flow"]
    assert said["order_flow_signal"] == flow["signal"] == "BULLISH"
    assert said["order_flow_confidence"] == flow["confidence"] == abs(flow["score"]) > 35
    assert said["whale_positioning"] == flow["whale_activity"] in ("ACCUMULATING", "DISTRIBUTING", "NEUTRAL")
    assert said["direction"] == "BUY" and "score" in flow["unit"]


@pytest.mark.parametrize("side, direction, fires", [(1, "BUY", False), (-1, "BUY", True), (1, "SELL", True), (-1, "SELL", False), (0, "BUY", False),
                                                    (1, "HOLD", False), (-1, "buy", True), (1, "Long", False), (-1, "HOLD", False)])
def test_R22_C6_regression_the_contradiction_is_of_signed_sides(side, direction, fires):
    """The earlier system compared BULLISH with BUY as words, so its warning always fired."""
    said = advice(flow_of(side, 80.0 if side else 0.0), direction)
    words = {1: "BULLISH", 0: "NEUTRAL", -1: "BEARISH"}
    assert said["contradiction"]["present"] is fires
    expected = [f"ORDER FLOW CONTRADICTION: {words[side]} vs {said['direction']}"] if fires else []
    assert [text for text in said["warnings"] if "CONTRADICTION" in text] == expected


def test_R22_the_warning_needs_a_score_over_70_the_typed_field_does_not():
    weak = advice(flow_of(-1, 60.0), "BUY")
    assert weak["contradiction"] == {"present": True, "order_flow": -1, "recommendation": 1} and weak["warnings"] == []
    assert advice(flow_of(-1, 60.0, v1=80), "BUY")["warnings"] == ["ORDER FLOW CONTRADICTION: BEARISH vs BUY"]
    assert advice(flow_of(-1, 70.0), "BUY")["warnings"] == [] and advice(flow_of(-1, 70.1), "BUY")["warnings"]


def test_R22_over_a_whole_analysis():
    moment = folded(bullish().trade(1, LARGE_LOTS).wait(0.2))
    assert analyse_moment(moment, "BTCUSDT", "SELL")["recommendation"]["warnings"] == ["ORDER FLOW CONTRADICTION: BULLISH vs SELL"]
    assert analyse_moment(moment, "BTCUSDT", "BUY")["recommendation"]["warnings"] == []


def test_contradiction_of_words_and_the_unknown():
    assert signed("Bullish") == signed("buy") == 1 and signed("SHORT") == -1 and signed("hold") == signed("NEUTRAL") == 0 and signed(None) is None
    assert not contradicts(None, "BUY") and not contradicts("BULLISH", None) and contradicts("bearish", "long")
    with pytest.raises(BadInput, match="direction 'UP'"):
        signed("UP")


@pytest.mark.parametrize("flow, longer, trend, feed, expected, why", [
    (flow_of(1, 60), 0, 0, WELL, "BUY", "BULLISH"), (flow_of(-1, 60), -1, -1, WELL, "SELL", "BEARISH"), (flow_of(0, 10), 1, 1, WELL, "HOLD", "no side"),
    (flow_of(1, 60), -1, 0, WELL, "HOLD", "180 s"), (flow_of(1, 60), 1, -1, WELL, "HOLD", "trend"),
    (flow_of(1, 60), 1, 1, {"value": "critical", "troubles": ["no fresh best quote"]}, "HOLD", "feed"),
    ({**flow_of(0, 0), "side": None, "signal": None, "confidence": None, "reason": "no trade"}, 0, 0, WELL, "HOLD", "not known")])
def test_R23_order_flow_decides_and_holding_has_a_reason(flow, longer, trend, feed, expected, why):
    said = advice(flow, None, longer, trend, feed)
    assert said["direction"] == expected and why in said["reason"]


def test_R23_a_reason_is_mandatory():
    with pytest.raises(ValueError, match="reason"):
        Recommendation("HOLD", "  ", None, None, None, False)
    with pytest.raises(ValueError, match="direction"):
        Recommendation("MAYBE", "x", None, None, None, False)


def test_R24_the_prompt_puts_order_flow_and_whales_first():
    assert _PROMPT_TEXT.index("Order flow") < _PROMPT_TEXT.index("Whales") < _PROMPT_TEXT.index("market fields") < _PROMPT_TEXT.index("decision")
    assert "HOLD" in INSTRUCTIONS and "order flow and whales decide" in INSTRUCTIONS


def leaning(leans: list[float], seconds: float = 75.0, books: list[tuple[int, int]] | None = None) -> Tape:
    """Trade with a lean that changes each reading."""
    stream = Tape().walk(5)
    for number, lean in enumerate(leans):
        stream.walk(seconds, seed=number + 1, lean=lean, book=books[number] if books else (100, 100))
    return stream


def test_R25_R28_C26_the_trend_reads_four_closed_parts_of_the_window():
    stream = leaning([0.2, 0.4, 0.6, 0.8], books=[(120, 100), (130, 100), (140, 100), (150, 100)])
    trend = get_order_flow_trend(folded(stream), "BTCUSDT")
    assert trend["window_s"] == 300 and trend["reading_s"] == 75 and len(trend["imbalance_trend"]) == 4
    assert trend["imbalance_trend"] == pytest.approx([1.2, 1.3, 1.4, 1.5], abs=0.03)
    last = folded(stream).view("BTCUSDT").closed_ns
    ago = (stream.now_ns - last) / SECOND
    for number, value in enumerate(trend["pressures"]):
        buys, sells = (lots_between(stream, ago + 300 - 75 * number, ago + 225 - 75 * number, side) for side in (1, -1))
        assert value == pytest.approx((buys - sells) / (buys + sells), abs=0.02)


def test_R25_C26_what_is_not_closed_yet_is_in_no_reading():
    """A whale since the last 100 ms slot closed is in the signal and not in the trend."""
    stream = Tape().walk(70).wait(0.1)
    moment = folded(stream)
    before, whales = order_flow_trend(moment.view("BTCUSDT"), 40), order_flow_signal(moment.view("BTCUSDT"))["parts"]["whales"]["n"]
    stream.now_ns += 1_000_000
    moment = folded(stream.trade(1, 4 * LARGE_LOTS))
    after = order_flow_trend(moment.view("BTCUSDT"), 40)
    for name in ("whales_net_usd", "pressures", "scores", "imbalance_trend", "trend", "n"):
        assert after[name] == before[name], name
    assert order_flow_signal(moment.view("BTCUSDT"))["parts"]["whales"]["n"] == whales + 1


@pytest.mark.parametrize("leans, expected, pressure", [
    ([0.1, 0.2, 0.7, 0.9], "INCREASINGLY_BULLISH", "STRENGTHENING"), ([0.7, 0.7, 0.7, 0.7], "STEADY_BULLISH", "STEADY"),
    ([0.9, 0.8, 0.3, 0.1], "WEAKENING_BULLISH", "WEAKENING"), ([-0.1, -0.2, -0.7, -0.9], "INCREASINGLY_BEARISH", "STRENGTHENING"),
    ([-0.9, -0.8, -0.3, -0.1], "WEAKENING_BEARISH", "WEAKENING"), ([0.02, -0.02, 0.02, -0.02], "NEUTRAL", None)])
def test_R26_R29_trend_and_pressure_trend(leans, expected, pressure):
    side = 1 if sum(leans) > 0 else -1
    book = (160, 100) if side > 0 else (100, 160)
    books = None if expected == "NEUTRAL" else [book] * 4
    trend = order_flow_trend(folded(leaning(leans, 20.0, books)).view("BTCUSDT"), 80)
    assert trend["trend"] == expected
    if pressure:
        assert trend["pressure_trend"] == pressure and trend["pressure_side"] == ("BUY" if side > 0 else "SELL")


@pytest.mark.parametrize("side, expected", [(1, "ACCUMULATING"), (-1, "DISTRIBUTING"), (0, "NEUTRAL")])
def test_R27_whale_activity_trend_is_by_value(side, expected):
    """Three large buys against one whale sell of more value are no accumulation: the earlier system counted heads."""
    stream = Tape().walk(70)
    if side:
        for _ in range(3):
            stream.wait(1).trade(-side, LARGE_LOTS // 4)
        stream.wait(1).trade(side, 4 * LARGE_LOTS)
    stream.wait(1)
    trend = order_flow_trend(folded(stream).view("BTCUSDT"), 40)
    assert trend["whale_activity_trend"] == expected
    assert sum(trend["whales_net_usd"]) * side >= 0 and (side == 0) == (sum(trend["whales_net_usd"]) == 0)


def test_a_trend_is_not_told_before_its_window_is_covered():
    trend = get_order_flow_trend(folded(Tape().walk(100)), "BTCUSDT")
    assert trend["trend"] is None and trend["pressure_trend"] is None and "of 300 s" in trend["reason"]
    with pytest.raises(BadInput, match="too short"):
        get_order_flow_trend(folded(Tape().walk(1)), "BTCUSDT", 4)


def test_R30_R34_several_windows_by_seconds_with_the_old_names_as_aliases():
    windows = several(folded(Tape().walk(200)).view("BTCUSDT"))
    assert {name: flow["alias"] for name, flow in windows.items()} == {"s30": "M5", "s180": "M15", "s600": "H1", "s3600": "H4"}
    assert windows["s180"]["side"] is not None and windows["s600"]["side"] is None
    assert "of 3600 s of trades are recorded" in windows["s3600"]["reason"] and windows["s3600"]["parts"]["pressure"]["covered_s"] == pytest.approx(200, abs=1)


@pytest.mark.parametrize("requirement, alias, seconds", [("R31", "M5", 30), ("R32", "M15", 180), ("R33", "H1", 600), ("R34", "H4", 3600)])
def test_R31_R32_R33_R34_each_window(requirement, alias, seconds):
    assert window_of(alias) == window_of(alias.lower()) == window_of(seconds) == WINDOWS[alias] == seconds


def test_R34_an_hour_of_flow_is_kept_and_counted():
    """One trade a second for an hour and a bit: the longest window is whole, and older trades are out of it."""
    stream = Tape()
    for second in range(3_660):
        stream.now_ns = (1_000 + second) * SECOND - 2_000_000
        stream.timer().best(600_000, 600_001).trade(-1 if second < 60 else 1, 10)
    part = order_flow_signal(folded(stream).view("BTCUSDT"), "H4")["parts"]["pressure"]
    assert part["n"] in (3_600, 3_601) and part["value"] > 0.999 and part["covered_s"] == 3600.0


@pytest.mark.parametrize("bad", ["H9", "", 0, -1, 3_601, 10**12, 2.5, True, None, "1e3", [30], float("nan"), float("inf")])
def test_a_window_that_is_none_is_refused(bad):
    with pytest.raises(BadInput, match="window"):
        window_of(bad)


def test_pressure_and_whales_by_tier_against_a_count_by_hand():
    stream = Tape().walk(70, seed=9)
    stream.wait(1).trade(1, LARGE_LOTS // 3).wait(0.5).trade(-1, LARGE_LOTS).wait(0.5).trade(1, 2 * LARGE_LOTS).wait(0.5)
    view = folded(stream).view("BTCUSDT")
    flow = order_flow_signal(view, 30)
    tiers = flow["parts"]["whales"]["tiers"]
    assert [(name, tier["buy_n"], tier["sell_n"]) for name, tier in tiers.items()] == [("medium", 1, 0), ("large", 0, 1), ("whale", 1, 0)]
    assert tiers["whale"]["buy_usd"] == pytest.approx(2 * LARGE_LOTS * PER_USD, rel=1e-6)
    found = recent_whales(view)
    assert [each["tier"] for each in found] == ["whale", "large", "medium"] and [each["side"] for each in found] == ["BUY", "SELL", "BUY"]
    assert [each["tier"] for each in recent_whales(view, "large")] == ["whale", "large"]
    # the kernel's slots close every 100 ms: a window is at most one slot longer than asked
    short, long = (lots_between(stream, seconds, side=1) for seconds in (30, 30.2))
    buys = (flow["parts"]["pressure"]["value"] + 1) / 2 * sum(int(each) for each in view.window(30)[[R.BUY, R.SELL]])
    assert short - 1 <= buys <= long + 1
    with pytest.raises(BadInput, match="size 'huge'"):
        recent_whales(view, "huge")


def test_no_large_order_is_a_known_zero_and_no_cover_is_not():
    known = order_flow_signal(folded(Tape().walk(70)).view("BTCUSDT"))["parts"]["whales"]
    assert known["value"] == 0.0 and known["n"] == 0 and known["activity"] == "NEUTRAL"
    unknown = order_flow_signal(folded(Tape().walk(40)).view("BTCUSDT"))
    assert unknown["parts"]["whales"]["value"] is None and unknown["whale_activity"] is None and unknown["missing"] == ["whales"]
    assert activity(0, 0) == "NEUTRAL" and activity(61, 40) == "ACCUMULATING" and activity(40, 61) == "DISTRIBUTING" and activity(60, 40) == "NEUTRAL"


def test_C7_C8_the_continuous_score_is_graded_bounded_and_mirrors():
    assert score({"imbalance": 1.0, "whales": 1.0, "pressure": 1.0}) == 100.0 and score({"imbalance": None, "whales": 0.0, "pressure": None}) is None
    at_limits = score({"imbalance": 0.3 / 2.3, "whales": 0.2, "pressure": 0.2})
    assert at_limits == pytest.approx(50.0) and side_of(at_limits) == 1 and side_of(-at_limits) == -1 and side_of(None) is None
    values = [score({"imbalance": 0.0, "whales": 0.0, "pressure": each / 100}) for each in range(-60, 61, 5)]
    assert values == sorted(values) and values == [-each if each else 0.0 for each in reversed(values)]
    assert score({"imbalance": None, "whales": None, "pressure": 0.4}) == 100.0, "what is not known weighs nothing"


def test_the_signal_mirrors():
    stream = bullish()
    flow, image = (order_flow_signal(folded(each).view("BTCUSDT")) for each in (stream, stream.mirror()))
    assert image["side"] == -flow["side"] and image["score"] == pytest.approx(-flow["score"], rel=1e-4)


@pytest.mark.parametrize("book, lean, whales, signal, points", [
    ((200, 100), 0.9, 3, "BULLISH", 80), ((200, 100), 0.9, 0, "BULLISH", 55), ((100, 100), 0.9, 3, "BULLISH", 50), ((100, 100), 0.0, 0, "NEUTRAL", 0),
    ((100, 200), -0.9, 0, "BEARISH", 55)])
def test_C7_the_earlier_score_has_four_values(book, lean, whales, signal, points):
    stream = Tape().walk(70, lean=lean, book=book)
    for _ in range(whales):
        stream.wait(0.2).trade(1, LARGE_LOTS // 3)
    assert earlier_score(folded(stream.wait(0.2)).view("BTCUSDT")) == {"signal": signal, "score": points}


def test_C9_C12_voids_are_told_as_adverse_and_favourable():
    stream = Tape()
    for _ in range(25):
        stream.walk(5, lean=0.0)
    gone = {stream.bid - n: 100 for n in range(DEEP_FROM)} | {stream.bid - n: 100 for n in range(DEEP_TO, 300)}
    for _ in range(3):
        stream.snapshot(gone, {stream.ask + n: 100 for n in range(300)}).wait(1.2)
    found = voids(folded(stream).view("BTCUSDT"))
    below, above = found["bid"], found["ask"]
    assert above["value"] == "none" and below["value"] == "void" and below["adverse_to"] == "BUY" and below["favourable_to"] == "SELL"
    assert below["price_from"] < below["price_to"] < stream.bid / 10 and below["near_bps"] > 0.5
    said = analyse_moment(folded(stream), "BTCUSDT", "BUY")["recommendation"]["warnings"]
    assert any("adverse void" in text for text in said)
    assert not any("adverse void" in text for text in analyse_moment(folded(stream), "BTCUSDT", "SELL")["recommendation"]["warnings"])


DEEP_FROM, DEEP_TO = 60, 180


def test_a_void_is_not_claimed_before_the_usual_depth_is_known():
    early = voids(folded(Tape().walk(20)).view("BTCUSDT"))["bid"]
    assert early["value"] is None and "usual depth" in early["reason"]
    blind = voids(folded(Tape().walk(20, book=None)).view("BTCUSDT"))["ask"]
    assert blind["value"] is None and "book" in blind["reason"]
    assert health(folded(Tape().walk(20, book=None)).view("BTCUSDT"))["value"] == "warning"
