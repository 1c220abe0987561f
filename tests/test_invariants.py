"""The invariants of the design on a generated and a real session; for each, a broken program that its test catches."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from replays import (ENTRIES, broken_kernel, cut, frame_starts, interpreted, new_run, open_market, rewritten, same_rows, shipped,
                     unequal_arrays, warmed, witness)

import engine.stream
from engine.entries import parse_entries, plan_entries
from engine.kernel import records as R
from engine.replay import Feed, Plan
from engine.replay import replay as replay_plan
from engine.run import Run, Settings

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("classic", "robust")


def fed(run: Run, events: np.ndarray, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Feed events in pieces and return all decisions and fills."""
    parts = [run.feed(events[at:at + (size or len(events))]) for at in range(0, len(events), size or len(events))]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def busiest(decisions: np.ndarray, events: np.ndarray, rows: int) -> int:
    """Return the start of the stretch of `rows` events that most decisions fall in."""
    at = np.searchsorted(events["seq"], decisions["seq"])
    counts = np.searchsorted(at, at + rows) - np.arange(len(at))
    return max(0, int(at[np.argmax(counts)]) - 50)


# 2. One order


def test_replay_orders_by_seq_alone(generated, tmp_path):
    """Venue times in any order, the same decisions; the whale rule is off because sweeps are told by venue time."""
    random = np.random.default_rng(2)

    def shuffled(name, table):
        return table.set_column(table.schema.get_field_index("event_ns"), "event_ns",
                                table["event_ns"].take(random.permutation(len(table))))

    other = rewritten(generated.session, tmp_path, shuffled)
    moved = open_market(other, symbol="BTCUSD")
    assert not same_rows(generated.events, moved.events) and same_rows(generated.events["seq"], moved.events["seq"])
    assert (np.diff(generated.events["seq"]) >= 0).all()
    assert (np.diff(generated.events["recv_ns"][frame_starts(generated.events)]) > 0).all()
    choices = [choice for choice in shipped("classic") if choice.rule.name != "whale"]
    mine, theirs = (new_run(each, choices).feed(each.events) for each in (generated, moved))
    assert len(mine[0]) > 100 and same_rows(mine[0], theirs[0]) and same_rows(mine[1], theirs[1])


def test_another_order_would_be_seen(generated):
    """Sorting by venue time, as a replay must not, changes the decisions."""
    events = generated.events
    venue_ns = np.where(events["event_ns"] == R.MISSING, events["recv_ns"], events["event_ns"])
    mine = new_run(generated, shipped("classic")).feed(events)
    other = new_run(generated, shipped("classic")).feed(events[np.argsort(venue_ns, kind="stable")])
    assert not same_rows(mine[0], other[0])


# 3. Time is an event


CLOCKS = {"time", "datetime", "random", "secrets", "uuid", "calendar", "sched", "os", "threading", "asyncio"}
WALL = {("time", name) for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime",
                                    "gmtime", "sleep")}
WALL |= {("datetime", name) for name in ("now", "utcnow", "today")} | {("date", "today")}


def clock_imports(source: str) -> set[str]:
    """Return the modules a source imports that could tell the time or draw a number."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Attribute) and node.attr == "random":
            found.add("random")
    return found & CLOCKS


def clock_reads(source: str) -> list[str]:
    """Return the places at which a source reads a clock."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if (owner, node.attr) in WALL:
                found.append(f"line {node.lineno}: {owner}.{node.attr}")
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found.append(f"line {node.lineno}: from time import")
    return found


def test_kernel_and_rules_know_no_clock_and_no_chance():
    files = [*(ROOT / "engine" / "kernel").glob("*.py"), *(ROOT / "strategies").rglob("*.py")]
    assert len(files) > 12
    assert {str(path): clock_imports(path.read_text(encoding="utf-8")) for path in files} == {str(path): set() for path in files}


def test_only_one_file_reads_a_clock():
    # the worker is a program of its own, standard library only; the engine sees what it answers, never its clock
    own = {ROOT / "engine" / "clock.py", ROOT / "engine" / "gateway" / "mt5_worker.py", ROOT / "engine" / "gateway" / "terminal_config.py"}
    files = [path for path in (ROOT / "engine").rglob("*.py") if path not in own]
    found = {str(path): clock_reads(path.read_text(encoding="utf-8")) for path in files}
    assert {path: places for path, places in found.items() if places} == {}
    assert clock_reads((ROOT / "engine" / "clock.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("source", ["import time\ntime.time_ns()", "import datetime\ndatetime.datetime.now()", "from time import time",
                                    "from datetime import datetime\ndatetime.now(tz=None)"])
def test_a_clock_would_be_seen(source):
    assert clock_imports(source) and clock_reads(source)


# 4. Fills are events


HELD = ("ticket", "side", "status", "entry_ticks", "volume", "stop_ticks", "take_ticks")


