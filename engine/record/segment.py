"""Segments of a journal: how frames lie in them, and how they are read back with every damage told.

A segment is a header and then frames: u32 payload length, u32 CRC-32, i64 seq, i64 recv_ns, u16 source, u8 kind,
u8 flags, payload; little-endian. The CRC-32 is over seq to payload and starts from the length, so it covers all.
"""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pyarrow as pa

from engine.errors import BadInput

# FRAME a socket frame; REST an answer over HTTP; CONTROL a marker of the recorder; TIMER nothing but its time; QUOTE a
# broker quote; SOURCES the table of sources, which takes no seq; INSTRUMENTS the step sizes the live loop uses; ACCOUNT what
# changed of a position; OUTCOME how an order ended; DECIDED a decision of the kernel; SWITCH a rule's new mode
FRAME, REST, CONTROL, TIMER, QUOTE, SOURCES, INSTRUMENTS, ACCOUNT, OUTCOME, DECIDED, SWITCH = range(1, 12)

FORMAT_VERSION = 1
MAGIC = b"TGJRNL\r\n"
HEADER = struct.Struct("<8sHHIqq100s")     # magic, version, length of the id, segment, first seq, created_ns, id
HEADER_BYTES = HEADER.size + 4             # and its CRC-32
HEAD = struct.Struct("<II")                # payload length, CRC-32
KEY = struct.Struct("<qqHBB")              # seq, recv_ns, source, kind, flags
HEAD_BYTES = HEAD.size + KEY.size
MAX_PAYLOAD_BYTES = 1 << 28
SEGMENT = "{:06d}.seg"
PACKED = ".zst"
_NUMBER = re.compile(r"(\d{6,})\.seg(\.zst)?")


@dataclass(frozen=True)
class Origin:
    """One source of frames: its name, venue, group of streams, and address; its number is its place in the table."""

    name: str
    venue: str
    group: str = ""
    url: str = ""


class Frame(NamedTuple):
    """One frame as it was journaled."""

    seq: int
    recv_ns: int
    source: int
    kind: int
    flags: int
    payload: bytes


class Header(NamedTuple):
    """What the head of a segment says."""

    version: int
    session: str
    number: int
    first_seq: int
    created_ns: int


@dataclass
class Damage:
    """Bytes that hold no valid frame; seq first to last were lost with them, up to an unknown one where it is None."""

    segment: str
    offset: int
    bytes: int
    first_seq: int
    last_seq: int | None
    reason: str

    def sentence(self) -> str:
        """Return the damage in words."""
        last = "and what followed" if self.last_seq is None else f"to {self.last_seq}"
        lost = "nothing was lost" if self.last_seq == self.first_seq - 1 else f"seq {self.first_seq} {last} are lost"
        return f"{self.segment} at byte {self.offset}: {self.reason}; {lost}"


def pack_frame(frame: Frame) -> bytes:
    """Return the bytes of one frame."""
    key, size = KEY.pack(*frame[:5]), len(frame.payload)
    return HEAD.pack(size, crc32(frame.payload, crc32(key, size))) + key + frame.payload


def pack_header(header: Header) -> bytes:
    """Return the head of a segment."""
    name = header.session.encode()
    body = HEADER.pack(MAGIC, header.version, len(name), header.number, header.first_seq, header.created_ns, name)
    return body + struct.pack("<I", crc32(body))


def parse_header(data: bytes) -> Header | None:
    """Return what the head of a segment says, None when it is damaged."""
    checksum = int.from_bytes(data[HEADER.size:HEADER_BYTES], "little")
    if len(data) < HEADER_BYTES or crc32(data[:HEADER.size]) != checksum:
        return None
    magic, version, length, number, first_seq, created_ns, name = HEADER.unpack_from(data)
    if magic != MAGIC:
        return None
    return Header(version, name[:length].decode(), number, first_seq, created_ns)


def walk(data: bytes, seq: int | None, recv_ns: int) -> Iterator[tuple[int, Frame]]:
    """Yield frames and the offset after each, up to the first that is not valid.

    `seq` and `recv_ns` are of the frame before the segment; with `seq` None the first frame is believed.
    """
    at, size = HEADER_BYTES, len(data)
    while at + HEAD_BYTES <= size:
        length, checksum = HEAD.unpack_from(data, at)
        end = at + HEAD_BYTES + length
        if end > size:
            return
        key, payload = data[at + HEAD.size:at + HEAD_BYTES], data[at + HEAD_BYTES:end]
        if crc32(payload, crc32(key, length)) != checksum:
            return
        frame = Frame(*KEY.unpack(key), payload)
        if frame.kind == SOURCES:
            if seq is not None and frame.seq != seq:
                return
            seq = frame.seq
        elif (seq is not None and frame.seq != seq + 1) or frame.recv_ns <= recv_ns:
            return
        else:
            seq, recv_ns = frame.seq, frame.recv_ns
        yield end, frame
        at = end


