"""Planted events act on flow and price as they say, and settings that make no sense are refused."""

import re

import numpy as np
import pytest

from engine.errors import BadInput
from engine.measure.market_book import build
from engine.measure.market_model import MarketConfig, simulate
from engine.measure.plants import (Divergence, Fault, FlowEffects, FlowNoise, Rate, Reversal, Void, Wall, Whale,
                                   flow_effects)

S = 1_000_000_000


def test_adding_plants_leaves_the_other_draws_alone():
    config = MarketConfig(seed=4, duration_s=60.0)
    bare = simulate(config, FlowEffects())
    path = simulate(config, flow_effects(config, [Whale(20.0, 1), Void(30.0), Wall(40.0, duration_s=5.0)]))
    own = path.plant < 0
    for name in ("time_ns", "side", "qty_lots", "bid_lots", "ask_lots"):
        assert np.array_equal(getattr(path, name)[own], getattr(bare, name))
    moved = path.bid_ticks[own] - bare.bid_ticks
    before = bare.time_ns < path.time_ns[0] + 20 * S
    assert not moved[before].any() and len(set(moved[~before])) == 1 and moved[-1] > 0


def drifts(plant) -> np.ndarray:
    """Return how far each row of a path is from the same path without the plant, in ticks."""
    config = MarketConfig(seed=9, duration_s=120.0)
    path = simulate(config, flow_effects(config, [plant]))
    bare = simulate(config, FlowEffects())
    moved = (path.bid_ticks[path.plant < 0] - bare.bid_ticks)
    seconds = (bare.time_ns - config.start_ns) / S
    return np.array([moved[np.searchsorted(seconds, at) - 1] for at in (40.0, 80.0, 120.0)])


def test_planted_drift_is_where_the_plant_says():
    window = 3 * 48 * np.sqrt(30)
    whale = drifts(Whale(40.5, 1, 10.0, drift_bps=10.0, drift_s=30.0))
    useless = drifts(Whale(40.5, 1, 10.0))
    assert whale[0] == useless[0] == 0 and useless[1] == useless[2]
    assert whale[1] - useless[1] == pytest.approx(600, abs=30)
    assert drifts(Reversal(40.0, -1, 3.0)) == pytest.approx([window, 0, 0], abs=60)
    assert drifts(Void(40.5, -1, duration_s=30.0, flow=0.0, drift_bps=6.0)) == pytest.approx([0, 360, 360], abs=30)
    divergence = Divergence(40.5, 1, 3.0, 30.0, flow=0.0, drift_bps=10.0, drift_s=30.0)
    assert drifts(divergence) == pytest.approx([0, window - 600 * 9.5 / 30, window - 600], abs=30)


def test_divergence_moves_price_against_its_flow():
    config = MarketConfig(seed=9, duration_s=120.0)
    path = simulate(config, flow_effects(config, [Divergence(30.0, 1, 3.0, 60.0, flow=0.5)]))
    rows = (path.time_ns >= config.start_ns + 30 * S) & (path.time_ns < config.start_ns + 90 * S)
    assert path.side[rows].sum() < -200
    price = path.bid_ticks[rows]
    assert price[-1] - price[0] > 1.5 * 48 * np.sqrt(60)


def test_flow_noise_swells_cvd_and_not_price():
    config = MarketConfig(seed=9, duration_s=120.0)
    path, bare = (simulate(config, flow_effects(config, plants)) for plants in ([FlowNoise(30.0, 1, 3.0, 60.0)], []))
    inside = (path.time_ns >= config.start_ns + 30 * S) & (path.time_ns < config.start_ns + 90 * S)
    assert path.qty_lots[inside].sum() == pytest.approx(3 * bare.qty_lots[inside].sum(), rel=0.01)
    assert np.diff(path.bid_ticks[inside]).std() < 1.3 * np.diff(bare.bid_ticks[inside]).std()


def test_a_wall_that_price_reaches_ends_there():
    config = MarketConfig(seed=2, duration_s=60.0)
    plants = [Wall(5.0, side, 20.0, near_bps=0.5, duration_s=50.0, pulled=False) for side in (1, -1)]
    path = simulate(config, FlowEffects())
    book, overlays = build(config, path, plants)
    assert all(overlay.reached for overlay in overlays)
    for overlay in overlays:
        best = path.bid_ticks if overlay.side > 0 else path.ask_ticks
        row = path.row_at(book.frame_ns[overlay.to_frame])
        begun = path.time_ns[:row + 1] > config.start_ns + 5 * S
        assert (begun & (overlay.side * (best[:row + 1] - overlay.low_ticks) <= 0)).any()


@pytest.mark.parametrize("change, said", [
    (dict(duration_s=0.0), "duration_s"), (dict(flow_persistence=1.0), "flow_persistence"),
    (dict(quotes_per_s=10.0), "quotes_per_s"), (dict(start_price="60000.05"), "60000.05"),
    (dict(sigma_bps_per_sqrt_s=20.0), "sigma_bps_per_sqrt_s"), (dict(plants=(Whale(at_s=2_000.0),)), "at_s"),
    (dict(plants=(Whale(side=0),)), "side"), (dict(plants=(Void(strength=1.5),)), "strength"),
    (dict(plants=(Void(near_bps=6.0, far_bps=2.0),)), "far_bps"),
    (dict(plants=(Whale(balanced=True, prints=7),)), "prints"),
    (dict(start_price="about 60000"), "start_price"), (dict(symbol="../up"), "symbol"),
    (dict(frames_per_s=0.001), "duration_s"), (dict(plants=(Fault("melt"),)), "kind"),
    (dict(plants=(Whale(strength=float("nan")),)), "strength"),
    (dict(rates=(Rate(Wall(duration_s=60.0), 120.0),)), "fit")])
def test_settings_that_make_no_sense_are_named(change, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        MarketConfig(**change)
