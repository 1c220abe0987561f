"""Replay a recorded session through the loop: decisions, orders and fills into a run folder."""

import contextlib
import dataclasses
import platform
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numba
import numpy as np

from engine import clock
from engine.errors import BadInput
from engine.kernel import records as R
from engine.link import KERNEL
from engine.positions import Desk, most_open, open_desk, position_rows
from engine.quotes import Modeller, QuoteModel, parse_quotes
from engine.record.store import Session, file_sha256
from engine.rules import SHIPPED, Choice, choose, find_rules, params_dict
from engine.run import Run, Settings
from engine.runlog import ACTIONS, FILL_CODES, RunWriter, read_manifest
from engine.stream import Injector, events, rechunk
from engine.trades import TradePlan, read_trades_csv, write_trades_csv

SLOTS_MAX = 4096


@dataclass
class Plan:
    """Everything that decides what a replay does."""

    session: Session
    trades: list[TradePlan]
    choices: list[Choice]
    settings: Settings = field(default_factory=Settings)
    model: QuoteModel = field(default_factory=QuoteModel)
    force_model: bool = False          # model quotes even where some were recorded
    volume_step: str = "0.01"
    recorded_exits: bool = False
    chunk: int | None = 0              # rows fed at once: 0 as stored, None all
    interpreted: bool = False
    kernel: Path = KERNEL
    tape_shift_ns: int = 0             # trades moved on by this much, in a circle: a placebo that breaks their link with price


class Feed:
    """A session's events with the planned positions in them, and modelled quotes where none were recorded."""

    def __init__(self, plan: Plan, desk: Desk):
        self.plan, self.desk = plan, desk
        self.modelled = plan.force_model or not all(desk.quoted)
        self.load_s = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        plan, desk = self.plan, self.desk
        positions = Injector(position_rows(plan.trades, desk, plan.volume_step, plan.recorded_exits))
        quotes = Injector()
        modeller = Modeller(plan.model, [pair.tick_size for pair in desk.pairs])
        tables = ["trades", "depth", "best", "feed"] + ([] if plan.force_model else ["quotes"])
        shifted = Injector()
        if plan.tape_shift_ns:
            tables.remove("trades")
            shifted.add(shifted_tape(plan.session, desk.numbers, plan.tape_shift_ns))
        modelled_symbols = [n for n, quoted in enumerate(desk.quoted) if plan.force_model or not quoted]
        chunks = events(plan.session, desk.numbers, tables)
        while True:
            began = clock.monotonic_s()
            chunk = next(chunks, None)
            if chunk is None:
                return
            if modelled_symbols:
                made = modeller.quotes(chunk)
                quotes.add(made[np.isin(made["symbol"], modelled_symbols)])
                chunk = quotes.merge(chunk)
            chunk = positions.merge(shifted.merge(chunk))
            self.load_s += clock.monotonic_s() - began
            yield chunk


def shifted_tape(session: Session, numbers: dict[str, int], shift_ns: int) -> np.ndarray:
    """Return the trade rows of a session moved on in time, those past its end coming in at its start."""
    rows = np.concatenate([np.zeros(0, R.EVENT), *events(session, numbers, ["trades"])])
    first_ns, last_ns = session.manifest["first_recv_ns"], session.manifest["last_recv_ns"]
    moved = first_ns + (rows["recv_ns"] - first_ns + shift_ns) % max(1, last_ns - first_ns)
    known = rows["event_ns"] != R.MISSING
    rows["event_ns"][known] += (moved - rows["recv_ns"])[known]
    rows["recv_ns"] = moved
    return rows[np.argsort(moved, kind="stable")]


