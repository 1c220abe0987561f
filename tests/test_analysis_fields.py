"""The fields a model is given, R1 and R3 to R17: each held against a count by hand over every trade."""

import math
import statistics

import pytest
from analyses import Tape, folded, lots_between, price_before
from streams import SECOND

from engine.analysis.enrichment import FIELDS, enrich
from engine.analysis.tape import Candle, body
from engine.kernel import records as R


def fields_of(stream: Tape, **options) -> dict:
    return enrich(folded(stream, **options).view("BTCUSDT"))


@pytest.fixture(scope="module")
def walked() -> Tape:
    return Tape().walk(200, seed=5)


@pytest.fixture(scope="module")
def fields(walked) -> dict:
    return fields_of(walked)


def test_R1_what_was_there_is_there(fields):
    """Live price, micro momentum and feed health; order flow, whales and voids stand beside them in the analysis."""
    assert {"binance_price", "micro_momentum", "feed_health"} <= set(fields)


def test_R3_binance_price_is_the_last_trade_exactly(walked, fields):
    price = fields["binance_price"]
    assert price["value"] == price_before(walked, 0) / 10 and price["unit"] == "USDT"
    assert price["age_ms"] == pytest.approx((walked.now_ns - walked.done[-1][0]) / 1e6)
    assert fields_of(Tape().wait(2))["binance_price"]["value"] is None


def test_R4_micro_momentum_is_the_change_over_ten_seconds(walked, fields):
    now, then = price_before(walked, 0), price_before(walked, 10)
    momentum = fields["micro_momentum"]
    assert momentum["value"] == pytest.approx((now - then) / then * 100, rel=1e-5)
    assert momentum["window_s"] == 10 and momentum["n"] == sum(time > walked.now_ns - 10 * SECOND for time, *_ in walked.done)


def test_regression_ten_ticks_are_not_ten_seconds():
    """A burst at the end may not push what happened ten seconds ago out of the window; nor may rare trades stretch it."""
    rising = Tape().trade(1, 10, 600_000).wait(1).trade(1, 10, 600_000).wait(10)
    for _ in range(50):
        rising.trade(1, 10, 600_600)
    momentum = fields_of(rising)["micro_momentum"]
    assert momentum["value"] == pytest.approx(0.1) and momentum["n"] == 50
    rare = Tape()
    for price in range(600_000, 601_200, 100):
        rare.trade(1, 10, price).wait(5)
    assert fields_of(rare)["micro_momentum"]["value"] == pytest.approx((601_100 - 600_900) / 600_900 * 100, rel=1e-4)


@pytest.mark.parametrize("break_it, state, said", [
    (lambda s: s, "healthy", []), (lambda s: s.feed(R.LOST, R.DEPTH), "warning", ["book"]), (lambda s: s.wait(11, quotes=False), "warning", ["book", "broker"]),
    (lambda s: s.feed(R.LOST, R.TRADE), "critical", ["trades"]), (lambda s: s.feed(R.LOST, R.BEST), "critical", ["best quote"])])
def test_R5_feed_health_names_what_is_wrong(break_it, state, said):
    stream = Tape().walk(12)
    health = fields_of(break_it(stream))["feed_health"]
    assert health["value"] == state and all(any(word in trouble for trouble in health["troubles"]) for word in said)
    assert (health["troubles"] == []) == (state == "healthy")


def test_R6_price_velocity_is_per_second(walked, fields):
    now, then = price_before(walked, 0), price_before(walked, 5)
    velocity = fields["price_velocity"]
    assert velocity["value"] == pytest.approx((now - then) / 10 / 5) and velocity["unit"] == "USDT/s"
    assert velocity["bps_per_s"] == pytest.approx((now - then) / then * 1e4 / 5, rel=1e-5)


def test_R7_volume_acceleration_is_a_ratio_to_what_went_before(walked, fields):
    ratio = (lots_between(walked, 10) / 10) / (lots_between(walked, 190, 10) / 180)
    assert fields["volume_acceleration"]["value"] == pytest.approx(ratio, rel=1e-5)
    assert fields_of(Tape().walk(60))["volume_acceleration"]["reason"].startswith("only")


