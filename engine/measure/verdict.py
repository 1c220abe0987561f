"""One rule's numbers against its nulls, and the sentence that may be said of it."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from engine.kernel.records import MISSING
from engine.measure.inference import Interval, generator, mean_interval
from engine.measure.moments import Board
from engine.measure.nulls import Placebo, Twin, age_hazard_placebo, price_only_twin
from engine.measure.outcomes import (
    CUT_WINNER,
    FLIPPED,
    HARMED,
    IMPROVED,
    NEUTRAL,
    NOT_FIRED,
    SAVED,
    TOO_LATE,
    WORSENED,
    Policy,
    Trades,
    classify,
    delta_r,
    epsilon_r,
    turned,
)
from engine.measure.riskset import Matched, risk_set_match

LEAST_TRADES = 100
LEAST_FIRES = 10
LEAST_CLUSTERS = 8  # fewer independent groups of trades give no interval worth printing
LEVEL = 0.05


@dataclass
class RuleStudy:
    """Everything measured of one rule."""

    name: str
    trades: Trades
    policy: Policy  # filled as the broker would have, stale quotes and all
    scored: Policy  # filled no earlier than the venue's lead: what skill and claims are judged on
    classes: np.ndarray
    delta: np.ndarray
    change: Interval
    placebo: Placebo  # of the scored policy
    excess: Interval
    matched: Matched
    count: Interval
    twin: Twin
    over_twin: Interval
    p: float  # two-sided, age-hazard placebo


def study_rule(
    name: str, trades: Trades, policy: Policy, scored: Policy, board: Board, latency_ns: int, seed: int, draws: int
) -> RuleStudy:
    """Hold one rule against random exits of its own timing, matched moments of other trades, and a plain tighter stop."""
    epsilon = epsilon_r(trades)
    delta = delta_r(trades, policy)
    judged = delta_r(trades, scored)
    placebo = age_hazard_placebo(trades, scored, board, latency_ns, generator(seed, f"{name} placebo"), draws)
    matched = risk_set_match(trades, scored, board, latency_ns, generator(seed, f"{name} risk set"), draws)
    twin = price_only_twin(trades, scored, board, latency_ns)
    spans = (trades.session, trades.open_ns, trades.close_ns)
    interval = lambda values, purpose: mean_interval(values, *spans, generator(seed, f"{name} {purpose}"))  # noqa: E731
    return RuleStudy(
        name,
        trades,
        policy,
        scored,
        classify(trades, policy, epsilon),
        delta,
        interval(delta, "change"),
        placebo,
        interval(judged - placebo.expected_r, "excess"),
        matched,
        interval(matched.excess_net, "count"),
        twin,
        interval(judged - twin.delta_r, "twin"),
        placebo.p_two_sided,
    )


def verdicts(
    studies: dict[str, RuleStudy], adjusted: np.ndarray, trades: Trades, choices: list, controls: tuple, tried: int
) -> dict:
    """Return the `rules` part of the `measure` object; `adjusted` are the p-values after Holm, in the order of the studies."""
    presets = {choice.rule.name: choice.preset for choice in choices}
    return {
        name: {
            "preset": presets[name],
            "kind": "control" if name in controls else "flow",
            **_numbers(study, float(adjusted[n]), tried),
        }
        for n, (name, study) in enumerate(studies.items())
    }


def _numbers(study: RuleStudy, p_holm: float, tried: int) -> dict:
    """Return everything said of one rule."""
    counts = _counts(study)
    verdict = _verdict(study, counts, p_holm)
    stale = float(study.delta.mean() - study.placebo.observed_r)
    numbers = {
        **counts,
        "delta_r": {"mean": _known(study.change.mean), "ci95": _bounds(study.change), "total": float(study.delta.sum())},
        "placebo_r": {"mean": float(study.placebo.expected_r.mean())},
        "excess_r": {"mean": _known(study.excess.mean), "ci95": _bounds(study.excess), "p": study.p, "p_holm": p_holm},
        "count_excess": {
            "mean": _known(study.count.mean),
            "ci95": _bounds(study.count),
            "p": _known(study.matched.net_p_two_sided),
        },
        "matched_r": {
            "mean": _known(study.matched.r_per_trade),
            "p": _known(study.matched.r_p_two_sided),
            "unmatched": study.matched.unmatched,
        },
        "twin_r": {"mean": _known(study.over_twin.mean), "ci95": _bounds(study.over_twin), "stop_r": _known(study.twin.stop_r)},
        "stale_quote_r": stale,
        "lead_s": _lead(study),
        "minimum_detectable_r": _known(study.excess.minimum_detectable),
        **_shape(study),
        "clusters": study.excess.clusters,
        "clustered_by": study.excess.method,
        "verdict": verdict,
    }
    numbers["sentence"] = _sentence(study, numbers, tried)
    return numbers


def _counts(study: RuleStudy) -> dict:
    """Return the number of trades in each class."""
    of = np.bincount(study.classes, minlength=8)
    fired = int(study.policy.fired.sum())
    harmed = int(of[list(HARMED)].sum())
    return {
        "fired": fired,
        "saved": int(of[SAVED]),
        "turned": int(turned(study.trades, study.policy, study.classes).sum()),
        "improved": int(of[IMPROVED]),
        "harmed": harmed,
        "cut_winner": int(of[CUT_WINNER]),
        "flipped": int(of[FLIPPED]),
        "worsened": int(of[WORSENED]),
        "neutral": int(of[NEUTRAL]),
        "too_late": int(of[TOO_LATE]),
        "not_fired": int(of[NOT_FIRED]),
        "precision": (int(of[SAVED]) + int(of[IMPROVED])) / fired if fired else None,
        "false_exit_rate": harmed / fired if fired else None,
    }


def _verdict(study: RuleStudy, counts: dict, p_holm: float) -> str:
    """Return what may be said: better needs the placebo, the matched moments and the price-only twin to agree (7.3)."""
    if len(study.trades) < LEAST_TRADES or counts["fired"] < LEAST_FIRES or study.excess.clusters < LEAST_CLUSTERS:
        return "insufficient"
    low, high = _bounds(study.excess) or (None, None)
    if low is None or p_holm > LEVEL:
        return "indistinguishable"
    if high < 0:
        return "worse"
    twin = _bounds(study.over_twin)
    matched = study.matched.r_p_greater <= LEVEL
    return "better" if low > 0 and matched and twin is not None and twin[0] > 0 else "indistinguishable"


def _lead(study: RuleStudy) -> dict:
    """Return how long before the baseline's exit the rule was out, seconds."""
    out = study.policy.fired & (study.policy.close_ns < study.trades.close_ns)
    lead = (study.trades.close_ns - study.policy.close_ns)[out] / 1e9
    twin = study.twin.fired & out
    if not len(lead):
        return {"median": None, "iqr": None, "trades": 0, "both_with_twin": 0}
    return {
        "median": float(np.median(lead)),
        "iqr": [float(q) for q in np.quantile(lead, (0.25, 0.75))],
        "trades": int(out.sum()),
        "both_with_twin": int(twin.sum()),
    }