def held(run: Run) -> bytes:
    """Return what of the positions only a fill or the record may change."""
    positions = run.arrays["positions"]
    return b"".join(positions[name].tobytes() for name in HELD) + run.arrays["active_count"].tobytes()


def test_a_position_changes_only_by_a_fill_or_by_the_record(generated):
    """Every row alone: what is held changes only at a row of the account or together with a fill."""
    events = generated.events
    run = new_run(generated, shipped("classic"))
    decisions, _ = new_run(generated, shipped("classic")).feed(events)
    start = busiest(decisions, events, 6000)
    run.feed(events[:start])
    changed_by = set()
    for n in range(start, start + 6000):
        before = held(run)
        _, fills = run.feed(events[n:n + 1])
        if held(run) != before:
            assert len(fills) or events["kind"][n] == R.POSITION, (n, events[n])
            changed_by |= {int(events["kind"][n])}
        else:
            assert not len(fills) or set(fills["code"]) <= {R.REJECTED}
    assert changed_by == {R.QUOTE, R.POSITION}


def test_nothing_is_filled_here_when_fills_are_recorded(generated):
    """A live run and its replay: the orders are decided, and only OUTCOME rows change what is held."""
    run = new_run(generated, shipped("classic"), Settings(simulate=False))
    decisions, fills = run.feed(generated.events)
    assert (decisions["result"] == R.ACTED).sum() > 10
    assert set(fills["code"]) == {R.ENTERED}
    position = run.arrays["positions"][0, run.arrays["active"][0, 0]]
    row = engine.stream.empty_events(1)
    row["kind"], row["code"], row["id"], row["recv_ns"] = R.OUTCOME, R.STOP_MOVED, position.ticket, generated.events["recv_ns"][-1]
    row["price_ticks"], row["bits"] = position.stop_ticks + 5 * position.side, R.FIRST | R.LAST
    before = int(position.stop_ticks)
    run.feed(row)
    assert position.stop_ticks == before + 5 * position.side


# 5. Chunking is invisible


@pytest.mark.parametrize("preset", PRESETS)
def test_chunks_change_nothing(market, preset):
    choices, events = shipped(preset), market.events
    whole = new_run(market, choices)
    decisions, fills = whole.feed(events)
    assert len(decisions) > 30
    for size in (7, 4096):
        run = new_run(market, choices)
        mine = fed(run, events, size)
        assert same_rows(mine[0], decisions) and same_rows(mine[1], fills), size
        assert not unequal_arrays(run, whole), size
    start = busiest(decisions, events, 6000)
    one, many = new_run(market, choices), new_run(market, choices)
    for run in (one, many):
        run.feed(events[:start])
    mine, theirs = fed(one, events[start:start + 6000], 1), fed(many, events[start:start + 6000])
    assert len(mine[0]) and same_rows(mine[0], theirs[0]) and same_rows(mine[1], theirs[1]) and not unequal_arrays(one, many)


@pytest.mark.parametrize("preset", PRESETS)
def test_snapshot_and_restore_anywhere_change_nothing(market, preset):
    choices, events = shipped(preset), market.events
    whole = new_run(market, choices)
    decisions, fills = whole.feed(events)
    run, at, mine = new_run(market, choices), 0, []
    for place in [*np.sort(np.random.default_rng(5).integers(1, len(events), 5)).tolist(), len(events)]:
        mine.append(run.feed(events[at:place]))
        state, at = run.snapshot(), place
        run = new_run(market, choices)
        run.restore(state)
    assert same_rows(np.concatenate([part[0] for part in mine]), decisions)
    assert same_rows(np.concatenate([part[1] for part in mine]), fills)
    assert not unequal_arrays(run, whole)


def test_a_snapshot_is_a_copy(generated, warm):
    run = new_run(generated, shipped("robust"))
    run.restore(warm[0])
    state = run.snapshot()
    kept = {name: array.copy() for name, array in state.items()}
    run.feed(warm[1])
    assert all(same_rows(state[name], kept[name]) for name in state)


@pytest.mark.parametrize("forgotten", ["latches", "windows", "levels", "core"])
def test_a_snapshot_that_forgets_would_be_seen(generated, forgotten):
    choices, events = shipped("classic"), generated.events
    decisions, _ = new_run(generated, choices).feed(events)
    start = busiest(decisions, events, 2000) + 1000
    whole, cut_run, fresh = (new_run(generated, choices) for _ in range(3))
    for run in (whole, cut_run):
        run.feed(events[:start])
    fresh.restore({name: array for name, array in cut_run.snapshot().items() if name != forgotten})
    mine, theirs = fresh.feed(events[start:]), whole.feed(events[start:])
    assert not same_rows(mine[0], theirs[0]) or unequal_arrays(fresh, whole)


