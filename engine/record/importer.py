"""Recorded files to one session."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from engine import clock
from engine.errors import BadInput, SourceFailed, nearest
from engine.instruments import Instrument
from engine.record.assemble import Assembly
from engine.record.columns import Scale
from engine.record.decode import SPOT, USDM
from engine.record.intake import Intake, Source
from engine.record.store import TABLES, SessionWriter, sessions_folder
from engine.sources.files import RecordedFile
from engine.sources.formats import sniff

CHECKSUM = ".CHECKSUM"
QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "USD")
VENUES = (USDM, SPOT, "mt5")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def import_files(paths: Sequence[Path | str], data: Path | str, *, name: str | None = None, symbol: str | None = None,
                 venue: str | None = None, ticks: dict[str, str] | None = None, lots: dict[str, str] | None = None,
                 latency_ms: float = 0, skip_limit: int = 100, timer_ms: int = 100,
                 server_offset_s: int | None = None, progress: Callable[[int, int], None] | None = None) -> dict:
    """Write the files as one session and return the `import` result; nothing is left behind when it fails.

    The first and last recv_ns returned are those of messages; connection rows stand just before the first.
    `ticks` and `lots` fix step sizes by symbol, `latency_ms` delays files that hold venue time only,
    `server_offset_s` is how far the broker's clock is ahead of UTC where tick files do not show it.
    """
    began_s = clock.monotonic_s()
    if not paths:
        raise BadInput("no file to import was named; give one or more recorded files")
    if name is not None and not NAME.fullmatch(name):
        raise BadInput(f"session name {name!r} will not do as a folder name; use letters, digits and . _ + -")
    sessions = sessions_folder(Path(data))
    if name is not None and (sessions / name).exists():
        raise BadInput(f"session {name} already exists at {sessions / name}; "
                       "give another name with --name or remove it")
    if venue is not None and venue not in VENUES:
        raise BadInput(f"venue {venue!r} is not known; {nearest(venue, VENUES)}")
    intake = Intake(symbol, skip_limit, round(latency_ms * 1_000_000), server_offset_s)
    try:
        _read(intake, paths, venue, progress)
    except OSError as error:
        raise BadInput(f"{error.filename or 'an input file'} cannot be read ({error.strerror or error})") from None
    if not intake.blocks:
        raise BadInput(f"{', '.join(str(p) for p in paths)}: no line holds a message that can be imported")
    assembly = Assembly(intake, timer_ms)
    instruments, notes = instruments_of(intake, ticks or {}, lots or {})
    session = name or _session_name(instruments, assembly.first_recv_ns)
    path, rows = _write(sessions, session, intake, assembly, instruments, notes)
    messages = {key: count for key, count in intake.counts.items() if key != "other"}
    return {"session": session, "path": str(path), "messages": messages,
            "rows": {table: rows.get(table, 0) for table in TABLES}, "skipped": intake.skipped,
            "first_recv_ns": assembly.first_recv_ns, "last_recv_ns": assembly.last_recv_ns,
            "seconds": round(clock.monotonic_s() - began_s, 3)}


def _write(sessions: Path, session: str, intake: Intake, assembly: Assembly, instruments: list[Instrument],
           notes: list[str]) -> tuple[Path, dict[str, int]]:
    """Write the session and return its folder and the rows of each table."""
    writer = None
    try:
        writer = SessionWriter(sessions, session)
        assembly.write(writer, {i.symbol: i for i in instruments})
        return writer.finish(_manifest(intake, assembly, instruments, notes)), writer.rows
    except BaseException as error:
        if writer is not None:
            writer.abandon()
        if isinstance(error, OSError):
            raise SourceFailed(f"session {session} could not be written under {sessions} "
                               f"({error.strerror or error})") from None
        raise


def _read(intake: Intake, paths: Sequence[Path | str], venue: str | None,
          progress: Callable[[int, int], None] | None) -> None:
    files = [RecordedFile(path) for path in paths if not str(path).endswith(CHECKSUM)]
    total, done = sum(f.size for f in files), 0
    known: dict[str, RecordedFile] = {}
    for number, file in enumerate(files):
        if progress:
            file.progress = lambda read, done=done: progress(done + read, total)
        sha256 = file.sha256()
        _check_sum(file, sha256)
        if known.setdefault(sha256, file) is not file:
            raise BadInput(f"{file.path} has the same bytes as {known[sha256].path}; give every recording once")
        form = sniff(file)
        intake.begin(Source(number, file.path, form.name, form.venue(file, venue), form.clock, sha256))
        form.read(file, intake)
        intake.end()
        done += file.size
        if progress:
            progress(done, total)


def _check_sum(file: RecordedFile, sha256: str) -> None:
    """Raise BadInput when a checksum file lies beside and says something else."""
    beside = file.path.with_name(file.name + CHECKSUM)
    if beside.is_file():
        listed = beside.read_text(encoding="utf-8", errors="replace").split()
        if not listed or listed[0].lower() != sha256:
            found = listed[0][:64] if listed else "nothing"
            raise BadInput(f"{file.path} has SHA-256 {sha256}, but {beside.name} lists {found}; fetch the file again")


def instruments_of(intake: Intake, ticks: dict[str, str], lots: dict[str, str]) -> tuple[list[Instrument], list[str]]:
    """Return the instrument of every symbol, its steps as given or inferred from its values, and notes on them."""
    for given in (ticks, lots):
        for symbol in given.keys() - intake.venues.keys():
            raise BadInput(f"a step size is given for {symbol}, but the files hold {', '.join(sorted(intake.venues))}")
    found, notes = [], []
    for symbol, source in sorted(intake.venues.items()):
        tick, price_decimals = _step(intake, symbol, "price", ticks.get(symbol), notes)
        lot, qty_decimals = _step(intake, symbol, "qty", lots.get(symbol), notes)
        given = "given" if symbol in ticks or symbol in lots else "inferred"
        found.append(Instrument(symbol, source.venue, tick, lot, price_decimals, qty_decimals, given))
    return [replace(i, pair=_pair(i, found)) for i in found], notes


def _pair(instrument: Instrument, all_found: list[Instrument]) -> str:
    """Return the venue symbol of the same base as a broker symbol such as BTCUSD, BTCUSD.r or XAUUSDm."""
    if instrument.venue != "mt5":
        return ""
    name = instrument.symbol.upper()
    name = "XAUUSD" if name.startswith("GOLD") else name
    for quote in QUOTES:
        for other in all_found:
            base = other.symbol.removesuffix(quote)
            if other.venue != "mt5" and base != other.symbol and name.startswith(base + "USD"):
                return other.symbol
    return ""


def _step(intake: Intake, symbol: str, stem: str, given: str | None, notes: list[str]) -> tuple[str, int]:
    """Return the step size of a symbol's prices or quantities, and the decimals the venue writes them with."""
    own, bars = intake.scales.get((symbol, stem)), intake.bar_scales.get((symbol, stem))
    scale = own or bars or Scale()
    decimals, note = scale.style()
    if note:
        notes.append(f"{symbol} {stem} {note}; written with {decimals}")
    if given is None:
        return scale.joined(bars if own else None).step_text(), decimals
    try:
        size = Decimal(given)
    except InvalidOperation:
        size = Decimal(0)
    if not size.is_finite() or size <= 0:
        raise BadInput(f"{stem} step {given!r} of {symbol} is not a positive decimal number such as 0.1")
    return f"{size.normalize():f}", decimals


