"""Which format a recorded file has, told from its content."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import BadInput
from engine.record.intake import Intake
from engine.sources import captures
from engine.sources.files import RecordedFile

KNOWN = ("hftbacktest capture lines, cryptofeed captures, Binance public archive CSV or zip, trade CSV with tradeId, tardis.dev CSV, "
         "MT5 tick exports, MT5 ticks as .npy, .parquet or JSON")


@dataclass(frozen=True)
class Format:
    """How to read a file: its name, whose clock it holds, and the function that does it."""

    name: str
    clock: str                                            # receive | event
    venue: Callable[[RecordedFile, str | None], str]      # from the file and --venue
    read: Callable[[RecordedFile, Intake], None]


HFTBACKTEST = Format("hftbacktest", "receive", captures.probe_venue, captures.read_hftbacktest)
CRYPTOFEED = Format("cryptofeed", "receive", captures.probe_venue, captures.read_cryptofeed)

_FIRST_LINE = [
    (re.compile(rb"\d+ +\{"), HFTBACKTEST),
    (re.compile(rb"configuration: |wss?://\S+ <-> |https?://\S+ -> [0-9.]+: |\d+\.\d*: ?\{"), CRYPTOFEED),
]


def sniff(file: RecordedFile) -> Format:
    """Return the format of a file, or raise BadInput naming the formats there are."""
    start = file.start()
    if not start.strip():
        raise BadInput(f"{file.path} is empty once unpacked; there is nothing in it to import")
    for pattern, found in _FIRST_LINE:
        if pattern.match(start):
            return found
    first = start.splitlines()[0][:60].decode(errors="replace")
    raise BadInput(f"{file.path} begins with {first!r}, which is no format known here; known: {KNOWN}")
