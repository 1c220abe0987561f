"""What the replay tests share: a generated session, its events with positions in them, runs, reflections and broken kernels."""

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

import engine.replay
from engine.cli import main
from engine.entries import parse_entries, plan_entries
from engine.kernel import records as R
from engine.link import KERNEL
from engine.measure.market_model import MarketConfig
from engine.measure.plants import Divergence, Fault, Reversal, Void, Whale
from engine.measure.synthetic import generate
from engine.positions import Desk, open_desk
from engine.record.importer import import_files
from engine.record.store import TABLES, Session, SessionWriter
from engine.replay import Feed, Plan
from engine.rules import Choice, choose, find_rules
from engine.run import Run, Settings
from engine.trades import TradePlan

ENTRIES = "every=7s,side=both,sl=10bps,tp=15bps,max=60s,start=65s"
# the arrays that hold the market; the others hold positions, votes and parameters
MARKET_ARRAYS = ("market core ladders levels pending windows slots slot running sweeps sweep_counts samples basis ordered bins usual "
                 "history below medians").split()

WITNESS = '''"""Witness: speaks at every event at which anything it sees has changed, and moves its stop with the market.

Why:    so that a test sees every feature at every event.
Source: none.
Blind:  nothing.
"""
from dataclasses import dataclass

ALERT, TIGHTEN = 1, 2


@dataclass(frozen=True)
class Params:
    stop_bps: float = 4.0


@dataclass
class State:
    occasion: int = 0
    sum_1: float = 0.0
    sum_2: float = 0.0
    depth: float = 0.0
    z: float = 0.0
    flow: int = 0
    gain_ticks: int = 0
    seen: int = 0
    stop_ticks: int = 0


def on_event(params, state, market, position):
    if not market.mid_ok or not market.book_ok or not market.tape_ok:
        return 0
    total = market.move_1s_bps + market.move_10s_bps + market.imbalance_10s + market.ofi_10s
    if not total < 1e9:
        return 0
    state.seen += 1
    state.sum_1 = total
    state.sum_2 = market.top5_imbalance
    state.depth = market.bid.depth_5bps_lots - market.ask.depth_5bps_lots
    state.z = market.z_residual_30s
    state.flow = market.flow_30s_lots
    state.gain_ticks = position.gain_ticks
    state.occasion = state.seen
    state.stop_ticks = position.exit_ticks - position.side * int(position.exit_ticks * params.stop_bps / 10000.0)
    return TIGHTEN if state.seen % 50 == 0 else ALERT
'''


@dataclass
class Market:
    """A session, what trades in it, and the whole stream the kernel sees."""

    session: Session
    desk: Desk
    trades: list[TradePlan]
    events: np.ndarray


def generated_session(folder: Path, seed: int = 3, seconds: float = 230.0) -> Session:
    """Generate a market with a plant of each kind and import it as a recording would be."""
    plants = (Whale(at_s=100, side=1, strength=40, drift_bps=8), Whale(at_s=130, side=-1, strength=40, drift_bps=8),
              Void(at_s=110, side=-1, drift_bps=6), Void(at_s=140, side=1, drift_bps=6), Divergence(at_s=100, side=1),
              Reversal(at_s=180, side=-1), Fault("gap", at_s=200))
    made = generate(MarketConfig(seed=seed, duration_s=seconds, plants=plants), folder / "market")
    import_files([made.capture, made.ticks], folder / "data", name="gen")
    return Session(folder / "data" / "sessions" / "gen")


def open_market(session: Session, entries: str = ENTRIES, symbol: str | None = None) -> Market:
    """Return a session's whole stream with systematic positions in it."""
    desk = open_desk(session.instruments, "0.01")
    manifest = session.manifest
    trades = plan_entries(parse_entries(entries), manifest["first_recv_ns"], manifest["last_recv_ns"], symbol or desk.pairs[0].symbol)
    return Market(session, desk, trades, np.concatenate(list(Feed(Plan(session, trades, []), desk))))


def shipped(preset: str, changes: tuple[str, ...] = ()) -> list[Choice]:
    """Return every shipped rule, acting."""
    rules = find_rules()
    return choose(rules, ",".join(f"{name}:{preset}" if preset in rule.presets else name for name, rule in rules.items()), list(changes))


def witness(folder: Path) -> list[Choice]:
    """Return the rule that shows every change of the market."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "witness.py").write_text(WITNESS, encoding="utf-8")
    return choose(find_rules(folder, shipped=False), "all", [])


def new_run(market: Market, choices: list[Choice], settings: Settings | None = None, **options) -> Run:
    """Return a run of one variant."""
    return Run(market.desk.pairs, [choices], [settings or Settings()], slots=32, **options)


def warmed(run: Run, state: dict[str, np.ndarray]) -> Run:
    """Put the market of a state taken elsewhere into a run, positions and rules left as they are."""
    for name in MARKET_ARRAYS:
        run.arrays[name][...] = state[name]
    return run


def broken_kernel(folder: Path, file: str, old: str, new: str) -> Path:
    """Copy the kernel and change one place of it."""
    target = folder / "kernel"
    shutil.copytree(KERNEL, target, ignore=shutil.ignore_patterns("__pycache__"))
    text = (target / file).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file} has {text.count(old)} places {old!r}; mend this test"
    (target / file).write_text(text.replace(old, new), encoding="utf-8")
    return target


def rewritten(session: Session, data: Path, edit) -> Session:
    """Write a session anew with each table changed by `edit(name, table)`."""
    writer = SessionWriter(data / "sessions", session.id)
    for name in TABLES:
        table = session.table(name)
        if table.num_rows:
            writer.write(name, edit(name, table))
    facts = {key: value for key, value in session.manifest.items() if key not in ("format", "session", "rows", "files", "state")}
    return Session(writer.finish(facts))


def cut(session: Session, data: Path, last_seq: int) -> Session:
    """Write the part of a session up to a seq, its manifest otherwise unchanged."""
    return rewritten(session, data, lambda name, table: table.filter(pc.less_equal(table["seq"], last_seq)))


def frame_starts(events: np.ndarray) -> np.ndarray:
    """Return the places at which a new seq begins."""
    return np.flatnonzero(np.diff(events["seq"], prepend=-1))


def same_rows(mine: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two arrays of rows are equal byte for byte."""
    return mine.dtype == other.dtype and np.ascontiguousarray(mine).tobytes() == np.ascontiguousarray(other).tobytes()