@pytest.mark.parametrize("step, expected", [(3, "RISING"), (-3, "FALLING"), (0, "FLAT")])
def test_R8_price_trend_10s_is_told_by_time(step, expected):
    stream = Tape().walk(70, seed=2)
    for _ in range(100):
        stream.bid, stream.ask = stream.bid + step, stream.ask + step
        stream.wait(0.1).trade(1, 5, stream.bid)
    trend = fields_of(stream)["price_trend_10s"]
    assert trend["value"] == expected and trend["limit_bps"] > 0 and (trend["change_bps"] > 0) == (step > 0)


def test_R9_price_volatility_is_of_one_second_log_returns(walked, fields):
    prices = [price_before(walked, back) for back in range(60, -1, -1)]
    returns = [math.log(after / before) for before, after in zip(prices, prices[1:], strict=False)]
    assert fields["price_volatility"]["value"] == pytest.approx(statistics.pstdev(returns) * 1e4, rel=1e-5)
    assert fields["price_volatility"]["unit"] == "bps per 1 s"


@pytest.mark.parametrize("lots, expected", [(5, False), (5_000, True)])
def test_R10_volume_surge(lots, expected):
    stream = Tape().walk(195)
    for _ in range(20):
        stream.wait(0.3).trade(1, lots)
    surge = fields_of(stream)["volume_surge"]
    assert surge["value"] is expected


@pytest.mark.parametrize("lots, rate, expected", [(2_600, 1.71, False), (2_900, 1.90, False), (3_200, 2.10, True), (3_700, 2.43, True)])
def test_R10_a_surge_is_over_twice_the_usual_volume(lots, rate, expected):
    stream = Tape().walk(195)
    for _ in range(20):
        stream.wait(0.5).trade(1, lots)
    fields = fields_of(stream)
    assert lots_between(stream, 10) / 10 / (lots_between(stream, 190, 10) / 180) == pytest.approx(rate, abs=0.03)
    assert fields["volume_surge"]["value"] is expected and fields["volume_acceleration"]["value"] == pytest.approx(rate, rel=0.03)


def test_R11_momentum_acceleration_is_ten_seconds_against_the_ten_before(walked, fields):
    now, middle, old = (price_before(walked, back) for back in (0, 10, 20))
    assert fields["momentum_acceleration"]["value"] == pytest.approx(((now - middle) / middle - (middle - old) / old) * 100, rel=1e-4)


@pytest.mark.parametrize("jump, expected", [(0, False), (6_000, True), (-6_000, True)])
def test_R12_divergence_vs_mt5_is_signed_and_over_the_usual_offset(jump, expected):
    """A steady offset is no divergence, however large; a broker that leaves its offset is one, with its sign."""
    stream = Tape().walk(60)
    bid, ask = 10 * stream.bid - 500 + jump, 10 * stream.ask + 500 + jump
    stream.quote(bid, ask)
    found = fields_of(stream)["divergence_vs_mt5"]
    assert found["value"] is expected and (not jump or found["residual_bps"] * jump > 0)
    assert fields_of(Tape().walk(30, quotes=False), broker=False)["divergence_vs_mt5"]["reason"] == "no broker quote is recorded"
    late = Tape().walk(60).wait(6, quotes=False)
    assert "stale" in fields_of(late)["divergence_vs_mt5"]["reason"]


@pytest.mark.parametrize("jump, expected", [(0, False), (12_000, True), (-12_000, True)])
def test_R12_C22_a_steady_offset_is_no_divergence_however_large(jump, expected):
    """30 bps under the venue all the time: the offset is told, and only what is beyond it diverges."""
    stream = Tape().walk(5)
    for step in range(400):
        stream.wait(0.1, quotes=False).quote(10 * stream.bid - 18_000 - step % 2 * 10, 10 * stream.ask - 18_000)
    found = fields_of(stream.quote(10 * stream.bid - 18_000 + jump, 10 * stream.ask - 18_000 + jump))["divergence_vs_mt5"]
    assert found["offset_bps"] == pytest.approx(-30.0, abs=0.5) and found["value"] is expected
    assert found["residual_bps"] == pytest.approx(jump / 600, abs=0.5)


@pytest.mark.parametrize("share, size", [(1.0, "LARGE"), (0.61, "LARGE"), (0.6, "MEDIUM"), (0.31, "MEDIUM"), (0.3, "SMALL"), (0.0, "SMALL")])
@pytest.mark.parametrize("way", [1, -1])
def test_R14_sizes_are_by_body_over_range(share, size, way):
    low, high, move = 1_000, 1_100, round(share * 100)
    opened, closed = (low, low + move) if way > 0 else (low + move, low)
    color, found, *_ = body(Candle(0, opened, high, low, closed, 4))
    assert found == size and color == ("FLAT" if not move else "GREEN" if way > 0 else "RED")


