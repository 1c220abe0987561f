"""A whole synthetic session written in recording formats, so that demo and tests enter by the same door as real data.

`generate` writes a USD-M capture, a MetaTrader 5 tick file and `labels.json`. Equal configurations give equal bytes
(on one machine and numpy version; another processor may round a logarithm differently). The broker's mid is the
venue's mid as received here `broker_lag_ms` ago plus a basis that wanders as a martingale, on its own tick grid and
with a constant spread, so the broker's bid and ask are martingales too. A rule therefore gains nothing when its exit
fills at the first broker quote no earlier than decision + latency, as long as latency >= broker_lag_ms; with less, or
at a quote from before a stale spell, it gains the staleness.
"""

import gzip
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.errors import BadInput
from engine.measure import market_text
from engine.measure.market_book import Book, Overlay, build
from engine.measure.market_model import MarketConfig, PricePath, instrument, simulate
from engine.measure.plants import (
    Divergence,
    Fault,
    FlowNoise,
    Plant,
    Reversal,
    Void,
    Wall,
    Whale,
    all_plants,
    flow_effects,
)

FIRST_TRADE_ID = 7_011_000_001
SNAPSHOT_DELAY_NS = 350_000_000
STALE_S = (2.0, 8.0)
_NS = 1_000_000_000
_MS = 1_000_000


@dataclass(frozen=True)
class Generated:
    """The files of a generated session, what is in them, and the truth that was planted."""

    folder: Path
    capture: Path
    ticks: Path
    labels: Path
    counts: dict[str, int]     # messages by kind
    planted: list[dict]


@dataclass(frozen=True)
class _Tape:
    """Capture lines in order of arrival: payload, venue time, true receive time, and what a faulty clock wrote."""

    payloads: list[str]
    event_ns: np.ndarray
    true_ns: np.ndarray
    recv_ns: np.ndarray
    best_true_ns: np.ndarray   # of the best quotes alone

    def received(self, event_ns: int) -> int:
        """Return the written receive time of the first line made at or after a venue time, or of the last line."""
        place = int(np.searchsorted(np.maximum.accumulate(self.event_ns), event_ns))
        return int(self.recv_ns[min(place, len(self.recv_ns) - 1)])


def generate(config: MarketConfig, folder: Path) -> Generated:
    """Write `<symbol>.gz`, `<broker symbol>_ticks.json.gz` and `labels.json` into a folder that has none of them."""
    folder = Path(folder)
    capture, ticks, labels = (folder / name for name in
                              (f"{config.symbol.lower()}.gz", f"{config.broker_symbol}_ticks.json.gz", "labels.json"))
    for path in (capture, ticks, labels):
        if path.exists():
            raise BadInput(f"{path} already exists; generate into an empty folder or remove it")
    plants = all_plants(config)
    path = simulate(config, flow_effects(config, plants))
    book, overlays = build(config, path, plants)
    ids = market_text.update_ids(config, book, len(path.time_ns))
    tape, counts = _tape(config, plants, path, book, ids)
    quotes, stale = _broker_quotes(config, plants, path, tape)
    planted = _labels(config, plants, path, book, overlays, tape) + stale
    planted.sort(key=lambda label: (label["start_ns"], label["kind"]))
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"{recv} {payload}" for recv, payload in zip(tape.recv_ns.tolist(), tape.payloads)) + "\n"
    _write(capture, _gzipped(lines))
    _write(ticks, _gzipped(market_text.tick_json(config, *quotes)))
    truth = {"config": {name: value for name, value in asdict(config).items() if name not in ("plants", "rates")},
             "labels": planted}
    _write(labels, (json.dumps(truth, indent=1) + "\n").encode())
    return Generated(folder, capture, ticks, labels, {**counts, "quote": len(quotes[0])}, planted)