def _shape(study: RuleStudy) -> dict:
    """Return win rate, expected shortfall and drawdown before and after, and the share of the best result kept."""
    trades = study.trades
    after = trades.y + study.delta
    kept = trades.mfe_r >= epsilon_r(trades)
    order = np.lexsort((trades.open_ns, trades.session))
    late = (study.policy.close_ns != MISSING) & study.policy.fired
    return {
        "win_rate": {"before": float((trades.y > 0).mean()), "after": float((after > 0).mean())},
        "es5_r": {"before": _shortfall(trades.y), "after": _shortfall(after)},
        "max_drawdown_r": {"before": _drawdown(trades.y[order]), "after": _drawdown(after[order])},
        "mfe_capture": {
            "before": float((trades.y[kept] / trades.mfe_r[kept]).mean()),
            "after": float((after[kept] / trades.mfe_r[kept]).mean()),
        }
        if kept.any()
        else None,
        "managed": int(late.sum()),
    }


def _shortfall(y: np.ndarray) -> float:
    """Return the mean of the worst twentieth, R."""
    return float(np.sort(y)[: max(1, len(y) // 20)].mean())


def _drawdown(y: np.ndarray) -> float:
    """Return the largest fall of the running total from its best, R."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    return float((np.maximum.accumulate(total) - total).max())


def _bounds(interval: Interval) -> list[float] | None:
    """Return the bounds to print, bootstrap-t where it could be had; None with too few groups of trades."""
    if interval.clusters < LEAST_CLUSTERS:
        return None
    low, high = (interval.low_t, interval.high_t) if np.isfinite(interval.low_t) else (interval.low, interval.high)
    return [float(low), float(high)] if np.isfinite(low) and np.isfinite(high) else None


def _known(value: float) -> float | None:
    """Return a number, None where it is not known."""
    return float(value) if np.isfinite(value) else None


def _short_of(study: RuleStudy, numbers: dict) -> str:
    """Say which of the tests was not passed."""
    excess = numbers["excess_r"]
    if excess["p_holm"] > LEVEL or excess["ci95"] is None or excess["ci95"][0] <= 0 <= excess["ci95"][1]:
        return "Not distinguishable from matched random exits."
    if not study.matched.r_p_greater <= LEVEL:
        return "Beats random exits of its own timing, but not exits of other trades in the same state: no skill is shown."
    return "Beats random exits, but is not shown to beat a plain tighter stop: order flow has added nothing that can be seen."


def _lacking(study: RuleStudy, numbers: dict) -> str:
    """Say of what there is too little, and how much would do."""
    had = ((len(study.trades), LEAST_TRADES, "trades"), (numbers["fired"], LEAST_FIRES, "exits"),
           (study.excess.clusters, LEAST_CLUSTERS, "separate groups of trades"))
    return ", ".join(f"{count} of the {least} {what} that are needed" for count, least, what in had if count < least)


def _day(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d")


def _sentence(study: RuleStudy, numbers: dict, tried: int) -> str:
    """Write the headline of one rule: saved and harmed together, the excess over matched random exits, and what could have been seen."""
    trades, excess = study.trades, numbers["excess_r"]
    days = sorted({_day(int(trades.open_ns.min())), _day(int(trades.close_ns.max()))})
    text = (
        f"On {len(trades)} trades ({' to '.join(days)}) {study.name} fired on {numbers['fired']}; "
        f"saved {numbers['saved']} (turned {numbers['turned']}), "
        f"improved {numbers['improved']}, harmed {numbers['harmed']}. "
    )
    if not numbers["fired"]:
        return text + "It never acted, so nothing can be said of it."
    bounds = numbers["delta_r"]["ci95"]
    text += f"Mean change {study.delta.mean():+.3f} R" + (f" [{bounds[0]:+.3f}, {bounds[1]:+.3f}]" if bounds else "")
    text += f", of it {numbers['stale_quote_r']:+.3f} R from stale quotes"
    text += f"; matched random exits {numbers['placebo_r']['mean']:+.3f} R; excess "
    text += f"{excess['mean']:+.3f} R" + (f" [{excess['ci95'][0]:+.3f}, {excess['ci95'][1]:+.3f}]" if excess["ci95"] else "")
    text += f", p {excess['p']:.3f}, {excess['p_holm']:.3f} after Holm, {tried} configurations tried. "
    if numbers["minimum_detectable_r"] is not None:
        text += f"Least effect this sample could show: {numbers['minimum_detectable_r']:.3f} R. "
    return (
        text
        + {
            "insufficient": f"Insufficient to distinguish from chance: {_lacking(study, numbers)}.",
            "indistinguishable": _short_of(study, numbers),
            "worse": "Worse than matched random exits.",
            "better": "Better than matched random exits, matched moments and a plain tighter stop.",
        }[numbers["verdict"]]
    )
