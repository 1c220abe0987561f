"""A recording becomes a session: decoded, written aside, read back, put in place, and only then is the journal let go.

A frame keeps the seq and recv_ns of the journal, so no row is added and no double dropped: the session is what was
acted on. Breaks of ids the recorder did not mark are listed in the manifest, and `check` names them.
"""

import gc
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pyarrow as pa

from engine import clock
from engine.errors import BadInput, SourceFailed
from engine.instruments import Instrument
from engine.record.collect import PART_BYTES, Collector, NeedsScan
from engine.record.columns import Scale
from engine.record.importer import instruments_of
from engine.record.journal import PREFIX, hold, recordings, repair_held, sync_folder
from engine.record.segment import PACKED, Header, JournalReader, load_segment
from engine.record.store import TABLES, Session, sessions_folder
from engine.record.verified import VerifiedWriter

Progress = Callable[[int, int], None]
KEEP = ("drop", "zstd", "raw")
DROPPED = ".dropped-"
PROBE_BYTES = 1 << 20
SMALL_BYTES = 1 << 16          # a journal of no frame and no more than this was killed at its very start


def convert(folder: Path | str, data: Path | str, progress: Progress | None = None, keep: str = "drop") -> dict:
    """Turn a recording into a session; return what `import` returns, with `frames`, `repair`, `damage` and `journal`.

    Killed at any moment it is done again from the start, or, once the session is in its place, only the journal is let
    go: `keep` says how (drop, zstd or raw; the last two under `data/journals`).
    """
    began_s = clock.monotonic_s()
    folder, data = Path(folder), Path(data)
    if keep not in KEEP:
        raise BadInput(f"keep={keep!r} is not known; a journal can be kept as {', '.join(KEEP)}")
    if not (folder / "journal").is_dir() or not folder.name.startswith(PREFIX):
        raise BadInput(f"{folder} is not a recording; one is named {PREFIX}<session> and has a journal folder")
    name = folder.name.removeprefix(PREFIX)
    try:
        with hold(folder), _no_cycle_search():
            repaired = repair_held(folder)
            manifest = _session(folder, name, sessions_folder(data), repaired, progress)
            if keep == "zstd" and manifest:
                _pack(folder, data / "journals" / name)
        kept = _let_go(folder, data / "journals" / name, keep if manifest else "drop")
    except OSError as error:
        raise SourceFailed(f"recording {folder} could not be converted ({error}); its journal was kept") from None
    return {**_result(manifest, name, sessions_folder(data) / name), "repair": repaired["said"],
            "journal": kept, "seconds": round(clock.monotonic_s() - began_s, 3)}


