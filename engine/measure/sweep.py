"""Many sets of parameters in one pass each, beside the baseline; every set counted, the winner's luck taken off."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from engine import clock
from engine.errors import BadInput, SourceFailed
from engine.kernel import records as R
from engine.kernel.market import DECISION, FILL, POSITION
from engine.measure import ledger as trials
from engine.measure.experiment import BASELINE, Variant, only, run_experiment
from engine.measure.grid import Axis, ParameterSet, expand, parse_grid
from engine.measure.inference import pbo
from engine.measure.outcomes import Trades, delta_r, join, take
from engine.measure.selection import MOST_GROUPS, block_sums, minimum_detectable, other_half, sign_flips, trade_blocks
from engine.positions import most_open, open_desk
from engine.replay import Plan, inside
from engine.rules import Choice, Rule, read_rule
from engine.run import Run, Settings

PASS_PLACES = 6000             # sets times places for open trades in one pass: more falls out of the processor's cache
LEAST_SETS = 16                # in one pass: with fewer, folding the market costs more than asking the rules
PASS_BYTES = 512 << 20         # of positions, rule states and outputs in one pass
SPAWN_ABOVE = 500_000_000      # rows times sets: below, starting a process costs more than it saves
FEWEST_TRADES = 100
LEVEL = 0.05
MOST_OVERFIT = 0.2
SHOWN = 10
_TINY_S = 1e-9


@dataclass(frozen=True)
class Part:
    """What some sets made of one session."""

    trades: Trades
    delta_r: np.ndarray        # set by trade
    fires: np.ndarray          # trades in which the set filled anything
    events: int
    quotes: str


@dataclass(frozen=True)
class Job:
    """The sets one process runs in one pass over each session; a choice is rule name, preset, parameters, mode."""

    first: int
    sets: tuple[tuple[tuple[str, str, dict, str], ...], ...]


def sweep(plans: list[Plan], base_choices: list[Choice], grid: Sequence[str] | Sequence[Axis], settings: Settings,
          workers: int = 2, progress: Callable[[int, int], None] | None = None, *, ledger: Path | None = None,
          trades: str = "", what: str = "sweep", seed: int = 1) -> dict:
    """Try every set of the grid on every session and return the `sweep` object.

    The swept rules act alone, the other choices are off. `trades` is the text that names the trades in the ledger (the
    entries, or the hash of a file); without it their own hash is used. Without `ledger` nothing is written and only
    this grid is counted.
    """
    began = clock.monotonic_s()
    if not plans:
        raise BadInput("a sweep needs a session; tapeguard sessions lists them")
    axes = [axis if isinstance(axis, Axis) else parse_grid([axis])[0] for axis in grid]
    axes, sets, refused = expand(axes if axes else parse_grid([]), base_choices)
    if ledger is not None:
        trials.read(ledger)    # a ledger that cannot be read is told before the work, not after it
    parts = run_sets(plans, sets, base_choices, settings, workers, progress)
    ran_s = clock.monotonic_s() - began
    table = _join(parts)
    if not len(table.trades):
        raise BadInput("no trade of the sweep came to an end within its recording; give longer sessions, "
                       "or a shorter max= in the entries")
    tried, note = len(sets), None
    if ledger is not None:
        spec = trades or trades_hash(plans)
        note = trials.append(ledger, _trials(sets, plans, table, settings, spec, what))
        tried = max(tried, trials.count_tried(ledger, spec))
    result = _result(axes, sets, refused, plans, table, tried, seed)
    result["notes"] += [note] if note else []
    seconds = clock.monotonic_s() - began
    return {**result, "ledger": None if ledger is None else str(ledger), "seconds": round(seconds, 3),
            "run_seconds": round(ran_s, 3),
            "event_sets_per_second": round(table.events * len(sets) / max(ran_s, _TINY_S))}


def trades_hash(plans: list[Plan]) -> str:
    """Return a hash of the trades themselves, for those that have no name."""
    return hashlib.sha256(repr([trade for plan in plans for trade in plan.trades]).encode()).hexdigest()[:20]


def variant_bytes(rules: Sequence[Rule], slots: int) -> int:
    """Return what one more variant takes: positions, states and latches of the rules, its share of the outputs."""
    states = sum(len(rule.state_fields) * 8 for rule in rules)
    outputs = 2 * max(len(rules), 4) * DECISION.itemsize + 4 * FILL.itemsize
    return slots * (POSITION.itemsize + states + 24 * len(rules) + 8 + outputs)


def run_sets(plans: list[Plan], sets: list[ParameterSet], base_choices: list[Choice], settings: Settings, workers: int,
             progress: Callable[[int, int], None] | None = None) -> list[Part]:
    """Run all sets over all sessions and return one part for each session; no split into passes shows in it."""
    if workers < 1:
        raise BadInput(f"--workers {workers}: give 1 or more")
    rules = [choice.rule for choice in base_choices]
    for plan in plans:
        plan.trades = inside(plan.trades, plan.session.manifest["first_recv_ns"], plan.session.manifest["last_recv_ns"])
    slots = max(max(8, most_open(plan.trades, plan.session.manifest["last_recv_ns"]) + 2) for plan in plans)
    rows = sum(sum(plan.session.manifest["rows"].values()) for plan in plans)
    if rows * len(sets) < SPAWN_ABOVE:
        workers = 1
    most = min(max(LEAST_SETS, PASS_PLACES // slots), PASS_BYTES // variant_bytes(rules, slots) - 1,
               -(-len(sets) // workers))
    most = max(1, most)
    jobs = [Job(first, tuple(_packed(entry.choices) for entry in sets[first:first + most]))
            for first in range(0, len(sets), most)]
    done, found = 0, {}
    for first, parts in _run_jobs(plans, jobs, rules, settings, workers):
        found[first] = parts
        done += len(parts[0].fires)
        if progress:
            progress(done, len(sets))
    return [_stack([found[job.first][n] for job in jobs]) for n in range(len(plans))]


def _packed(choices: Sequence[Choice]) -> tuple:
    return tuple((choice.rule.name, choice.preset, dataclasses.asdict(choice.params), choice.mode)
                 for choice in choices)


def _run_jobs(plans: list[Plan], jobs: list[Job], rules: list[Rule], settings: Settings,
              workers: int) -> Iterator[tuple[int, list[Part]]]:
    """Run the jobs here, or in processes of their own as they come free."""
    workers = min(workers, len(jobs))
    bare = [dataclasses.replace(plan, choices=[]) for plan in plans]
    if workers == 1:
        for job in jobs:
            yield job.first, _run_job(bare, rules, settings, job)
        return
    _compile(plans[0], rules, settings)
    with tempfile.TemporaryDirectory(prefix="tapeguard-") as folder:
        # the text the sweep began with, whatever happens to the files meanwhile
        paths = [Path(folder) / f"{rule.name}.py" for rule in rules]
        for path, rule in zip(paths, rules):
            path.write_text(rule.source, encoding="utf-8", newline="\n")
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin,
                                   initargs=(bare, paths, settings))
        try:
            waiting = {pool.submit(_run_here, job): job.first for job in jobs}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            raise SourceFailed("a process of the sweep was ended from outside, perhaps for want of memory; "
                               "try --workers 1") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _compile(plan: Plan, rules: list[Rule], settings: Settings) -> None:
    """Compile the loop before processes share it, so that it is done once."""
    choices = [Choice(rule, "", rule.module.Params(), "off") for rule in rules]
    run = Run(open_desk(plan.session.instruments, plan.model.tick_size).pairs[:1], [choices], [settings], slots=1)
    run.feed(np.zeros(0, R.EVENT))


_mine: dict = {}               # what a process of the pool was begun with


def _begin(plans: list[Plan], paths: list[Path], settings: Settings) -> None:
    _mine.update(plans=plans, paths=paths, settings=settings)


def _run_here(job: Job) -> list[Part]:
    """Run a job in a process of the pool, with its own copy of the rules."""
    if "rules" not in _mine:
        _mine["rules"] = [read_rule(path) for path in _mine["paths"]]
    return _run_job(_mine["plans"], _mine["rules"], _mine["settings"], job)


def _unpacked(rules: list[Rule], entry: tuple[str, str, dict, str]) -> Choice:
    name, preset, params, mode = entry
    rule = next(rule for rule in rules if rule.name == name)
    return Choice(rule, preset, rule.module.Params(**params), mode)


def _run_job(plans: list[Plan], rules: list[Rule], settings: Settings, job: Job) -> list[Part]:
    """Run the sets of a job over each session, the baseline with them."""
    variants = [Variant(str(n), tuple(_unpacked(rules, entry) for entry in packed), settings)
                for n, packed in enumerate(job.sets)]
    variants = [Variant(BASELINE, only(list(variants[0].choices), set()), settings), *variants]
    found = []
    for number, plan in enumerate(plans):
        measured = run_experiment(plan, variants)
        policies = [measured.policies[variant.name] for variant in variants[1:]]
        measured.trades.session[:] = number
        changes = np.stack([delta_r(measured.trades, policy) for policy in policies])
        fires = np.array([int(policy.fired.sum()) for policy in policies])
        found.append(Part(measured.trades, changes, fires, measured.events, measured.quotes))
    return found


def _stack(parts: list[Part]) -> Part:
    """Put the sets of one session together; the baseline has to be the same in every pass."""
    first = parts[0]
    for part in parts[1:]:
        same = [np.array_equal(getattr(part.trades, name), getattr(first.trades, name)) for name in ("ticket", "y")]
        if not all(same):
            raise RuntimeError("the baseline differs between two passes over one session")
    return dataclasses.replace(first, delta_r=np.concatenate([part.delta_r for part in parts]),
                               fires=np.concatenate([part.fires for part in parts]))


def _join(parts: list[Part]) -> Part:
    """Put the sessions together; a trade that some set has no result for is left out of all."""
    trades = join([part.trades for part in parts])
    changes = np.concatenate([part.delta_r for part in parts], axis=1)
    known = np.flatnonzero(np.isfinite(changes).all(axis=0))
    quotes = {part.quotes for part in parts}
    fires = np.sum([part.fires for part in parts], axis=0)
    return Part(take(trades, known), changes[:, known], fires, sum(part.events for part in parts),
                quotes.pop() if len(quotes) == 1 else "mixed")


def _trials(sets: list[ParameterSet], plans: list[Plan], table: Part, settings: Settings, spec: str,
            what: str) -> list[trials.Trial]:
    """Return a line of the ledger for each set."""
    mine = [table.trades.session == n for n in range(len(plans))]
    sessions = tuple(plan.session.id for plan in plans)
    found = []
    for entry, row, fires in zip(sets, table.delta_r, table.fires):
        per_session = tuple(float(row[chosen].mean()) if chosen.any() else None for chosen in mine)
        found.append(trials.Trial(what, trials.acting_rules(entry.choices), trials.settings_dict(settings), spec,
                                  sessions, per_session, float(row.mean()), len(row), int(fires)))
    return found


def _result(axes: list[Axis], sets: list[ParameterSet], refused: list[dict], plans: list[Plan], table: Part, tried: int,
            seed: int) -> dict:
    """Return everything there is to say of the sets."""
    count = len(table.trades)
    sums, sizes = block_sums(table.delta_r, trade_blocks(table.trades))
    family = sign_flips(sums, seed)
    # Bonferroni between sweeps of one question, step-down within: the whole family holds its level
    adjusted = np.minimum(1.0, family.p * tried / len(sets))
    overfit, shrunk = pbo(sums / sizes[:, None], MOST_GROUPS), other_half(sums, sizes)
    overfit = None if np.isnan(overfit) else overfit
    means = np.array([row.mean() for row in table.delta_r])
    entries = [{"set": entry.values, "mean_delta_r": float(means[k]), "total_delta_r": float(table.delta_r[k].sum()),
                "fires": int(table.fires[k]), "t": float(family.t[k]), "adjusted_p": float(adjusted[k])}
               for k, entry in enumerate(sets)]
    ranked = np.argsort(-means, kind="stable")
    best = int(ranked[0])
    mean = float(means[best])
    verdict, notes = _verdict(count, len(sums), mean, float(adjusted[best]), overfit)
    return {"sets": len(sets), "refused": refused, "trades": count, "sessions": [plan.session.id for plan in plans],
            "blocks": len(sums), "quotes": table.quotes, "events": table.events,
            "baseline_r": float(table.trades.y.mean()), "best": [entries[k] for k in ranked[:SHOWN]],
            "adjusted_p": float(adjusted[best]), "pbo": overfit,
            "winner": {"set": sets[best].values, "mean_delta_r": mean, "other_half_r": shrunk,
                       "luck_r": None if shrunk is None else mean - shrunk},
            "minimum_detectable_r": minimum_detectable(sums, best, count, family.critical),
            "configurations_tried": tried, "verdict": verdict, "against": BASELINE, "notes": notes,
            "heatmap": heatmap(axes, sets, means, table.fires), "results": entries}


def _verdict(trades: int, blocks: int, mean: float, p: float, overfit: float | None) -> tuple[str, list[str]]:
    """Return one word, and sentences on how far it goes."""
    notes = ["The change is against the baseline: one above 0 may also come from leaving sooner, "
             "so measure the chosen set against its placebos."]
    if overfit is None:
        notes.append(f"Blocks of trades: {blocks}; too few of them, or of sets, to choose on one half and look at "
                     "the other.")
    elif overfit > MOST_OVERFIT:
        notes.append(f"In {overfit:.0%} of the halves the chosen set came out in the lower half of all: "
                     "do not use the winner's number.")
    if trades < FEWEST_TRADES:
        notes.append(f"{trades} trades are insufficient to tell anything from chance; {FEWEST_TRADES} are the least.")
        return "insufficient", notes
    if p > LEVEL or (overfit is not None and overfit > MOST_OVERFIT):
        return "indistinguishable", notes
    return "better" if mean > 0 else "worse", notes


def heatmap(axes: list[Axis], sets: list[ParameterSet], means: np.ndarray, fires: np.ndarray) -> dict:
    """Return mean change and fires over the first two axes (row y, column x), averaged over others, None if refused."""
    x, y = axes[0], axes[1] if len(axes) > 1 else None
    shape = (len(y.values) if y else 1, len(x.values))
    total, fired, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for k, entry in enumerate(sets):
        at = (y.values.index(entry.values[y.name]) if y else 0, x.values.index(entry.values[x.name]))
        total[at] += means[k]
        fired[at] += fires[k]
        count[at] += 1
    mean, mean_fires = (np.where(count > 0, sums / np.maximum(count, 1), np.nan) for sums in (total, fired))
    return {"x": x.name, "x_values": list(x.values), "y": y.name if y else None,
            "y_values": list(y.values) if y else [], "mean_delta_r": _cells(mean), "fires": _cells(mean_fires),
            "averaged_over": [axis.name for axis in axes[2:]]}


def _cells(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]
