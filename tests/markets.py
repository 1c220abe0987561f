"""Helpers of the measuring tests: generated markets by the recording's door, measured, many at once."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from engine.entries import parse_entries, plan_entries
from engine.measure.market_model import MarketConfig
from engine.measure.measure import Options, measure
from engine.measure.synthetic import generate
from engine.record.importer import import_files
from engine.record.store import Session
from engine.replay import Plan
from engine.rules import choose, find_rules
from engine.run import Settings

PROCESSES = 2
MS = 1_000_000
# trades that do not overlap, and rules that fire on a third to a half of them
NULL_ENTRIES = "every=10s,side=alternate,sl=6bps,tp=6bps,max=10s,start=65s"
OFTEN = (
    "order_flow.score=15",
    "order_flow.min_volume_ratio=0",
    "order_flow.min_trades=10",
    "order_flow.dwell_ms=100",
    "momentum_reversal.arm_z=0",
    "momentum_reversal.arm_r=0",
    "momentum_reversal.fire_z=0.8",
    "momentum_reversal.give_back=0",
    "momentum_reversal.floor_bps=0",
)


@dataclass(frozen=True)
class Job:
    """One measurement: markets, the trades put into each, and the rules held against them."""

    markets: tuple[MarketConfig, ...]
    entries: str
    wanted: str
    changes: tuple[str, ...] = ()
    rules_folder: Path | None = None
    shipped: bool = True
    settings: Settings = field(default_factory=Settings)
    options: Options = field(default_factory=Options)


def often(*rules: str) -> tuple[str, ...]:
    """Return the changes that make these rules fire often."""
    return tuple(change for change in OFTEN if change.split(".")[0] in rules)


def null_market(seed: int, **changes) -> MarketConfig:
    """Return eight minutes with no edge in them, of less traffic than the default so that many can be had."""
    settings = {
        "duration_s": 480.0,
        "trades_per_s": 12.0,
        "quotes_per_s": 24.0,
        "frames_per_s": 4.0,
        "level_updates_per_side": 6,
        "broker_spread_bps": 0.5,
        **changes,
    }
    return MarketConfig(seed=seed, **settings)


def recorded(config: MarketConfig, folder: Path, name: str = "market") -> tuple[Session, list[dict]]:
    """Generate a market, import it as a recording would be, and return the session and the truth planted in it."""
    made = generate(config, folder / f"{name} files")
    return Session(import_files([made.capture, made.ticks], folder / "data", name=name)["path"]), made.planted


def plan_of(session: Session, job: Job) -> Plan:
    """Return the plan of one session of a job."""
    manifest = session.manifest
    broker = next(entry.symbol for entry in session.instruments if entry.venue == "mt5")
    trades = plan_entries(parse_entries(job.entries), manifest["first_recv_ns"], manifest["last_recv_ns"], broker)
    choices = choose(find_rules(job.rules_folder, job.shipped), job.wanted, list(job.changes))
    return Plan(session, trades, choices, job.settings)


def measured(job: Job) -> tuple[dict, dict]:
    """Return what `measure` says of a job's markets, everything on disk gone again."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = [recorded(config, Path(folder), f"market-{number}")[0] for number, config in enumerate(job.markets)]
        return measure([plan_of(session, job) for session in sessions], Path(folder) / "data", job.options)


def side_by_side(work: Callable, jobs: Iterable) -> list:
    """Do the jobs in a pool of processes, in order; the first is done here, so that the kernel is compiled once."""
    first, *rest = jobs
    done = [work(first)]
    if rest:
        with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
            done += pool.map(work, rest, chunksize=2)
    return done


def table(title: str, heads: str, rows: list[tuple]) -> None:
    """Show a table of what was measured; pytest prints it when a test fails, or with -s."""
    print(f"\n{title}\n{heads}")
    for row in rows:
        print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