@contextmanager
def _no_cycle_search() -> Iterator[None]:
    """Switch the search for reference cycles off: millions of short-lived tuples make it a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def recover(data: Path | str, keep: str = "drop", progress: Progress | None = None) -> list[dict]:
    """Convert every recording that was left behind and return a result for each; one in use is passed over."""
    sessions = sessions_folder(Path(data))
    for rest in sessions.glob(f"{DROPPED}*"):
        shutil.rmtree(rest, ignore_errors=True)
    results = []
    for folder in recordings(data):
        try:
            results.append(convert(folder, data, progress, keep))
        except (BadInput, SourceFailed) as error:
            results.append(_left(folder, str(error)))
        except Exception as error:     # whatever one recording holds, the next may not be kept from starting by it
            text = " ".join(f"{type(error).__name__}: {error}".split())
            results.append(_left(folder, f"recording {folder} could not be converted ({text}); its journal was kept"))
    return results


def _left(folder: Path, problem: str) -> dict:
    return {"session": folder.name.removeprefix(PREFIX), "path": str(folder), "problem": problem}


def _session(folder: Path, name: str, sessions: Path, repaired: dict, progress: Progress | None) -> dict | None:
    """Return the manifest of the finished session; None when the journal holds no frame at all."""
    reader = JournalReader(folder)
    final = sessions / name
    if final.exists():
        return _finished(final, reader)
    for rest in sessions.glob(f".{name}.????????"):
        if not (rest / "journal").exists():
            shutil.rmtree(rest)
    conversion = _Conversion(folder, reader, sessions, name, repaired["said"], progress)
    return conversion.run()


def _finished(final: Path, reader: JournalReader) -> dict:
    """Return the manifest of a session that is there already, having seen that it was made from this journal."""
    manifest = Session(final).manifest
    next(iter(reader), None)
    if reader.header is None or manifest.get("recording", {}).get("created_ns") != reader.header.created_ns:
        raise BadInput(f"{final} is there already and was not made from this recording; move one of the two away")
    return manifest


class _Conversion:
    """Writes one session from one journal."""

    def __init__(self, folder: Path, reader: JournalReader, sessions: Path, name: str, said: list[str],
                 progress: Progress | None):
        self.folder, self.reader, self.sessions, self.name, self.said = folder, reader, sessions, name, said
        self.progress, self.first_ns = progress, 0

    def run(self) -> dict | None:
        """Write with the step sizes the journal states; where it states none or wrong ones, find them first."""
        try:
            return self._write({})
        except NeedsScan as why:
            scan = self._collect(None, {})
            return self._write(self._found(scan), why.note)

    def _found(self, scan: Collector) -> dict[str, Instrument]:
        """Return instruments whose steps divide every value: those stated where they do, else inferred ones."""
        ticks, lots, intake = {}, {}, scan.intake
        for symbol in scan.steps().keys() & intake.venues.keys():
            for sizes, stem, size in zip((ticks, lots), ("price", "qty"), scan.steps()[symbol], strict=True):
                key = symbol, stem
                if _divides(size, intake.scales.get(key)) and _divides(size, intake.bar_scales.get(key)):
                    sizes[symbol] = size
        found, _ = instruments_of(intake, ticks, lots)
        fits = ticks.keys() & lots.keys()
        return {i.symbol: replace(i, scale_source="venue" if i.symbol in fits else "inferred") for i in found}

    def _collect(self, writer: VerifiedWriter | None, instruments: dict[str, Instrument]) -> Collector:
        collector = Collector(self.reader, writer, instruments)
        total = sum(path.stat().st_size for path in self.reader.segments)
        done, probe = 0, PROBE_BYTES if writer else 2 * PART_BYTES
        for frame in self.reader:
            self.first_ns = self.first_ns or frame.recv_ns
            collector.take(frame)
            if collector.part_bytes >= probe:
                collector.require_steps()      # better found out now than after a whole part
                probe = PART_BYTES
            if collector.part_bytes >= PART_BYTES:
                done += collector.part_bytes
                collector.end_part()
                if self.progress:
                    self.progress(done, total)
        if self.reader.frames:
            collector.lose(self.reader.last_seq)
        collector.end_part()
        if self.progress:
            self.progress(total, total)
        return collector

    def _write(self, instruments: dict[str, Instrument], note: str = "") -> dict | None:
        writer = VerifiedWriter(self.sessions, self.name)
        try:
            collector = self._collect(writer, instruments)
            if not self.reader.frames:
                self._require_empty()
                writer.abandon()
                return None
            writer.verify(self.reader.last_seq)
            manifest = self._manifest(collector, note)
            for place in (*writer.folder.iterdir(), writer.folder):
                sync_folder(place)
            final = writer.finish(manifest)
            sync_folder(final)
            sync_folder(self.sessions)
            return Session(final).manifest
        except BaseException:
            writer.abandon()
            raise

    def _require_empty(self) -> None:
        left = sum(path.stat().st_size for path in self.reader.folder.iterdir())
        if left > SMALL_BYTES:
            raise BadInput(f"recording {self.folder} holds no readable frame in its {left} bytes; it was left as it is")

    def _manifest(self, collector: Collector, note: str) -> dict:
        instruments, notes = collector.final_instruments()
        venues = sorted({i.venue for i in instruments})
        header: Header | None = self.reader.header
        damage = [d.sentence() for d in self.reader.damage]
        return {
            "venue": venues[0] if len(venues) == 1 else "+".join(venues),
            "instruments": [i.as_dict() for i in instruments],
            "sources": [{"name": o.name, "venue": o.venue, "group": o.group, "url": o.url, "format": "journal",
                         "clock": "receive", "frames": collector.frames_of.get(number, 0)}
                        for number, o in enumerate(self.reader.sources)],
            "clock": "receive",
            "messages": collector.messages,
            "counts": collector.intake.counts,
            "frames": self.reader.frames,
            "first_seq": 1, "last_seq": self.reader.last_seq,
            "first_recv_ns": collector.first_recv_ns or self.first_ns,
            "last_recv_ns": collector.last_recv_ns or self.reader.last_recv_ns,
            "gaps": sorted(collector.gaps, key=lambda gap: (gap["seq"], gap["symbol"])),
            "duplicates": 0,
            "malformed": collector.malformed, "skipped": sorted(collector.skipped, key=lambda skip: skip["seq"]),
            "recording": {"created_ns": header.created_ns if header else None, "segments": len(self.reader.segments),
                          "repair": self.said, "damage": damage},
            "notes": [*notes, *([note] if note else []), *self.said, *damage],
        }


def _divides(size: str, scale: Scale | None) -> bool:
    """Tell whether a step divides every value a scale has seen."""
    if scale is None or scale.step == 0:
        return True
    return (Fraction(scale.step, 10**scale.decimals) / Fraction(size)).denominator == 1


def _result(manifest: dict | None, name: str, path: Path) -> dict:
    if manifest is None:
        return {"session": None, "path": str(path), "messages": {}, "rows": {}, "skipped": [], "first_recv_ns": None,
                "last_recv_ns": None, "frames": 0, "damage": []}
    messages = {key: count for key, count in manifest["counts"].items() if key != "other"}
    return {"session": name, "path": str(path), "messages": messages,
            "rows": {table: manifest["rows"].get(table, 0) for table in TABLES}, "skipped": manifest["skipped"],
            "first_recv_ns": manifest["first_recv_ns"], "last_recv_ns": manifest["last_recv_ns"],
            "frames": manifest["frames"], "damage": manifest["recording"]["damage"]}


def _pack(folder: Path, target: Path) -> None:
    """Compress every segment beside the sessions, each read back before it takes its name."""
    target.mkdir(parents=True, exist_ok=True)
    for path in JournalReader(folder).segments:
        data, final = path.read_bytes(), target / f"{path.name}{PACKED}"
        aside = final.with_name(f".{path.name}{PACKED}")
        with open(aside, "wb") as file:
            file.write(pa.Codec("zstd", compression_level=9).compress(data, asbytes=True))
            file.flush()
            os.fsync(file.fileno())
        if load_segment(aside) != data:
            raise SourceFailed(f"{aside} does not hold what was written to it; the journal was kept, check the disk")
        os.replace(aside, final)
    sync_folder(target)


def _let_go(folder: Path, target: Path, keep: str) -> str:
    """Take a converted recording out of the way in one step; return where its journal is now, or that it is gone."""
    if keep == "raw":
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise SourceFailed(f"{target} is there already; move it away, then the journal can be kept there")
        os.replace(folder, target)
        return str(target)
    gone = folder.with_name(f"{DROPPED}{uuid.uuid4().hex[:8]}")
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
    return str(target) if keep == "zstd" else "dropped"