def unequal_arrays(mine: Run, other: Run, ignore: tuple[str, ...] = ("decisions", "fills", "counts")) -> list[str]:
    """Return the names of the arrays in which two runs differ in any byte."""
    return [name for name, array in mine.arrays.items() if name not in ignore and not same_rows(array, other.arrays[name])]


def mirrored(events: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Swap the sides and reflect every price about the first quote; return the stream and the sums of price and its image."""
    out = events.copy()
    best, quote = (np.flatnonzero(events["kind"] == kind) for kind in (R.BEST, R.QUOTE))
    venue, broker = (int(events["price_ticks"][rows[:2]].sum()) for rows in (best, quote))
    known = events["price_ticks"] != R.MISSING
    for kinds, total in (((R.TRADE, R.DEPTH, R.SNAPSHOT, R.BEST), venue), ((R.QUOTE, R.POSITION, R.OUTCOME), broker)):
        mine = np.isin(events["kind"], kinds)
        out["side"][mine] *= -1
        mine &= known & (events["bits"] & R.RELATIVE == 0)
        out["price_ticks"][mine] = total - events["price_ticks"][mine]
    for rows in (best, quote):
        for name in ("price_ticks", "qty_lots", "side"):
            values = out[name][rows].reshape(-1, 2)[:, ::-1].ravel()
            out[name][rows] = values
    return out, venue, broker


def at_second(events: np.ndarray, second: float) -> int:
    """Return the first frame that arrives at or after a second of the recording."""
    starts = frame_starts(events)
    return int(starts[np.searchsorted(events["recv_ns"][starts], events["recv_ns"][0] + int(second * 1e9))])


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Market:
    return open_market(generated_session(tmp_path_factory.mktemp("generated")), symbol="BTCUSD")


@pytest.fixture(scope="session")
def real(realdata, tmp_path_factory) -> Market:
    """The first two minutes and a half of a recorded evening; its broker quotes are modelled."""
    folder = tmp_path_factory.mktemp("real")
    part = folder / "btcusdt.gz"
    with gzip.open(realdata / "binance_usdm" / "btcusdt_20240808.gz") as whole, gzip.open(part, "wb", 1) as out:
        for line, _ in zip(whole, range(45_000)):
            out.write(line)
    import_files([part], folder / "data", name="real")
    return open_market(Session(folder / "data" / "sessions" / "real"), "every=5s,side=both,sl=10bps,tp=15bps,max=40s,start=72s")


@pytest.fixture(scope="session", params=["generated", "real"])
def market(request) -> Market:
    return request.getfixturevalue(request.param)


def interpreted(market: Market, choices, events: np.ndarray, state: dict | None = None, **options) -> tuple[Run, np.ndarray, np.ndarray]:
    """Run events in the interpreter; `state` is a whole state of a run of the same rules."""
    run = new_run(market, choices, interpreted=True, **options)
    if state:
        run.restore(state)
    with np.errstate(all="ignore"):
        return run, *run.feed(events)


@pytest.fixture(scope="session")
def warm(generated) -> tuple[dict, np.ndarray]:
    """The market after 70 s without positions, and the next 2,500 events with two positions opened at their start."""
    events = generated.events[generated.events["kind"] != R.POSITION]
    start = frame_starts(events)[np.searchsorted(events["recv_ns"][frame_starts(events)], events["recv_ns"][0] + 75 * 10**9)]
    run = new_run(generated, shipped("robust"))
    run.feed(events[:start])
    opened = generated.events[(generated.events["kind"] == R.POSITION) & np.isin(generated.events["id"], (1, 2))].copy()
    opened["recv_ns"], opened["seq"] = events["recv_ns"][start - 1], events["seq"][start - 1]
    return run.snapshot(), np.concatenate([opened, events[start:start + 2500]])


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """Keep the snapshots of kernels that are only interpreted out of the user's cache."""
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def only_interpreted(monkeypatch, tmp_path) -> Path:
    """Make replays run in the interpreter, and keep their kernels out of the user's cache."""
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine.replay, "Run", lambda *args, **options: Run(*args, **{**options, "interpreted": True}))
    return tmp_path


def tool(capsys, *arguments: str) -> dict:
    """Run a command that must succeed and return its JSON, having seen that there is nothing else on standard output."""
    code = main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def fails(capsys, *arguments: str, code: int = 2) -> str:
    """Run a command that must fail and return its one sentence."""
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tapeguard: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def leftovers(data: Path) -> list[str]:
    """Return what a failed replay left under a data root."""
    return [path.name for path in (data / "runs").iterdir()] if (data / "runs").is_dir() else []