def test_a_kernel_that_knows_its_chunks_would_be_seen(generated, warm, own_cache):
    kernel = broken_kernel(own_cache, "loop.py", "    for n in range(start, stop):\n",
                           "    latches[...] = 0\n    for n in range(start, stop):\n")
    choices = witness(own_cache / "rules")
    counts = []
    for broken in (None, kernel):
        runs = [warmed(new_run(generated, choices, interpreted=True, **({"kernel": broken} if broken else {})), warm[0]) for _ in range(2)]
        with np.errstate(all="ignore"):
            one, many = fed(runs[0], warm[1][:900], 7), fed(runs[1], warm[1][:900])
        counts.append((same_rows(one[0], many[0]) and not unequal_arrays(*runs), len(many[0])))
    assert [same for same, _ in counts] == [True, False] and counts[0][1] > 300


@pytest.mark.parametrize("force_model", [False, True])
def test_how_much_is_read_at_once_changes_nothing(generated, force_model, monkeypatch):
    """The stream is the same rows however many are read from the files at a time, modelled quotes included."""
    plan = Plan(generated.session, generated.trades, [], force_model=force_model)
    streams = []
    for rows in (engine.stream.BATCH_ROWS, 611, 10**9):
        monkeypatch.setattr(engine.stream, "BATCH_ROWS", rows)
        streams.append(np.concatenate(list(Feed(plan, generated.desk))))
    assert same_rows(streams[0], streams[1]) and same_rows(streams[0], streams[2])