def replay(plan: Plan, data: Path, inputs: dict, progress: Callable[[int, int], None] | None = None) -> dict:
    """Run a plan and return the `replay` object; `inputs` is what the manifest says of where the trades came from."""
    began = clock.monotonic_s()
    first_ns, last_ns = plan.session.manifest["first_recv_ns"], plan.session.manifest["last_recv_ns"]
    desk = open_desk(plan.session.instruments, plan.model.tick_size)
    given = len(plan.trades)
    plan.trades = inside(plan.trades, first_ns, last_ns)
    slots = min(SLOTS_MAX, max(8, most_open(plan.trades, last_ns) + 2))
    run = Run(desk.pairs, [plan.choices], [plan.settings], slots=slots, interpreted=plan.interpreted, kernel=plan.kernel)
    compile_loop(run)
    link_s = clock.monotonic_s() - began
    writer = RunWriter(data, [rule.name for rule in run.rules], [pair.symbol for pair in desk.pairs], run.folder)
    tally = Tally(len(run.rules))
    feed = Feed(plan, desk)
    try:
        kernel_s = 0.0
        for chunk in feed if plan.chunk == 0 else rechunk(feed, plan.chunk):
            at = clock.monotonic_s()
            decisions, fills = run.feed(chunk)
            kernel_s += clock.monotonic_s() - at
            writer.add(decisions, fills)
            tally.add(len(chunk), decisions, fills)
            if progress:
                progress(int(chunk["recv_ns"][-1]) - first_ns, last_ns - first_ns)
        if tally.refused:
            raise BadInput(f"{tally.refused} trades found no free place: more than {slots} were open at once; enter less often or "
                           "hold them for less")
        write_trades_csv(writer.folder / "trades.csv", plan.trades)
        digest = writer.digest.hexdigest()
        counts = tally.result([rule.name for rule in run.rules])
        quotes = "modelled" if feed.modelled else "recorded"
        path = writer.finish(f"{plan.session.id}-{digest[:8]}", _manifest(plan, inputs, run, digest, quotes, counts))
    except BaseException:
        writer.abandon()
        raise
    total_s = clock.monotonic_s() - began
    return {"run": path.name, "path": str(path), "digest": digest, "quotes": quotes, **counts,
            "seconds": {"link": round(link_s, 3), "load": round(feed.load_s, 3), "kernel": round(kernel_s, 3), "total": round(total_s, 3)},
            "events_per_second": round(counts["events"] / max(kernel_s + feed.load_s, 1e-9)), "outside": given - len(plan.trades)}


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Let a first Ctrl-C wait for the end: the compiler may swallow it."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt
    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:                 # signals are of the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if asked:
        raise KeyboardInterrupt


def compile_loop(run: Run) -> None:
    """Compile before anything is written; what only the interpreter understands of an own rule is the user's to mend."""
    try:
        with patient():
            run.feed(np.zeros(0, R.EVENT))
    except Exception as error:
        own = [rule for rule in run.rules if rule.path.parent != SHIPPED]
        if not own:
            raise
        text = str(error)
        places = re.findall(r'rules[/\\](\w+)\.py", line (\d+)', text)
        where = f"one of the rules {', '.join(rule.name for rule in own)}"
        if places:
            where = f"rule file {places[-1][0]}.py, line {places[-1][1]}"
        said = next((line.strip() for line in text.splitlines() if line.strip() and "nopython" not in line), type(error).__name__)
        raise BadInput(f"{where} runs in the interpreter and cannot be compiled: {type(error).__name__}: {said}; use plain numbers, if, "
                       "while, for range and math") from error


def inside(trades: list[TradePlan], first_ns: int, last_ns: int) -> list[TradePlan]:
    """Return the trades that open within the recording; none at all is an error."""
    inside = [trade for trade in trades if first_ns <= trade.open_ns <= last_ns]
    if trades and not inside:
        raise BadInput(f"none of the {len(trades)} trades opens within the recording; check their time zone (--server-offset)")
    if not trades:
        raise BadInput("there are no trades to replay: the recording is too short for the entries, or the file is empty")
    return inside


