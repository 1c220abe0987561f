"""Trades saved by each rule: run every policy over every session, hold each rule against its nulls, and say what is so."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.analysis.calibration import calibrate, publish
from engine.errors import BadInput
from engine.measure import ledger
from engine.measure.attribution import MOST_RULES, attribute, by_mask, coalition_variants, rule_numbers
from engine.measure.experiment import BASELINE, CONTROLS, Measured, Variant, only, run_experiment
from engine.measure.inference import holm
from engine.measure.moments import build_board
from engine.measure.nulls import time_shift_possible
from engine.measure.outcomes import Policy, Trades, epsilon_r, join
from engine.measure.verdict import study_rule, verdicts
from engine.positions import open_desk
from engine.replay import Plan

SHIFTS = 5


@dataclass(frozen=True)
class Options:
    """How a measurement is made."""

    seed: int = 1
    draws: int = 999
    attribution: bool = True
    trades: str = ""  # what was traded, for the ledger: the entries, or the SHA-256 of a file


@dataclass
class Study:
    """All sessions together: what happened, and to what it is compared."""

    trades: Trades
    policies: dict[str, Policy]
    scored: dict[str, Policy]  # the same rules filled no earlier than the venue's lead allows: without stale quotes
    paths: list
    lead_ns: int | None
    measured: list[Measured]


def measure(
    plans: list[Plan], data: Path, options: Options, progress: Callable[[int, int], None] | None = None
) -> tuple[dict, dict]:
    """Return the `measure` object and the arrays behind it, for the report."""
    names = [choice.rule.name for choice in plans[0].choices if choice.mode == "act"]
    if not names:
        raise BadInput("no rule acts: name the rules to measure with --rules")
    flow = [name for name in names if name not in CONTROLS]
    shared = options.attribution and 1 < len(flow) <= MOST_RULES
    study = _run(plans, names, flow if shared else [], progress)
    if not len(study.trades):
        raise BadInput(
            "no trade ended within the recordings under its stop, take profit or time limit; give shorter ones, or longer recordings"
        )
    shifted = _time_shift(plans, names, study)
    latency_ns = plans[0].settings.latency_ns
    board = build_board(study.trades, study.paths)
    studies = {
        name: study_rule(
            name,
            study.trades,
            study.policies[name],
            study.scored[name],
            board,
            max(latency_ns, study.lead_ns or 0),
            options.seed,
            options.draws,
        )
        for name in names
    }
    tried = _record(plans, study, names, data, options)
    rules = verdicts(
        studies, holm(np.array([studies[name].p for name in names])), study.trades, plans[0].choices, CONTROLS, tried
    )
    for name in names:
        rules[name]["time_shift"] = shifted[name]
    result = _result(plans, study, rules, tried)
    if shared:
        result["attribution"] = _attribution(plans, study, flow)
    result["calibration"] = _calibration(plans)
    publish(data, result["calibration"])
    detail = {
        "trades": study.trades,
        "policies": {name: study.policies[name] for name in names},
        "classes": {name: studies[name].classes for name in names},
        "delta_r": {name: studies[name].delta for name in names},
        "placebo_r": {name: studies[name].placebo.means_r for name in names},
    }
    return result, detail


def _run(plans: list[Plan], names: list[str], flow: list[str], progress) -> Study:
    """Run every session once with all policies, and once more with later fills where the venue leads by more than the latency."""
    parts, scored = [], []
    for number, plan in enumerate(plans):
        variants = [Variant(BASELINE, only(plan.choices, set()), plan.settings)]
        variants += [Variant(name, only(plan.choices, {name}), plan.settings) for name in names]
        variants += coalition_variants(plan.choices, flow, plan.settings) if flow else []
        parts.append(run_experiment(plan, variants))
        parts[-1].trades.session[:] = number
        if progress:
            progress(number + 1, 2 * len(plans))
    leads = [lead for part in parts for lead in part.lead_ns if lead is not None]
    lead = max(leads) if leads else None
    for number, (plan, part) in enumerate(zip(plans, parts, strict=True)):
        later = replace(plan.settings, latency_ns=max(plan.settings.latency_ns, lead or 0))
        if later == plan.settings:
            scored.append({name: part.policies[name] for name in names})
        else:
            variants = [Variant(BASELINE, only(plan.choices, set()), plan.settings)]
            variants += [Variant(name, only(plan.choices, {name}), later) for name in names]
            scored.append(run_experiment(plan, variants).policies)
        if progress:
            progress(len(plans) + number + 1, 2 * len(plans))
    every = [name for name in parts[0].policies if name != BASELINE]
    return Study(
        join([part.trades for part in parts]),
        {name: join([part.policies[name] for part in parts]) for name in every},
        {name: join([part[name] for part in scored]) for name in names},
        [part.paths for part in parts],
        lead,
        parts,
    )


def _time_shift(plans: list[Plan], names: list[str], study: Study) -> dict[str, dict]:
    """Run the rules on a tape moved in time by an hour and more, where every recording is long enough for that."""
    found: dict[str, list[float]] = {name: [] for name in names}
    length_s = min((plan.session.manifest["last_recv_ns"] - plan.session.manifest["first_recv_ns"]) / 1e9 for plan in plans)
    possible, shifts_s = time_shift_possible(length_s)
    if not possible:
        reason = f"the shortest recording lasts {length_s:.0f} s; shifting its trades by an hour either way needs two hours"
        return {name: {"mean": None, "reason": reason} for name in names}
    for shift_s in shifts_s[:: max(1, len(shifts_s) // SHIFTS)][:SHIFTS]:
        changes: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for plan in plans:
            moved = replace(plan, tape_shift_ns=int(shift_s * 1e9))
            variants = [Variant(BASELINE, only(plan.choices, set()), plan.settings)]
            variants += [Variant(name, only(plan.choices, {name}), plan.settings) for name in names]
            part = run_experiment(moved, variants)
            for name in names:
                policy = part.policies[name]
                changes[name].append(np.where(policy.fired, policy.y - part.trades.y, 0.0))
        for name in names:
            found[name].append(float(np.concatenate(changes[name]).mean()))
    return {
        name: {"mean": float(np.mean(values)), "max": float(np.max(values)), "shifts": len(values), "reason": None}
        for name, values in found.items()
    }


def _record(plans: list[Plan], study: Study, names: list[str], data: Path, options: Options) -> int:
    """Write every configuration of this measurement into the ledger and return how many were ever tried on these trades."""
    path = ledger.ledger_path(data)
    sessions = tuple(plan.session.id for plan in plans)
    trials = []
    for name in names:
        policy = study.policies[name]
        change = np.where(policy.fired, policy.y - study.trades.y, 0.0)
        groups = [change[study.trades.session == n] for n in range(len(plans))]
        trials.append(
            ledger.Trial(
                "measure",
                ledger.acting_rules(list(only(plans[0].choices, {name}))),
                ledger.settings_dict(plans[0].settings),
                options.trades,
                sessions,
                tuple(float(group.mean()) if len(group) else None for group in groups),
                tuple(len(group) for group in groups),
                float(change.mean()),
                {"quotes": study.measured[0].quotes, "model": plans[0].model.text()},
            )
        )
    ledger.append(path, trials)
    return ledger.count_tried(path, options.trades)


def _result(plans: list[Plan], study: Study, rules: dict, tried: int) -> dict:
    """Return the parts of the `measure` object that are not about one rule."""
    trades, measured = study.trades, study.measured
    covered = [part.covered for part in measured if part.covered is not None]
    symbols = sorted({entry.symbol for plan in plans for entry in plan.session.instruments})
    return {
        "sessions": [plan.session.id for plan in plans],
        "symbols": symbols,
        "trades": len(trades),
        "baseline": "mechanical",
        "baseline_r": float(trades.y.mean()),
        "quotes": "modelled" if any(part.quotes == "modelled" for part in measured) else "recorded",
        "epsilon_r": epsilon_r(trades),
        "latency_ms": plans[0].settings.latency_ns / 1e6,
        "lead_ms": None if study.lead_ns is None else study.lead_ns / 1e6,
        "open_at_end": sum(part.open_at_end for part in measured),
        "from_ns": int(trades.open_ns.min()),
        "to_ns": int(trades.close_ns.max()),
        "rules": rules,
        "attribution": None,
        "calibration": None,
        "configurations_tried": tried,
        "coverage": float(np.mean(covered)) if covered else None,
        "report": None,
    }


def _calibration(plans: list[Plan]) -> dict:
    """Return what the order-flow score was worth, of the symbol most traded."""
    traded: Counter[str] = Counter()
    for plan in plans:
        desk = open_desk(plan.session.instruments, plan.model.tick_size)
        traded.update(desk.pairs[desk.number(trade.symbol)].symbol for trade in plan.trades)
    return calibrate([plan.session for plan in plans], traded.most_common(1)[0][0])


def _attribution(plans: list[Plan], study: Study, flow: list[str]) -> dict:
    """Return the attribution among the order-flow rules, totals in R."""
    found = attribute(study.trades, by_mask(study.policies, flow), flow, rule_numbers(plans[0].choices, flow))
    matrix = [[None] * len(flow) for _ in flow]
    for pair in found["interaction"]:
        i, j = (flow.index(name) for name in pair["rules"])
        matrix[i][j] = matrix[j][i] = pair["total_r"]
    displaced = {name: {what: entry["gain_r"] for what, entry in groups.items()} for name, groups in found["displaced"].items()}
    return {
        "names": flow,
        "value_r": found["value"]["total_r"],
        **{key: {name: found[key][name]["total_r"] for name in flow} for key in ("solo", "leave_one_out", "shapley")},
        "interaction": matrix,
        "displaced": displaced,
    }
