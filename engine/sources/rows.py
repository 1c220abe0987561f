"""Comma-separated market data: rows to messages, with every bad cell named."""

from collections.abc import Callable

from engine.errors import BadInput
from engine.record.decode import BadFrame, Message
from engine.record.intake import Intake
from engine.sources.files import RecordedFile

TIME_DIGITS = {13: 1_000_000, 16: 1_000}
SIDES = {"buy": 1, "sell": -1}
TRUTH = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}


def whole(text: str, name: str) -> int:
    """Return a non-negative whole number, or raise BadFrame naming the column."""
    if not text.isdigit():
        raise BadFrame(f"{name} {text[:40]!r} is not a whole number")
    return int(text)


def truth(text: str, name: str) -> bool:
    """Return a true or false cell, or raise BadFrame naming the column."""
    if text not in TRUTH:
        raise BadFrame(f"{name} {text[:40]!r} is neither true nor false")
    return TRUTH[text]


def side_of(text: str, name: str = "side") -> int:
    """Return +1 for buy and -1 for sell, or raise BadFrame naming the column."""
    if text not in SIDES:
        raise BadFrame(f"{name} {text[:40]!r} is neither buy nor sell")
    return SIDES[text]


class Rows:
    """Reads the rows of one file; `time_ns` takes milliseconds and microseconds, told apart value by value."""

    def __init__(self, file: RecordedFile, intake: Intake):
        self.file, self.intake = file, intake
        self.line = 0

    def time_ns(self, text: str, name: str) -> int:
        """Return a time cell in nanoseconds; raise BadInput for another unit than ms (13 digits) or us (16)."""
        unit_ns = TIME_DIGITS.get(len(text))
        if not text.isdigit():
            raise BadFrame(f"{name} {text[:40]!r} is not a whole number")
        if unit_ns is None:
            raise BadInput(f"{self.file.path} line {self.line}: {name} {text[:40]} has {len(text)} digits; "
                           "milliseconds have 13 and microseconds 16")
        time_ns = int(text) * unit_ns
        self.intake.check_time(self.line, time_ns, name)
        return time_ns

    def read(self, header: bool, width: int, message_of: Callable[[list[str]], tuple[int, Message] | None]) -> None:
        """Put what `message_of` makes of each row's cells: a receive time and a message, or None for nothing yet."""
        for self.line, raw in self.file.lines():
            if not raw or (header and self.line == 1):
                continue
            cells = raw.decode("ascii", "replace").split(",")
            try:
                if len(cells) != width:
                    raise BadFrame(f"{raw[:60].decode('ascii', 'replace')!r} has {len(cells)} cells, not {width}")
                found = message_of(cells)
            except BadFrame as error:
                self.intake.skip(self.line, str(error))
                continue
            if found is not None:
                self.intake.put(self.line, *found)