class Tally:
    """Counts what a run led to."""

    def __init__(self, rules: int):
        self.events = 0
        self.decisions = 0
        self.by_rule = np.zeros((rules, len(ACTIONS)), np.int64)
        self.by_code = np.zeros(len(FILL_CODES), np.int64)
        self.closed_r: list[np.ndarray] = []

    @property
    def refused(self) -> int:
        """Trades that found no free slot."""
        return int(self.by_code[R.NO_SLOT])

    def add(self, rows: int, decisions: np.ndarray, fills: np.ndarray) -> None:
        """Count one piece of the stream."""
        self.events += rows
        self.decisions += len(decisions)
        told = decisions[np.isin(decisions["result"], (R.ACTED, R.ALERTED, R.SHADOWED))]
        np.add.at(self.by_rule, (told["rule"], told["action"]), 1)
        np.add.at(self.by_code, fills["code"], 1)
        done = fills[(fills["volume_left"] == 0) & (fills["risk_ticks"] != R.MISSING) & (fills["price_ticks"] != R.MISSING)]
        self.closed_r.append(done["side"] * (done["price_ticks"] - done["entry_ticks"]) / done["risk_ticks"])

    def result(self, rules: list[str]) -> dict:
        """Return the counts as the replay object has them."""
        results = np.concatenate(self.closed_r) if self.closed_r else np.zeros(0)
        closed = int(sum(self.by_code[c] for c in (R.STOPPED, R.TAKEN, R.TIMED_OUT, R.RULE_CLOSED, R.RECORDED_CLOSE)))
        return {"events": self.events, "trades": closed, "decisions": self.decisions,
                "by_rule": {name: {action: int(self.by_rule[r, a]) for a, action in enumerate(ACTIONS) if a}
                            for r, name in enumerate(rules)},
                "fills": {code: int(n) for code, n in zip(FILL_CODES, self.by_code, strict=True) if code},
                "mean_r": round(float(results.mean()), 4) if len(results) else None}


def _manifest(plan: Plan, inputs: dict, run: Run, digest: str, quotes: str, counts: dict) -> dict:
    versions = {name: metadata.version(name) for name in ("numba", "numpy", "pyarrow")}
    return {"session": plan.session.id, "session_path": str(plan.session.path.resolve()),
            "session_manifest_sha256": file_sha256(plan.session.path / "manifest.json"), "inputs": inputs, "digest": digest,
            "digest_of": "SHA-256 over the decision rows, in order, in the layout DECISION of kernel/market.py",
            "kernel": run.folder.name, "quotes": quotes, "quote_model": plan.model.text() if quotes == "modelled" else None,
            "force_model": plan.force_model, "volume_step": plan.volume_step, "recorded_exits": plan.recorded_exits,
            "settings": dataclasses.asdict(plan.settings),
            "rules": {choice.rule.name: {"preset": choice.preset, "mode": choice.mode, "params": params_dict(choice),
                                         "evidence": choice.rule.evidence} for choice in plan.choices},
            "versions": {"python": platform.python_version(), **versions}, "numba": numba.__version__, "counts": counts}


def replay_again(folder: Path, data: Path, session: Path | None = None) -> dict:
    """Replay a run from its own folder: its kernel, rules, parameters and trades; the caller compares digests."""
    if (folder / "live.json").is_file():
        raise BadInput(f"{folder.name} is a live run: tapeguard verify {folder.name} replays it with what the broker answered")
    manifest = read_manifest(folder)
    source = session or Path(manifest["session_path"])
    if not (source / "manifest.json").is_file():
        raise BadInput(f"session {manifest['session']} of run {folder.name} is not at {source}; name the folder it is in now")
    if file_sha256(source / "manifest.json") != manifest["session_manifest_sha256"]:
        raise BadInput(f"{source} is not the session run {folder.name} was made from: its manifest has another SHA-256")
    rules = find_rules(folder / "kernel" / "rules", shipped=False)
    changes = [f"{name}.{param}={value}" for name, entry in manifest["rules"].items() if entry["mode"] != "off"
               for param, value in entry["params"].items()]
    wanted = ",".join(f"{name}:{entry['preset']}={entry['mode']}" for name, entry in manifest["rules"].items() if entry["mode"] != "off")
    plan = Plan(Session(source), read_trades_csv(folder / "trades.csv"), choose(rules, wanted or "none", changes),
                Settings(**manifest["settings"]), parse_quotes(manifest["quote_model"] or ""), manifest["force_model"],
                manifest["volume_step"], manifest["recorded_exits"], kernel=folder / "kernel")
    return replay(plan, data, manifest["inputs"])