def minutes(*prices: list[int]) -> Tape:
    """Trade at given prices, minute by minute of venue time, the last minute unfinished."""
    stream = Tape()
    stream.now_ns = 1_020 * SECOND - 5_000_000
    stream.trade(1, 1, 600_000).wait(0.1)
    for number, each in enumerate(prices):
        stream.now_ns = max(stream.now_ns, (1_020 + 60 * number) * SECOND)
        for price in each:
            stream.trade(1, 10, price).wait(1.5)
    return stream


@pytest.mark.parametrize("prices, color, size", [([600_000, 600_300, 599_900, 600_250], "GREEN", "LARGE"), ([600_000, 600_100, 599_700, 599_850], "RED", "MEDIUM"),
                                                 ([600_000, 600_100, 599_900, 600_000], "FLAT", "SMALL"), ([600_000, 600_000], "FLAT", "DOJI")])
def test_R13_R14_last_candle_color_and_size(prices, color, size):
    fields = fields_of(minutes(prices, [600_500, 600_900]))
    assert fields["last_candle_color"]["value"] == color and fields["last_candle_size"]["value"] == size
    assert fields["last_candle_color"]["n"] == len(prices)


def test_regression_the_last_candle_is_the_last_closed_minute():
    """The earlier system took an earlier push of the same running minute for it, and an equal close for red."""
    fields = fields_of(minutes([600_000, 600_400], [600_900, 600_500, 600_100]))
    assert fields["last_candle_color"]["value"] == "GREEN" and fields["last_candle_color"]["v1"] == "RED"
    running = fields_of(minutes([600_000, 600_400]))["last_candle_color"]
    assert running["value"] is None and "wholly recorded" in running["reason"]


def test_R15_R16_wicks_are_shares_of_the_range():
    wicks = fields_of(minutes([600_000, 600_300, 599_900, 600_200], [600_500, 600_900]))["wicks"]
    assert wicks["upper_wick_ratio"]["value"] == pytest.approx(0.25) and wicks["lower_wick_ratio"]["value"] == pytest.approx(0.25)
    flat = fields_of(minutes([600_000, 600_000], [600_500, 600_900]))["wicks"]["upper_wick_ratio"]
    assert flat["value"] is None and "no wicks" in flat["reason"]
    assert body(Candle(0, 5, 9, 1, 3, 4)) == ("RED", "SMALL", 0.5, 0.25)


def test_R17_every_field_carries_what_it_rests_on(fields):
    """More than summary numbers: unit, window asked and covered, count and age with each."""
    flat = {**fields, **{f"wicks.{name}": each for name, each in fields["wicks"].items()}}
    assert set(FIELDS) == set(flat) - {"wicks"} and len(FIELDS) == 14
    for name in FIELDS:
        assert flat[name]["unit"], name
        if name not in ("feed_health", "binance_price", "divergence_vs_mt5"):
            assert {"window_s", "covered_s", "n", "age_ms"} <= set(flat[name]), name


def test_C17_to_C20_the_earlier_values_stand_beside_as_v1(walked, fields):
    """On pushes two seconds apart: 5, 10, 20 and 30 of them, whatever seconds that makes."""
    pushes = [price_before(walked, 2 * back) for back in range(29, -1, -1)]
    assert fields["price_velocity"]["v1"] == pytest.approx((pushes[-1] - pushes[-5]) / 10 / 5, rel=1e-5)
    assert fields["price_volatility"]["v1"] == pytest.approx(statistics.pstdev(pushes) / statistics.mean(pushes) * 100, rel=1e-5)
    slope = statistics.linear_regression(range(10), pushes[-10:]).slope / statistics.mean(pushes[-10:]) * 100
    assert fields["micro_momentum"]["v1"] == pytest.approx(slope, rel=1e-4)
    assert fields["volume_acceleration"]["v1"] is not None and isinstance(fields["volume_surge"]["v1"], bool)


@pytest.mark.parametrize("name", ["micro_momentum", "price_velocity", "momentum_acceleration"])
def test_signed_fields_mirror(walked, fields, name):
    image = fields_of(walked.mirror())
    assert image[name]["value"] == pytest.approx(-fields[name]["value"], rel=1e-3, abs=1e-9)