def command(*arguments: str, **environment: str) -> dict:
    """Run the command line in a process of its own and return what it prints."""
    done = subprocess.run([sys.executable, "-m", "engine.cli", *arguments, "--json"], capture_output=True, text=True, check=False, cwd=ROOT,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_processes_give_one_digest(generated, tmp_path):
    session = str(generated.session.path)
    same = ("replay", session, "--entries", ENTRIES, "--rules", "all:classic", "--data", str(tmp_path))
    first = command(*same, PYTHONHASHSEED="1")
    second = command(*same, "--chunk", "7", PYTHONHASHSEED="2")
    assert first["digest"] == second["digest"] and first["decisions"] > 100 and first["run"] != second["run"]
    here = replay_plan(Plan(generated.session, generated.trades, shipped("classic")), tmp_path, {})
    assert here["digest"] == first["digest"]
    assert command(*same, "--set", "divergence.tolerance_bps=0.6")["digest"] != first["digest"]


# 6. No peeking


def after(decisions: np.ndarray, events: np.ndarray, n: int) -> np.ndarray:
    """Return the decisions that can only come from events[n:]."""
    return decisions[decisions["recv_ns"] >= events["recv_ns"][n]]


def corrupted(events: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """Return events up to a while after n, with everything from n on drawn anew but for order and layout."""
    events = events[:n + 15_000]
    out, rest = events.copy(), len(events) - n
    spread = np.abs(random.standard_normal(rest))
    known = events["price_ticks"][n:] != R.MISSING
    out["price_ticks"][n:][known] = (events["price_ticks"][n:][known] * (1 + 0.01 * random.standard_normal(known.sum()))).astype(np.int64)
    out["qty_lots"][n:] = (1 + 20_000 * spread).astype(np.int64)
    out["side"][n:] = random.choice((-1, 1), rest)
    kinds = (R.TRADE, R.DEPTH, R.SNAPSHOT, R.BEST, R.QUOTE, R.FEED, R.TIMER)
    out["kind"][n:] = random.choice(kinds, rest, p=(0.2, 0.3, 0.001, 0.2, 0.1, 0.049, 0.15))
    out["bits"][n:] = random.choice((R.FIRST | R.LAST, 0, R.FIRST, R.LAST), rest, p=(0.7, 0.1, 0.1, 0.1))
    out["code"][n:] = random.integers(1, 6, rest)
    out["symbol"][n:] = 0
    return out


@pytest.mark.parametrize("preset", PRESETS)
def test_the_future_changes_nothing(market, preset):
    """Prefix invariance and future mutation: what comes after t is cut off, or corrupted, and all up to t stays."""
    choices, events = shipped(preset), market.events
    decisions, fills = new_run(market, choices).feed(events)
    random = np.random.default_rng(6)
    around = np.searchsorted(events["seq"], decisions["seq"][random.integers(0, len(decisions), 3)]) + random.integers(0, 3, 3)
    for n in [*random.integers(1, len(events) - 1, 5).tolist(), *around.tolist()]:
        mine = new_run(market, choices).feed(events[:n])
        for whole, part in zip((decisions, fills), mine, strict=True):
            assert same_rows(whole[:len(part)], part)
            assert len(after(whole, events, n)) >= len(whole) - len(part)
        bent = new_run(market, choices).feed(corrupted(events, n, random))
        for part, other in zip(mine, bent, strict=True):
            assert same_rows(other[:len(part)], part)


def test_a_shorter_recording_gives_the_first_decisions_of_the_longer(generated, tmp_path):
    """The same through files, entries and modelled quotes: a session cut at a seq replays to a prefix."""
    plan = Plan(generated.session, generated.trades, shipped("classic"), force_model=True)
    whole = np.concatenate(list(Feed(plan, generated.desk)))
    decisions, _ = new_run(generated, plan.choices).feed(whole)
    middle = int(decisions["seq"][len(decisions) // 2])
    spec = parse_entries(ENTRIES)
    for place, last_seq in enumerate((middle, middle + 1, int(0.8 * middle))):
        short = cut(generated.session, tmp_path / str(place), last_seq)
        last_ns = int(whole["recv_ns"][np.searchsorted(whole["seq"], last_seq, "right") - 1])
        trades = plan_entries(spec, generated.session.manifest["first_recv_ns"], last_ns + (spec.max_hold_ns or 0), "BTCUSD")
        part = np.concatenate(list(Feed(Plan(short, trades, plan.choices, force_model=True), generated.desk)))
        assert same_rows(part, whole[:len(part)]) and part["seq"][-1] == last_seq
        mine, _ = new_run(generated, plan.choices).feed(part)
        assert same_rows(mine, decisions[:len(mine)]) and (decisions[len(mine):]["seq"] >= last_seq).all()


def test_a_kernel_that_peeks_would_be_seen(generated, warm, own_cache):
    kernel = broken_kernel(own_cache, "loop.py", "        view.seq = row.seq\n", "        view.seq = row.seq\n"
                           "        view.top5_imbalance = float(events[min(n + 50, events.shape[0] - 1)].side)\n")
    choices = witness(own_cache / "rules")
    found = []
    for options in ({}, {"kernel": kernel}):
        whole = warmed(new_run(generated, choices, interpreted=True, **options), warm[0])
        short = warmed(new_run(generated, choices, interpreted=True, **options), warm[0])
        bent = warmed(new_run(generated, choices, interpreted=True, **options), warm[0])
        with np.errstate(all="ignore"):
            full, part = whole.feed(warm[1][:1000])[0], short.feed(warm[1][:600])[0]
            other = bent.feed(corrupted(warm[1][:1000], 600, np.random.default_rng(1)))[0]
        found.append((same_rows(full[:len(part)], part), same_rows(other[:len(part)], part)))
    assert found == [(True, True), (False, False)]


# 7. Interpreter = machine code


@pytest.mark.parametrize("preset", PRESETS)
def test_the_interpreter_and_machine_code_agree(market, preset):
    """Decisions, fills and every array, byte for byte, where the most is decided and at the very start."""
    choices, events = shipped(preset), market.events
    decisions, _ = new_run(market, choices).feed(events)
    for start, rows in ((busiest(decisions, events, 2500), 2500), (0, 1500)):
        compiled = new_run(market, choices)
        compiled.feed(events[:start])
        state = compiled.snapshot()
        mine = compiled.feed(events[start:start + rows])
        slow, *theirs = interpreted(market, choices, events[start:start + rows], state)
        assert same_rows(mine[0], theirs[0]) and same_rows(mine[1], theirs[1]) and not unequal_arrays(compiled, slow)
        assert start == 0 or len(mine[0]) >= 5


@pytest.mark.slow
def test_the_interpreter_and_machine_code_agree_on_every_feature(market, tmp_path):
    """The same with a rule that speaks whenever anything it sees changes, from before the first position."""
    choices, events = witness(tmp_path), market.events
    start = int(np.searchsorted(events["recv_ns"], market.trades[0].open_ns)) - 500
    compiled = new_run(market, choices)
    compiled.feed(events[:start])
    state = compiled.snapshot()
    mine = compiled.feed(events[start:start + 12_000])
    slow, *theirs = interpreted(market, choices, events[start:start + 12_000], state)
    assert len(mine[0]) > 1000
    assert same_rows(mine[0], theirs[0]) and same_rows(mine[1], theirs[1]) and not unequal_arrays(compiled, slow)


def test_machine_code_of_another_source_would_be_seen(generated, warm, own_cache, monkeypatch):
    """Compiled from one text, interpreted from one that differs in a single comparison."""
    kernel = broken_kernel(own_cache, "tape.py", "    if row.event_ns == MISSING or row.event_ns != sweep.event_ns",
                           "    if row.event_ns != sweep.event_ns + 1")
    choices = shipped("robust")
    slow, *_ = interpreted(generated, choices, warm[1], warm[0], kernel=kernel)
    monkeypatch.delenv("TAPEGUARD_CACHE")
    compiled = new_run(generated, choices)
    compiled.restore(warm[0])
    compiled.feed(warm[1])
    assert unequal_arrays(compiled, slow)