def load_segment(path: Path) -> bytes:
    """Return the bytes of a segment, unpacked where it was packed; raise BadInput when it cannot be read."""
    try:
        if path.suffix != PACKED:
            return path.read_bytes()
        with pa.input_stream(path, compression="zstd") as stream:
            return stream.read()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error})") from None


class JournalReader:
    """Reads the valid frames of a journal in order; `damage` then tells what was not valid.

    The first invalid frame ends the last segment; in an earlier one it ends that segment, and the next goes on. With
    `last_only` the segments before the last are passed over, with `first` those before that number.
    """

    def __init__(self, folder: Path | str, last_only: bool = False, first: int = 0):
        self.folder = Path(folder) / "journal" if (Path(folder) / "journal").is_dir() else Path(folder)
        if not self.folder.is_dir():
            raise BadInput(f"{folder} is not a recording: it has no journal folder")
        found = {int(match[1]): path for path in self.folder.iterdir() if (match := _NUMBER.fullmatch(path.name))}
        self.segments = [found[number] for number in sorted(found) if number >= first][-1 if last_only else 0:]
        self._start()

    def _start(self) -> None:
        self.sources: list[Origin] = []
        self.damage: list[Damage] = []
        self.header: Header | None = None      # of the first segment whose head is sound
        self.segment: Path | None = None       # being read
        self.valid_bytes = 0                   # of that segment, so far
        self.frames = self.last_seq = self.last_recv_ns = self._number = 0

    def __iter__(self) -> Iterator[Frame]:
        self._start()
        for self.segment in self.segments:
            yield from self._read(load_segment(self.segment))

    def _read(self, data: bytes) -> Iterator[Frame]:
        header, self.valid_bytes = self._head(data), 0
        before = self.last_seq if header is None else header.first_seq - 1
        number = int(self.segment.name.partition(".")[0])
        if header is not None:
            if header.session != self.header.session or before < self.last_seq:
                self._damaged(0, len(data), f"the segment is of {header.session} from seq {before + 1}", self.last_seq)
                return
            self.valid_bytes = HEADER_BYTES
            self._lost_until(before)
        elif self._open() or number != self._number + 1:
            before = None                      # only its frames can tell
        self._number = number
        for end, frame in walk(data, before, self.last_recv_ns):
            if frame.seq < self.last_seq:
                break
            if frame.kind == SOURCES:
                self._lost_until(frame.seq)
                self.sources = [Origin(**row) for row in json.loads(frame.payload)]
            else:
                self._lost_until(frame.seq - 1)
                self.last_seq, self.last_recv_ns = frame.seq, frame.recv_ns
                self.frames += 1
                yield frame
            self.valid_bytes = end
        if header is None and self.valid_bytes:
            self._damaged(0, HEADER_BYTES, "the head of the segment is damaged", self.last_seq)
        if self.valid_bytes < len(data):
            self._damaged(self.valid_bytes, len(data) - self.valid_bytes, "no valid frame stands there", None)

    def _head(self, data: bytes) -> Header | None:
        header = parse_header(data)
        if header is not None and header.version != FORMAT_VERSION:
            raise BadInput(f"{self.segment} has format {header.version}; this version reads {FORMAT_VERSION}")
        self.header = self.header or header
        return header

    def _open(self) -> list[Damage]:
        """Return the damages of which it is not known how far they reach."""
        return [damage for damage in self.damage if damage.last_seq is None]

    def _damaged(self, offset: int, size: int, reason: str, last_seq: int | None) -> None:
        self.damage.append(Damage(self.segment.name, offset, size, self.last_seq + 1, last_seq, reason))

    def _lost_until(self, seq: int) -> None:
        """Note that the frames up to a seq are known to be lost; most often they are none."""
        ended = self._open()
        for damage in ended:
            damage.last_seq = seq
        if seq > self.last_seq and not ended:
            self.damage.append(Damage(self.segment.name, 0, 0, self.last_seq + 1, seq, "what came before is missing"))
        self.last_seq = max(seq, self.last_seq)
