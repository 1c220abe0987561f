"""Rules asked one by one: markets and positions of which little is known, their reflections, and what makes each rule speak."""

from dataclasses import dataclass, field, replace

import numpy as np
from streams import SECOND

from engine.kernel import records as R
from engine.kernel.market import MARKET, POSITION
from engine.rules import blank, find_rules

RULES = find_rules()
NOW_NS = 5_000 * SECOND
ENTRY = 6_000_000
HELD = {"side": 1, "open_ns": NOW_NS - 60 * SECOND, "age_ns": 60 * SECOND, "entry_ticks": ENTRY, "volume": 100, "initial_volume": 100,
        "stop_ticks": ENTRY - 6_000, "initial_stop_ticks": ENTRY - 6_000, "risk_ticks": 6_000, "exit_ticks": ENTRY + 1_000,
        "spread_ticks": 100,
        "quote_ns": NOW_NS, "gain_ticks": 1_000, "peak_ticks": 1_000, "trough_ticks": 0, "peak_ns": NOW_NS - SECOND, "gain_r": 1 / 6,
        "peak_r": 1 / 6}
SIGNED = [name for name in MARKET.names if name.startswith(("imbalance", "flow", "ofi", "cvd", "top5", "z_", "move", "whale_side",
                                                            "last_side"))]
SWAPPED = [("bid", "ask"), ("big_buys_60s", "big_sells_60s"), ("cluster_buy_usd", "cluster_sell_usd")]
REFLECTED = [("high_10s_2", "low_10s_2"), ("high_20s_2", "low_20s_2")]
MIRROR2 = 2_400_000


def record_of(dtype, values: dict, flags: tuple = ()) -> np.record:
    """Return a record with nothing known but the values; a dict fills a nested record."""
    row = blank(dtype)[0]
    for name in flags:
        row[name] = 0
    for name, value in values.items():
        if isinstance(value, dict):
            for inner, each in value.items():
                row[name][inner] = each
        else:
            row[name] = value
    return row


