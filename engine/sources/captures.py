"""Raw Binance frames as others recorded them: hftbacktest capture lines and cryptofeed capture files."""

import re

from engine.errors import BadInput
from engine.record.decode import SPOT, USDM, BadFrame, Other, decode, snapshot
from engine.record.intake import Intake
from engine.sources.files import RecordedFile

PROBE_LINES = 5_000
STAMP_UNIT_NS = {19: 1, 16: 1_000}
_URL = re.compile(rb"(https?://\S+) -> ([0-9.]+): ?")
_URL_SYMBOL = re.compile(rb"[?&]symbol=([^&\s]+)")


def frame_venue(frame: bytes) -> str | None:
    """Return the venue a frame gives away by its fields, or None."""
    if b'"pu":' in frame or b'"X":' in frame or b'"markPriceUpdate"' in frame or b'"e":"bookTicker"' in frame:
        return USDM
    if b'"M":' in frame or b'"e":"depthUpdate"' in frame or b'@bookTicker"' in frame:
        return SPOT
    return None


def probe_venue(file: RecordedFile, given: str | None) -> str:
    """Return the venue of a capture file from its first frames; a given one must agree."""
    for number, line in file.lines():
        found = frame_venue(line)
        if found is None and number >= PROBE_LINES:
            break
        if found is not None:
            if given and given != found:
                raise BadInput(f"{file.path} line {number} is a frame of {found}, not of {given} as asked with --venue")
            return found
    if given:
        return given
    raise BadInput(f"{file.path} has no frame that tells USD-M from spot; "
                   f"say which with --venue {USDM} or --venue {SPOT}")


def capture_symbol(file: RecordedFile, venue: str) -> str:
    """Return the symbol of the first frame that names one; a depth snapshot does not."""
    for number, line in file.lines():
        if number > PROBE_LINES:
            break
        try:
            messages = decode(line.partition(b" ")[2], venue)
        except BadFrame:
            continue
        if messages[0].symbol and type(messages[0]) is not Other:
            return messages[0].symbol
    raise BadInput(f"{file.path} has no frame in its first {PROBE_LINES} lines that names a symbol; "
                   "give it with --symbol")


def _stamp_unit_ns(file: RecordedFile, line: int, stamp: bytes) -> int:
    unit_ns = STAMP_UNIT_NS.get(len(stamp))
    if unit_ns is None:
        raise BadInput(f"{file.path} line {line}: receive time {stamp[:24].decode()} has {len(stamp)} digits; "
                       "microseconds have 16 and nanoseconds 19")
    return unit_ns


def read_hftbacktest(file: RecordedFile, intake: Intake) -> None:
    """Read `<receive time> <frame>` lines of one symbol; the time is ns or us for the whole file."""
    venue = intake.source.venue
    symbol = intake.symbol or capture_symbol(file, venue)
    unit_ns = digits = 0
    for number, line in file.lines():
        stamp, _, frame = line.partition(b" ")
        if not stamp.isdigit() or not frame:
            intake.skip(number, f"{line[:60].decode(errors='replace')!r} is not a receive time, a space and a frame")
            continue
        if len(stamp) != digits:
            if digits:
                raise BadInput(f"{file.path} line {number}: receive time {stamp[:24].decode()} has {len(stamp)} digits "
                               f"where the lines above have {digits}; one file has one unit")
            digits, unit_ns = len(stamp), _stamp_unit_ns(file, number, stamp)
        try:
            messages = decode(frame, venue, symbol=symbol)
        except BadFrame as error:
            intake.skip(number, str(error))
            continue
        for message in messages:
            if message.symbol != symbol and type(message) is not Other:
                other = "not" if intake.symbol else "the lines above are of"
                raise BadInput(f"{file.path} line {number} is of {message.symbol}, {other} {symbol}; "
                               "a capture file of this format holds one symbol")
            intake.put(number, int(stamp) * unit_ns, message)


def seconds_ns(text: bytes) -> int:
    """Return decimal seconds as nanoseconds, exactly; raise ValueError for other text or more than 9 decimals."""
    whole, _, fraction = text.partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(fraction) > 9:
        raise ValueError(f"{text[:40].decode(errors='replace')!r} is not a time in seconds")
    return int(whole) * 1_000_000_000 + int(fraction.ljust(9, b"0"))


def read_cryptofeed(file: RecordedFile, intake: Intake) -> None:
    """Read `<seconds>: <frame>` and `<url> -> <seconds>: <body>` lines; configuration and `<->` lines hold no data."""
    venue = intake.source.venue
    for number, line in file.lines():
        if line.startswith(b"configuration: ") or b" <-> " in line[:4096] and line.startswith((b"ws", b"http")):
            continue
        try:
            if rest := _URL.match(line):
                named = _URL_SYMBOL.search(rest[1])
                if named is None:
                    raise BadFrame("the address of a depth snapshot names no symbol")
                recv_ns = seconds_ns(rest[2])
                messages = [snapshot(line[rest.end():], named[1].decode().upper())]
            else:
                stamp, _, frame = line.partition(b": ")
                recv_ns = seconds_ns(stamp)
                messages = decode(frame, venue)
        except ValueError as error:
            intake.skip(number, str(error))
            continue
        for message in messages:
            intake.put(number, recv_ns, message)
