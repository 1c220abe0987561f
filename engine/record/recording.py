"""A recording in progress, read from its journal as far as the recorder has handed it to the system: what a live analysis sees."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.kernel import records as R
from engine.record.journal import PREFIX, recordings
from engine.record.rows import RowMaker
from engine.record.segment import FRAME, INSTRUMENTS, QUOTE, Frame, JournalReader

CHUNK_FRAMES = 4096
OWN = (R.POSITION, R.OUTCOME, R.SWITCH)        # of the account: no part of the market


class Recording:
    """What a session will be, as far as it has come; it has what the analysis asks a session for."""

    def __init__(self, folder: Path):
        self.path, self.id = folder, folder.name.removeprefix(PREFIX)
        self.instruments: list[Instrument] = []
        first_ns = None
        for frame in JournalReader(folder):
            if frame.kind == INSTRUMENTS:
                self.instruments = [Instrument(**row) for row in json.loads(frame.payload)]
            if frame.kind in (FRAME, QUOTE):
                first_ns = frame.recv_ns
                break
        if first_ns is None or not self.instruments:
            raise BadInput(f"recording {self.id} has no message of the market yet; ask again when it has")
        last_ns = first_ns
        for frame in JournalReader(folder, last_only=True):
            last_ns = frame.recv_ns if frame.kind in (FRAME, QUOTE) else last_ns
        self.manifest = {"session": self.id, "first_recv_ns": first_ns, "last_recv_ns": last_ns, "state": "recording"}


class Tail:
    """Gives the EVENT rows of the market of a recording, as its session will give them: each time those since the last time."""

    def __init__(self, recording: Recording, numbers: dict[str, int]):
        self.folder, self.maker = recording.path, RowMaker(recording.instruments, numbers, [])
        self.first, self.last_seq = 0, 0       # segment to go on in, and the last frame taken

    def more(self) -> Iterator[np.ndarray]:
        """Yield what the journal has by now."""
        reader = JournalReader(self.folder, first=self.first)
        parts: list[np.ndarray] = []
        for frame in reader:
            if frame.seq <= self.last_seq:
                continue
            self.maker.origins = reader.sources        # it grows as sources are added
            parts += self._rows(frame)
            self.first, self.last_seq = int(reader.segment.name.partition(".")[0]), frame.seq
            if len(parts) >= CHUNK_FRAMES:
                yield np.concatenate(parts)
                parts = []
        if parts:
            yield np.concatenate(parts)

    def _rows(self, frame: Frame) -> list[np.ndarray]:
        rows = self.maker.rows(frame)
        return [rows.copy()] if len(rows) and rows[0]["kind"] not in OWN else []


def find_recording(data: Path, name: str) -> Recording | None:
    """Return the recording in progress of a name, None where there is none."""
    for folder in recordings(data):
        if folder.name.removeprefix(PREFIX) == name:
            return Recording(folder)
    return None