def market_of(values: dict) -> np.record:
    """Return a market of which nothing but these values is known."""
    return record_of(MARKET, {"now_ns": NOW_NS, "mid2": MIRROR2 // 2, **values}, ("book_ok", "tape_ok", "mid_ok", "basis_ok"))


def negated(value):
    return value if value == R.MISSING else -value


def reflected_market(market: np.record) -> np.record:
    """Return the market as it looks with the sides swapped."""
    out = market.copy()
    for name in SIGNED:
        out[name] = negated(market[name])
    for one, other in SWAPPED:
        out[one], out[other] = market[other], market[one]
    for high, low in REFLECTED:
        out[high] = R.MISSING if market[low] == R.MISSING else MIRROR2 - market[low]
        out[low] = R.MISSING if market[high] == R.MISSING else MIRROR2 - market[high]
    return out


def reflected_position(position: np.record) -> np.record:
    """Return the same result on the other side: levels at the same distance from the same entry."""
    out = position.copy()
    out["side"] = -position["side"]
    for name in ("stop_ticks", "initial_stop_ticks", "take_ticks"):
        if position[name] != R.MISSING:
            out[name] = 2 * position["entry_ticks"] - position[name]
    return out


def ask(name: str, params, market: np.record, position: np.record, state=None, again_after_s: float = 0.0) -> tuple[int, object]:
    """Ask a rule, and once more after a while in which nothing changed; return its last answer and its state."""
    module = RULES[name].module
    state = state or module.State()
    with np.errstate(all="ignore"):
        action = module.on_event(params, state, market, position)
        if again_after_s:
            later = market.copy()
            later["now_ns"] += int(again_after_s * SECOND)
            action = module.on_event(params, state, later, position)
    return int(action), state


@dataclass(frozen=True)
class Case:
    """What makes a rule speak for a long, what it then says, and the changes that each keep it silent."""

    rule: str
    preset: str
    market: dict
    action: int
    misses: list
    held: dict = field(default_factory=dict)
    params: dict = field(default_factory=dict)
    dwell_s: float = 0.0
    spare: tuple = ()            # values it reads and can do without

    def parts(self, changes: dict | None = None):
        rule = RULES[self.rule]
        values = {**HELD, **self.held, "now_ns": NOW_NS, **self.market}
        for place, value in (changes or {}).items():
            if isinstance(value, dict):
                value = {**values.get(place, {}), **value}
            values[place] = value
        position = record_of(POSITION, {key: value for key, value in values.items() if key in POSITION.names})
        return (replace(rule.presets[self.preset], **self.params),
                market_of({key: value for key, value in values.items() if key in MARKET.names}),
                position)


BEHIND = {"void_id": 3, "void_near_bps": 5.0, "void_far_bps": 8.0, "void_deficit": 0.9, "void_cost_lots": 1_000.0}
THIN = {"thin_id": 3, "thin_near_bps": 10.0, "thin_far_bps": 12.0}
CASES = [
    Case("momentum_reversal", "classic", {"move_10s_bps": -20.001}, R.CLOSE,
         [{"move_10s_bps": -20.0}, {"move_10s_bps": 25.0}, {"move_10s_bps": 0.0}]),
    Case("momentum_reversal", "robust", {"move_10s_bps": -8.0, "sigma_bps": 1.0}, R.CLOSE,
         [{"move_10s_bps": -6.0}, {"move_10s_bps": 8.0}, {"sigma_bps": 1.5}, {"sigma_bps": 0.0}, {"peak_r": 0.29, "peak_ticks": 1740},
          {"spread_ticks": 5_000},
          {"gain_ticks": 3_000, "exit_ticks": ENTRY + 3_000}, {"peak_ns": NOW_NS - 1600 * SECOND}],
         held={"peak_ticks": 3_000, "peak_r": 0.5, "gain_ticks": -6_000, "exit_ticks": ENTRY - 6_000}, dwell_s=0.2, spare=("quote_ns",)),
    Case("order_flow", "classic", {"top5_imbalance": -0.2, "big_buys_60s": 2, "big_sells_60s": 4, "imbalance_30s": -0.3}, R.CLOSE,
         [{"top5_imbalance": -0.13}, {"top5_imbalance": 0.2}, {"big_sells_60s": 3}, {"big_sells_60s": 0, "big_buys_60s": 0},
          {"imbalance_30s": -0.2},
          {"imbalance_30s": 0.3}]),
    Case("order_flow", "robust", {"trades_10s": 30, "volume_ratio": 1.5, "ofi_10s": -0.3, "imbalance_10s": -0.9, "imbalance_30s": -0.8,
                                  "top5_imbalance": -0.7}, R.CLOSE,
         [{"trades_10s": 29}, {"volume_ratio": 1.49}, {"ofi_10s": 0.3}, {"imbalance_10s": 0.1, "imbalance_30s": -0.2},
          {"imbalance_10s": 0.9},
          {"top5_imbalance": 0.9, "imbalance_30s": -0.1}], dwell_s=0.3),
    Case("whale", "classic", {"whale_id": 5, "whale_side": -1, "whale_usd": 500_000.0, "whale_ns": NOW_NS, "whale_trade_id": 9}, R.TIGHTEN,
         [{"whale_usd": 499_999.99}, {"whale_side": 1}, {"whale_ns": NOW_NS - 2 * SECOND - 1}, {"open_ns": NOW_NS + 1}, {"whale_side": 0}],
         spare=("whale_trade_id", "whale_side")),
    Case("whale", "robust", {"whale_id": 5, "whale_side": -1, "whale_usd": 1_200_000.0, "whale_ns": NOW_NS, "whale_trade_id": 9,
                             "move_1s_bps": -0.2,
                             "whale_usual_usd": 1_200_000.0, "whale_usd_per_lot": 60.0, "bid": {"depth_5bps_lots": 40_000.0}}, R.CLOSE,
         [{"whale_usual_usd": 1_200_001.0}, {"bid": {"depth_5bps_lots": 40_001.0}}, {"move_1s_bps": -0.19}, {"move_1s_bps": 1.0},
          {"whale_side": 1},
          {"whale_ns": NOW_NS - 3 * SECOND}], spare=("whale_trade_id", "whale_side")),
    Case("void", "classic", {"book_ok": 1, "bid": THIN}, R.PARTIAL, [{"bid": {"thin_near_bps": 10.01}}, {"book_ok": 0}],
         spare=("thin_id", "thin_far_bps")),
    Case("void", "classic", {"book_ok": 1, "ask": THIN}, R.ALERT, [{"ask": {"thin_near_bps": 10.01}}, {"book_ok": 0}],
         spare=("thin_id", "thin_far_bps")),
    Case("void", "robust", {"book_ok": 1, "bid": BEHIND, "flow_10s_lots": -1_000, "trades_10s": 40, "imbalance_10s": -0.5}, R.PARTIAL,
         [{"bid": {"void_near_bps": 10.01, "void_far_bps": 20.0}}, {"bid": {"void_deficit": 0.3}}, {"bid": {"void_far_bps": 6.0}},
          {"flow_10s_lots": -999},
          {"flow_10s_lots": 1_000, "imbalance_10s": 0.5}, {"bid": {"void_cost_lots": 1_001.0}}, {"book_ok": 0}],
          spare=("void_id", "imbalance_10s")),
    Case("void", "robust", {"book_ok": 1, "ask": BEHIND}, R.ALERT, [{"ask": {"void_near_bps": 10.01}}, {"book_ok": 0}],
         spare=("void_id", "void_far_bps", "void_deficit", "void_cost_lots")),
    Case("divergence", "classic", {"high_10s_2": 1_200_010, "high_20s_2": 1_200_009, "move_older_bps": 1.0, "move_recent_bps": 0.5},
         R.ALERT,
         [{"high_10s_2": 1_200_009}, {"move_older_bps": 0.99}, {"move_recent_bps": 0.51}, {"move_older_bps": -1.0}]),
    Case("divergence", "robust", {"z_move_30s": 1.0, "z_flow_30s": -1.0, "z_residual_30s": 2.0}, R.CLOSE,
         [{"z_move_30s": 0.99}, {"z_flow_30s": -0.99}, {"z_flow_30s": 1.0}, {"z_residual_30s": 1.99}, {"z_move_30s": -1.0}], dwell_s=0.5),
    Case("breakeven", "default", {}, R.TIGHTEN, [{"gain_r": 0.49}], held={"gain_r": 0.5},
         spare=tuple(name for name in HELD if name != "gain_r")),
    Case("trailing_stop", "default", {}, R.TIGHTEN, [{"peak_r": 0.49}], held={"peak_r": 0.5, "peak_ticks": 3_000},
         spare=tuple(name for name in HELD if name != "peak_r")),
    Case("tighter_stop", "default", {}, R.TIGHTEN, [{"stop_ticks": ENTRY - 3_000}],
         spare=tuple(name for name in HELD if name != "risk_ticks")),
]
NAMES = [f"{case.rule}-{case.preset}-{case.action}" for case in CASES]