def _session_name(instruments: list[Instrument], first_recv_ns: int) -> str:
    when = datetime.fromtimestamp(first_recv_ns // 1_000_000_000, UTC)
    more = f"+{len(instruments) - 1}" if len(instruments) > 1 else ""
    symbol = re.sub(r"[^A-Za-z0-9._+-]", "_", instruments[0].symbol)
    return f"{symbol}{more}-{instruments[0].venue}-{when:%Y%m%dT%H%M%S}"


def _manifest(intake: Intake, assembly: Assembly, instruments: list[Instrument], notes: list[str]) -> dict:
    venues = sorted({i.venue for i in instruments})
    clocks = {s.clock for s in intake.sources}
    offsets = {s.notes["server_offset_s"] for s in intake.sources if "server_offset_s" in s.notes}
    return {
        "venue": venues[0] if len(venues) == 1 else "+".join(venues),
        "instruments": [i.as_dict() for i in instruments],
        "sources": [{"file": s.path.name, "sha256": s.sha256, "format": s.format, "venue": s.venue, "clock": s.clock,
                     "messages": s.messages, **s.notes} for s in intake.sources],
        "clock": "receive" if clocks == {"receive"} else "event",
        "messages": assembly.messages,
        "counts": intake.counts,
        "first_seq": 1, "last_seq": assembly.total,
        "first_recv_ns": assembly.first_recv_ns, "last_recv_ns": assembly.last_recv_ns,
        "gaps": assembly.gaps(),
        "duplicates": assembly.duplicates,
        "clock_steps": intake.clock_steps,
        "bumped": assembly.bumped,
        "skipped": len(intake.skipped),
        "server_offset_s": offsets.pop() if len(offsets) == 1 else None,
        "notes": notes,
    }
