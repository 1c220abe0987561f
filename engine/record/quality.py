"""The check of a session: are the bytes those recorded, is anything missing, and does the book agree with the venue."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.kernel.records import MISSING, PARTIAL_DEPTH
from engine.record.continuity import Findings, Marks, check_depth_chain, check_sequence, check_trade_ids
from engine.record.coverage import DOWN, coverage
from engine.record.messages import Messages
from engine.record.rebuild import EQUAL, LINKED, NOT_COMPARED, REFUSED, SNAPSHOT, UNEQUAL, Rebuild, rebuild
from engine.record.store import TABLES, Session, file_sha256

MOST_UNEQUAL = 1_000           # one unequal top of the book in this many is let pass: the venue may not quote a removal
CLOCK_TABLES = ("depth", "trades", "best")
COARSE_BITS = 20               # about a millisecond in ns


def check_session(session: Session | Path | str, progress: Callable[[str], None] | None = None) -> dict:
    """Return the `check` result of a session; `ok` is true exactly when `problems` is empty, `notes` only inform."""
    say = progress or (lambda stage: None)
    session = session if isinstance(session, Session) else Session(session)
    findings = Findings()
    say("hashes")
    files, good = _check_files(session, findings)
    messages = Messages(session, good)
    _drop_unreadable(messages, findings)
    say("sequence")
    sequence = check_sequence(messages, findings)
    say("ids")
    marks = Marks(messages)
    trade_ids, gaps = check_trade_ids(messages, marks, findings)
    gaps += check_depth_chain(messages, marks, findings)
    say("book")
    books = _rebuild_all(messages, marks, findings)
    book = _judge_books(messages, books, findings)
    clock = _check_clock(messages, findings)
    say("coverage")
    shares, reasons = coverage(messages, marks, gaps, books)
    sequence["gaps"] = [{key: value for key, value in gap.items() if key != "around"} for gap in gaps]
    if gaps:
        where = sorted({f"{gap['table']} of {gap['symbol']}" for gap in gaps})
        findings.notes.append(f"{len(gaps)} recorded gaps: {', '.join(where)}")
    return {"session": session.id, "ok": not findings.problems, "sequence": sequence, "trade_ids": trade_ids,
            "book": book, "clock": clock, "files": files, "coverage": shares,
            "coverage_reasons": reasons, "problems": findings.problems,
            "notes": findings.notes}


def _check_files(session: Session, findings: Findings) -> tuple[dict, dict[str, list[Path]]]:
    """Compare every file with the manifest; return the result, and by table the files fit to read."""
    listed = session.manifest["files"]
    altered, verified, good = [], 0, {}
    for relative, facts in sorted(listed.items()):
        path = session.path / relative
        if not path.is_file():
            findings.problems.append(f"{relative} is missing; the manifest lists it")
        elif file_sha256(path) != facts["sha256"]:
            altered.append(relative)
            findings.problems.append(f"{relative} was altered: its SHA-256 is not the one in the manifest; "
                                     "it was left out of the other checks")
        else:
            verified += 1
            good.setdefault(relative.split("/")[0], []).append(path)
    present = {path.relative_to(session.path).as_posix() for path in session.path.rglob("*") if path.is_file()}
    for relative in sorted(present - set(listed) - {"manifest.json"}):
        findings.problems.append(f"{relative} is in the folder but not in the manifest")
    return {"verified": verified, "altered": altered}, good


def _drop_unreadable(messages: Messages, findings: Findings) -> None:
    """Leave out files that are not the Parquet they should be, and compare row counts with the manifest."""
    counts = dict.fromkeys(TABLES, 0)
    for name, paths in messages.files.items():
        for path in list(paths):
            relative = path.relative_to(messages.session.path).as_posix()
            try:
                schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows
            except (pa.ArrowException, OSError) as error:
                findings.problems.append(f"{relative} is not readable Parquet: {str(error).splitlines()[0]}")
                paths.remove(path)
                continue
            absent = [column for column in (TABLES[name].names if name in TABLES else []) if column not in schema.names]
            if absent:
                findings.problems.append(f"{relative} has no column {', '.join(absent)}")
                paths.remove(path)
            else:
                counts[name] = counts.get(name, 0) + rows
    for name, rows in messages.session.manifest.get("rows", {}).items():
        if counts.get(name, 0) != rows:
            findings.problems.append(f"{name} holds {counts.get(name, 0)} readable rows, the manifest says {rows}")


def _rebuild_all(messages: Messages, marks: Marks, findings: Findings) -> dict[int, Rebuild]:
    books, depth = {}, messages.depth()
    for number in np.unique(depth["symbol"][depth["bits"] & PARTIAL_DEPTH == 0]):
        if number < 0:
            continue
        symbol = messages.symbols[number]
        breaks = [(mark.seq, mark.recv_ns) for mark in marks.of(number, "depth", DOWN)]
        quote_breaks = np.array([mark.seq for mark in marks.of(number, "best", DOWN)], np.int64)
        rows = np.array(breaks, np.int64).reshape(-1, 2)
        book = books[int(number)] = rebuild(messages, int(number), rows, quote_breaks)
        snapshots = np.flatnonzero(book.kind == SNAPSHOT)
        refused = snapshots[book.link[snapshots] == REFUSED]
        if not len(snapshots):
            findings.notes.append(f"depth of {symbol} has no snapshot, so its book cannot be rebuilt")
        for at in refused[:1]:
            text = (f"{len(refused)} snapshots of {symbol} do not link to the diffs around them, first at seq "
                    f"{book.seq[at]} with last update id {book.last_id[at]}")
            healed = (book.link[snapshots[snapshots > refused[-1]]] == LINKED).any()
            known = _known_refused(marks, int(number), book.last_id[refused])
            (findings.notes if healed or known else findings.problems).append(text)
    return books


def _known_refused(marks: Marks, symbol: int, ids: np.ndarray) -> bool:
    """Return whether a recorder kept these snapshots without saying that a book begins with them."""
    recorded = any(mark.symbol == symbol and mark.stream for mark in marks.of(symbol, "depth", ("connected",)))
    return recorded and not {mark.to_id for mark in marks.of(symbol, "depth", ("resync",))} & set(ids.tolist())


def _judge_books(messages: Messages, books: dict[int, Rebuild], findings: Findings) -> dict:
    result = {"compared": 0, "equal": 0, "crossed": 0}
    for number, book in books.items():
        symbol = messages.symbols[number]
        compared, equal = int((book.compared != NOT_COMPARED).sum()), int((book.compared == EQUAL).sum())
        crossed = np.flatnonzero(book.crossed)
        result["compared"] += compared
        result["equal"] += equal
        result["crossed"] += len(crossed)
        if equal < compared:
            first = book.seq[np.flatnonzero(book.compared == UNEQUAL)[0]]
            text = (f"the book of {symbol} differs from the venue's best quotes {compared - equal} times "
                    f"in {compared}, first at seq {first}")
            (findings.problems if (compared - equal) * MOST_UNEQUAL > compared else findings.notes).append(text)
        if len(crossed):
            findings.problems.append(f"the book of {symbol} is crossed {len(crossed)} times, first at seq "
                                     f"{book.seq[crossed[0]]}; a diff is missing or was changed")
    return result


def _check_clock(messages: Messages, findings: Findings) -> dict:
    """Measure receive time less venue time; where receive time was made from venue time there is nothing to measure."""
    source = messages.session.manifest.get("clock", "receive")
    shown = dict.fromkeys(("min", "median", "max"))
    if source == "event":
        findings.notes.append("receive times were made from the venue's times, so the clock offset is not known")
        return {"source": source, "recv_minus_event_ms": shown}
    coarse, low, high = Counter(), [], []
    for apart_ns in _apart_ns(messages):
        coarse.update(_counted(apart_ns >> COARSE_BITS))
        low.append(int(apart_ns.min()))
        high.append(int(apart_ns.max()))
    if coarse:
        shown = {name: round(value / 1e6, 3) for name, value in
                 (("min", float(min(low))), ("median", _median(messages, coarse)), ("max", float(max(high))))}
        if shown["median"] < 0:
            findings.notes.append(f"the recorder's clock ran {-shown['median']:.0f} ms behind the venue's")
    return {"source": source, "recv_minus_event_ms": shown}


def _apart_ns(messages: Messages) -> Iterator[np.ndarray]:
    """Yield receive time less venue time of the messages that have both, in bounded parts."""
    for name in CLOCK_TABLES:
        for part in messages.parts(name, ["recv_ns", "event_ns"]):
            known = part["event_ns"] != MISSING
            if known.any():
                yield part["recv_ns"][known] - part["event_ns"][known]


def _counted(values: np.ndarray) -> dict[int, int]:
    return dict(zip(*(found.tolist() for found in np.unique(values, return_counts=True))))


def _median(messages: Messages, coarse: Counter) -> float:
    """Return the exact median of `_apart_ns`; `coarse` counts its values without their last bits."""
    count = coarse.total()
    middle = {(count - 1) // 2, count // 2}                  # ranks
    wanted, below = {}, 0
    for step in sorted(coarse):
        for rank in middle:
            if below <= rank < below + coarse[step]:
                wanted[rank] = step, rank - below
        below += coarse[step]
    fine: dict[int, Counter] = {step: Counter() for step, _ in wanted.values()}
    for apart_ns in _apart_ns(messages):
        for step, counter in fine.items():
            counter.update(_counted(apart_ns[apart_ns >> COARSE_BITS == step]))
    return float(np.mean([_ranked(fine[step], rank) for step, rank in wanted.values()]))


def _ranked(counts: Counter, rank: int) -> int:
    """Return the value of a rank among counted values."""
    values = sorted(counts)
    return values[int(np.searchsorted(np.cumsum([counts[value] for value in values]), rank, "right"))]
