"""Run a session once through the loop with every policy side by side, and read off what each did to each trade."""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from engine.errors import BadInput
from engine.kernel import records as R
from engine.measure.lead import MidBuilder, lead_ns
from engine.measure.outcomes import Policy, Trades
from engine.measure.paths import Path, PathBuilder
from engine.positions import most_open, open_desk
from engine.replay import Feed, Plan, inside
from engine.rules import Choice
from engine.run import Run, Settings

BASELINE = "baseline"
CONTROLS = ("breakeven", "trailing_stop", "tighter_stop")
_ENDS = (R.STOPPED, R.TAKEN, R.TIMED_OUT, R.RULE_CLOSED, R.RECORDED_CLOSE)


@dataclass(frozen=True)
class Variant:
    """One policy of the experiment: which rules act, and how."""

    name: str
    choices: tuple[Choice, ...]
    settings: Settings


@dataclass
class Measured:
    """One session's trades, what each policy made of them, and the broker quotes they were filled on."""

    trades: Trades
    policies: dict[str, Policy]
    paths: list[Path]
    open_at_end: int           # trades the recording ended before: left out everywhere
    events: int
    quotes: str                # recorded | modelled
    lead_ns: list[int | None]  # how far the venue leads the broker, by symbol; None when it cannot be told
    covered: float | None      # share of the trades' time in which market and book were to be trusted


def only(choices: list[Choice], names: set[str]) -> tuple[Choice, ...]:
    """Return the choices with those rules acting and the others off."""
    return tuple(replace(choice, mode="act" if choice.rule.name in names else "off") for choice in choices)


def run_experiment(plan: Plan, variants: list[Variant]) -> Measured:
    """Feed a session once to all variants; the first must be the baseline."""
    if variants[0].name != BASELINE:
        raise ValueError("the first variant must be the baseline")
    desk = open_desk(plan.session.instruments, plan.model.tick_size)
    last_ns = plan.session.manifest["last_recv_ns"]
    plan.trades = inside(plan.trades, plan.session.manifest["first_recv_ns"], last_ns)
    slots = max(8, most_open(plan.trades, last_ns) + 2)
    run = Run(desk.pairs, [list(variant.choices) for variant in variants], [variant.settings for variant in variants], slots=slots)
    builder = PathBuilder(len(desk.pairs))
    mids = [MidBuilder(n) for n in range(len(desk.pairs))]
    feed = Feed(plan, desk)
    fills, acted, events, trusted, looked = [], [], 0, 0, 0
    for chunk in feed:
        decisions, outcome = run.feed(chunk)
        acted.append(decisions[decisions["result"] == R.ACTED])
        fills.append(outcome)
        builder.add(chunk)
        for mid in mids:
            mid.add(chunk)
        events += len(chunk)
        market = run.arrays["market"]
        looked += len(market)
        trusted += int(np.sum((market["mid_ok"] != 0) & (market["tape_ok"] != 0)))
    rows, orders = np.concatenate(fills), np.concatenate(acted)
    if (rows["code"] == R.NO_SLOT).any():
        raise BadInput(f"more than {slots} trades were open at once; enter less often")
    steps = {trade.ticket: int(Fraction(trade.volume) / Fraction(plan.volume_step)) for trade in plan.trades}
    trades = _baseline(rows[rows["variant"] == 0])
    policies = {variant.name: _policy(rows[rows["variant"] == v], orders[orders["variant"] == v], trades, steps)
                for v, variant in enumerate(variants)}
    paths = builder.paths()
    leads = [lead_ns(*mid.mids(), path) for mid, path in zip(mids, paths, strict=True)]
    return Measured(trades, policies, paths, len(plan.trades) - len(trades), events, "modelled" if feed.modelled else "recorded",
                    leads, trusted / looked if looked else None)


def _baseline(rows: np.ndarray) -> Trades:
    """Return the trades that ended under the baseline, in order of entry; R needs a stop, so a trade without one is left out."""
    ended = rows[np.isin(rows["code"], _ENDS) & (rows["risk_ticks"] != R.MISSING)]
    ended = ended[np.lexsort((ended["ticket"], ended["open_ns"]))]
    risk = ended["risk_ticks"].astype(float)
    return Trades(np.zeros(len(ended), np.int64), ended["symbol"].astype(np.int64), ended["ticket"].copy(), ended["side"].copy(),
                  ended["open_ns"].copy(), ended["entry_ticks"].copy(), ended["risk_ticks"].copy(), ended["initial_stop_ticks"].copy(),
                  ended["take_ticks"].copy(), ended["deadline_ns"].copy(), ended["recv_ns"].copy(),
                  ended["side"] * (ended["price_ticks"] - ended["entry_ticks"]) / risk, ended["code"].astype(np.int64),
                  ended["peak_ticks"] / risk, ended["trough_ticks"] / risk, ended["spread_ticks"] / risk)


def _policy(rows: np.ndarray, orders: np.ndarray, trades: Trades, steps: dict[int, int]) -> Policy:
    """Return what one variant made of the baseline's trades."""
    n = len(trades)
    place = {int(ticket): i for i, ticket in enumerate(trades.ticket)}
    missing = lambda: np.full(n, R.MISSING)  # noqa: E731
    policy = Policy(np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), missing(), missing(), np.full(n, np.nan), np.zeros(n, np.int64),
                    missing(), np.full(n, np.nan), missing(), np.full(n, -1))
    for order in orders:
        i = place.get(int(order["ticket"]))
        if i is not None and not policy.acted[i]:
            policy.acted[i] = True
            policy.decided_ns[i], policy.action[i], policy.rule[i] = order["recv_ns"], order["action"], order["rule"]
    for row in rows:
        i = place.get(int(row["ticket"]))
        if i is None:
            continue
        code = row["code"]
        gain = row["side"] * (row["price_ticks"] - row["entry_ticks"]) / row["risk_ticks"] if row["risk_ticks"] != R.MISSING else np.nan
        if code in (R.RULE_CLOSED, R.RULE_REDUCED, R.STOP_MOVED) and not policy.fired[i]:
            policy.fired[i] = True
            policy.fill_ns[i] = row["recv_ns"]
            policy.fill_gain_r[i] = row["side"] * (row["exit_ticks"] - row["entry_ticks"]) / row["risk_ticks"]
            policy.stop_distance_ticks[i] = row["side"] * (row["exit_ticks"] - row["stop_ticks"])
            if code == R.RULE_REDUCED:
                policy.share[i] = row["volume"] / steps[int(row["ticket"])]
        if code in _ENDS or code == R.RULE_REDUCED:
            policy.y[i] += gain * row["volume"] / steps[int(row["ticket"])]
        if code in _ENDS:
            policy.close_ns[i] = row["recv_ns"]
    unfinished = policy.close_ns == R.MISSING
    policy.y[unfinished] = np.nan
    return policy