def _gzipped(text: str) -> bytes:
    held = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=held, mode="wb", compresslevel=3, mtime=0) as file:
        file.write(text.encode())
    return held.getvalue()


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.part")
    with open(aside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def _tape(config: MarketConfig, plants: list[Plant], path: PricePath, book: Book, ids) -> tuple[_Tape, dict[str, int]]:
    """Put all messages in order of arrival, with the planted faults, and stamp them."""
    prints = np.flatnonzero(path.side)
    frames, frame_key = _faulty_frames(config, plants, book)
    snapshots = _snapshot_frames(config, plants, book)
    snapshot_ns = book.frame_ns[snapshots] + SNAPSHOT_DELAY_NS
    every = np.arange(len(path.time_ns))
    key = np.concatenate([4 * prints, 4 * every + 1, 4 * book.frame_row[frame_key] + 2,
                          4 * path.row_at(snapshot_ns) + 2])
    event_ns = np.concatenate([path.time_ns[prints], path.time_ns, book.frame_ns[frame_key], snapshot_ns])
    depth = market_text.depth_lines(config, book, ids)
    payloads = [*market_text.trade_lines(config, path, prints, FIRST_TRADE_ID),
                *market_text.best_lines(config, path, ids),
                *(depth[frame] for frame in frames.tolist()),
                *(market_text.snapshot_line(config, book, ids, frame) for frame in snapshots)]
    order = np.lexsort((event_ns, key))
    event_ns = event_ns[order]
    # one draw per millisecond of the session, so that one line more or less leaves the delay of the others as it was
    late_ms = config.stream("latency").exponential(0.25 * config.feed_latency_ms, int(config.duration_s * 1e3) + 10_000)
    late_ns = ((config.feed_latency_ms + late_ms) * _MS).astype(np.int64)[(event_ns - config.start_ns) // _MS]
    step = 400 * np.arange(len(order))                       # least time between two lines, so that stamps differ
    true_ns = np.maximum.accumulate(event_ns + late_ns - step) + step
    is_best = (order >= len(prints)) & (order < len(prints) + len(every))
    counts = {"trade": len(prints), "best": len(every), "depth": len(frames), "snapshot": len(snapshots)}
    written_ns = true_ns + _clock_shift_ns(config, plants, true_ns)
    return _Tape([payloads[at] for at in order.tolist()], event_ns, true_ns, written_ns, true_ns[is_best]), counts


def _faults(plants: list[Plant], *kinds: str) -> list[Fault]:
    return [plant for plant in plants if isinstance(plant, Fault) and plant.kind in kinds]


def _fault_frames(config: MarketConfig, fault: Fault, frame_ns: np.ndarray) -> tuple[int, int]:
    """Return the frames [first, end) a fault of the depth stream touches."""
    first = min(int(np.searchsorted(frame_ns, config.start_ns + round(fault.at_s * _NS))), len(frame_ns) - 1)
    number = 2 if fault.kind == "reorder" else int(fault.strength)
    return first, min(first + number, len(frame_ns))


def _faulty_frames(config: MarketConfig, plants: list[Plant], book: Book) -> tuple[np.ndarray, np.ndarray]:
    """Return which depth messages are sent, and the frame whose place in time each takes."""
    sent = np.arange(len(book.frame_ns))
    copies = np.ones(len(sent), np.int64)
    for fault in _faults(plants, "gap", "duplicate", "reorder"):
        first, end = _fault_frames(config, fault, book.frame_ns)
        if fault.kind == "reorder":
            sent[first:end] = sent[first:end][::-1].copy()
        else:
            copies[first:end] = 0 if fault.kind == "gap" else 2
    return np.repeat(sent, copies), np.repeat(np.arange(len(sent)), copies)


def _snapshot_frames(config: MarketConfig, plants: list[Plant], book: Book) -> list[int]:
    """Return the frames whose state is fetched: once at the start, and again after each fault that breaks the chain."""
    times_ns = [config.start_ns + round(config.snapshot_after_s * _NS)]
    for fault in _faults(plants, "gap", "reorder"):
        _, end = _fault_frames(config, fault, book.frame_ns)
        times_ns.append(int(book.frame_ns[end - 1]) + round(config.resync_after_s * _NS))
    frames = sorted({max(0, int(np.searchsorted(book.frame_ns, time_ns, side="right")) - 1) for time_ns in times_ns})
    return [frame for frame in frames if frame + 5 < len(book.frame_ns)]


def _clock_shift_ns(config: MarketConfig, plants: list[Plant], true_ns: np.ndarray) -> np.ndarray:
    """Return what a jumping clock adds to true receive times."""
    shift = np.zeros(len(true_ns), np.int64)
    for fault in _faults(plants, "clock_jump"):
        from_ns = config.start_ns + round(fault.at_s * _NS)
        inside = (true_ns >= from_ns) & (true_ns < from_ns + round(fault.duration_s * _NS))
        shift[inside] += round(fault.strength * _MS)
    return shift


def _broker_quotes(config: MarketConfig, plants: list[Plant], path: PricePath, tape: _Tape) -> tuple[tuple, list[dict]]:
    """Return server ms, receive ms, bid and ask of the broker's quotes, and the labels of its stale spells."""
    draw = config.stream("broker")
    number = int(config.duration_s * config.broker_quotes_per_s * 1.2 + 100)
    waits_ms = draw.exponential(1_000 / config.broker_quotes_per_s, number)
    server_late_ms = 20 + draw.exponential(5.0, number)
    wander = draw.standard_normal(number) * np.sqrt(waits_ms / 1_000) * config.basis_wander_bps_per_sqrt_s
    steps_a_bp = 10 * config.bp_ticks                        # a broker tick is a tenth of the venue's
    wander = np.cumsum(np.floor(wander * steps_a_bp + draw.random(number)).astype(np.int64))
    first_ms = int(tape.best_true_ns[0]) // _MS + 1 + int(config.broker_lag_ms)
    received_ms = first_ms + np.concatenate([[0], np.cumsum(np.maximum(1, waits_ms.astype(np.int64)))[:-1]])
    keep = received_ms * _MS < config.start_ns + round(config.duration_s * _NS)
    spells = _stale_spells(config)
    for from_ns, to_ns in spells:
        keep &= (received_ms * _MS < from_ns) | (received_ms * _MS >= to_ns)
    seen = np.searchsorted(tape.best_true_ns, received_ms * _MS - round(config.broker_lag_ms * _MS), side="right") - 1
    keep &= seen >= 0
    seen = np.maximum(seen, 0)
    mid = 5 * (path.bid_ticks[seen] + path.ask_ticks[seen]) + round(config.basis_bps * steps_a_bp) + wander
    keep &= np.append(True, mid[1:] != mid[:-1])
    half = max(1, round(config.broker_spread_bps * steps_a_bp / 2))
    server_ms = received_ms - server_late_ms.astype(np.int64) + config.broker_offset_hours * 3_600_000
    written_ms = received_ms + _clock_shift_ns(config, plants, received_ms * _MS) // _MS
    labels = [{"kind": "stale_quotes", "decoy": False, "side": 0, "start_ns": from_ns, "end_ns": to_ns,
               "event_ns": from_ns, "strength": (to_ns - from_ns) / _NS, "price": None} for from_ns, to_ns in spells]
    return (np.maximum.accumulate(server_ms)[keep], written_ms[keep], (mid - half)[keep], (mid + half)[keep]), labels


def _stale_spells(config: MarketConfig) -> list[tuple[int, int]]:
    """Return the spells [from, to) in ns in which the broker sends nothing."""
    draw = config.stream("stale spells")
    number = int(draw.poisson(config.broker_stale_per_hour * config.duration_s / 3600))
    from_s = np.sort(draw.random(number)) * max(0.0, config.duration_s - STALE_S[1])
    long_s = STALE_S[0] + (STALE_S[1] - STALE_S[0]) * draw.random(number)
    return [(config.start_ns + round(at * _NS), config.start_ns + round((at + long) * _NS))
            for at, long in zip(from_s.tolist(), long_s.tolist())]


def _labels(config: MarketConfig, plants: list[Plant], path: PricePath, book: Book, overlays: list[Overlay],
            tape: _Tape) -> list[dict]:
    """Return the truth about each plant; start_ns and end_ns are receive times, the only clock a rule knows."""
    fixed = {overlay.plant: overlay for overlay in overlays}
    labels = []
    for index, plant in enumerate(plants):
        at_ns = config.start_ns + round(plant.at_s * _NS)
        match plant:
            case Whale():
                facts = _whale_facts(config, plant, path, np.flatnonzero(path.plant == index))
            case Void() | Wall():
                facts = _level_facts(config, plant, book, fixed[index])
            case Divergence() | Reversal() | FlowNoise():
                kind = {Divergence: "divergence", Reversal: "reversal", FlowNoise: "flow_noise"}[type(plant)]
                facts = {"kind": kind, "decoy": isinstance(plant, FlowNoise),
                         "from_ns": at_ns, "to_ns": at_ns + round(plant.duration_s * _NS)}
                if isinstance(plant, Reversal):
                    facts["lead_start_ns"] = tape.received(at_ns - round(plant.duration_s * _NS))
            case Fault():
                facts = _fault_facts(config, plant, plants, book, at_ns)
        row = path.row_at(facts["from_ns"])
        best = int(path.bid_ticks[row] if plant.side > 0 else path.ask_ticks[row])
        drift = getattr(plant, "drift_bps", 0.0)
        from_ns, to_ns = facts.pop("from_ns"), facts.pop("to_ns")
        price = instrument(config.symbol).price_text(facts.pop("price", best))
        labels.append({"kind": facts.pop("kind"), "decoy": facts.pop("decoy"), "side": plant.side,
                       "start_ns": tape.received(from_ns), "end_ns": tape.received(to_ns), "event_ns": from_ns,
                       "strength": plant.strength, "price": price, **facts,
                       **({"drift_bps": drift, "drift_s": plant.drift_s} if drift else {})})
    return labels


def _whale_facts(config: MarketConfig, plant: Whale, path: PricePath, rows: np.ndarray) -> dict:
    """Return what one sweep was: its prints by id, and its notional exactly as the prints add up."""
    venue = instrument(config.symbol)
    first, last = (FIRST_TRADE_ID + int(np.count_nonzero(path.side[:row])) for row in (rows[0], rows[-1]))
    notional = int(np.sum(path.trade_ticks[rows] * path.qty_lots[rows])) * venue.usd_per_ticklot
    return {"kind": "balanced_sweep" if plant.balanced else "whale", "decoy": plant.balanced,
            "from_ns": int(path.time_ns[rows[0]]), "to_ns": int(path.time_ns[rows[-1]]),
            "price": int(path.trade_ticks[rows[0]]),
            "price_to": venue.price_text(int(path.trade_ticks[rows[-1]])), "prints": plant.prints,
            "notional_usd": float(notional), "first_trade_id": first, "last_trade_id": last}


def _level_facts(config: MarketConfig, plant: Void | Wall, book: Book, overlay: Overlay) -> dict:
    """Return where and how long a void or wall stood; a void beyond the snapshot's last level is a decoy."""
    venue = instrument(config.symbol)
    last = len(book.frame_ns) - 1
    facts = {"from_ns": int(book.frame_ns[min(overlay.from_frame, last)]),
             "to_ns": int(book.frame_ns[min(overlay.to_frame, last)])}
    if isinstance(plant, Wall):
        return {"kind": "wall", "decoy": False, "price": overlay.low_ticks, **facts,
                "pulled": plant.pulled and not overlay.reached, "reached": overlay.reached,
                "quantity": venue.qty_text(overlay.lots)}
    near, far = (overlay.high_ticks, overlay.low_ticks) if plant.side > 0 else (overlay.low_ticks, overlay.high_ticks)
    edge = int(book.snapshot(_snapshot_frames(config, [], book)[0], plant.side)[0][-1])
    outside = (near - edge) * plant.side < 0
    return {"kind": "void_outside_coverage" if outside else "void", "decoy": outside, "price": near, **facts,
            "price_to": venue.price_text(far)}


def _fault_facts(config: MarketConfig, fault: Fault, plants: list[Plant], book: Book, at_ns: int) -> dict:
    """Return when a fault began and when the feed is whole again."""
    if fault.kind == "clock_jump":
        return {"kind": fault.kind, "decoy": False, "from_ns": at_ns, "to_ns": at_ns + round(fault.duration_s * _NS)}
    first, end = _fault_frames(config, fault, book.frame_ns)
    to_ns = int(book.frame_ns[end - 1]) + 1                  # a repeated message comes after the one it repeats
    if fault.kind != "duplicate":
        after = [frame for frame in _snapshot_frames(config, plants, book) if frame >= end]
        to_ns = int(book.frame_ns[after[0]]) + SNAPSHOT_DELAY_NS if after else int(book.frame_ns[-1])
    return {"kind": fault.kind, "decoy": False, "from_ns": int(book.frame_ns[first]), "to_ns": to_ns,
            "messages": end - first}
