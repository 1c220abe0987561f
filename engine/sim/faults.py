"""Faults of an exchange: scripted at a second of the tape, or drawn from a seed, and done to frames as they pass.

Every time is of the tape, so that a script does the same at any speed. `stream` is a pattern over recorded stream
names, such as `*@depth*`; of connections it picks those that asked for a stream it fits.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path

from engine.errors import BadInput, nearest

KINDS = {
    "drop": "the next `count` frames are never sent",
    "duplicate": "the next `count` frames are sent twice",
    "reorder": "the next frame is sent after the `count` that follow it on its stream",
    "gap": "no frame is sent for `for_s`, to anybody; what fell into it is lost",
    "malformed": "the next `count` frames are cut in half",
    "oversized": "the next `count` frames are padded with blanks to `bytes`",
    "clock_jump": "the venue's clock is `ms` off for `for_s`: in E and T of frames and in REST answers",
    "silent": "the stream stops on the connections there are, for `for_s`, or until asked for again; all else flows",
    "half_open": "the connections there are stay open but dead: nothing is sent or answered, for `for_s` or for good",
    "close": "the connections there are are closed with `code` and `reason`; 1006 cuts them without a close frame",
    "slow_consumer": "for `for_s` frames are sent at `per_s` a second, the rest waits; too much waiting is cut off",
    "shutdown": "a serverShutdown notice is sent, and after `for_s` the connections are closed with `code`",
    "wrong_path": "connections made within `for_s` are acked and stay silent, as on a wrong path",
    "no_ack": "requests made within `for_s` on a socket are carried out but not answered",
    "snapshot_race": "the next `count` depth bodies (within `for_s` where given) are `diffs` diffs from now: below zero "
    "the past, above the future",
    "rest_delay": "REST answers take `ms` longer for `for_s`",
    "rest_status": "the next `count` REST requests (within `for_s` where given) are answered with `status`",
}
ON_FRAMES = ("drop", "duplicate", "reorder", "gap", "malformed", "oversized", "clock_jump")
LASTING = ("gap", "clock_jump", "slow_consumer", "wrong_path", "no_ack", "rest_delay")
CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1006, 1015), *range(3000, 5000)})
_VENUE_MS = re.compile(rb'"([ET])":(\d{13})\b')
Change = Callable[[bytes], bytes]
Item = tuple[int, tuple[Change, ...]]  # place on the tape, and what is done to its payload


@dataclass(frozen=True)
class Fault:
    """One fault; KINDS says which of the fields each kind reads."""

    at_s: float
    kind: str
    stream: str = "*"
    count: int = 1
    for_s: float = 0.0
    code: int = 1001
    reason: str = ""
    ms: int = 0
    bytes: int = 2 << 20
    per_s: float = 0.0
    status: int = 503
    diffs: int = -50

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"fault kind {self.kind!r} is not known; {nearest(str(self.kind), KINDS)}")
        for name in ("at_s", "for_s", "per_s"):
            if not isinstance(getattr(self, name), int | float) or not 0 <= getattr(self, name) < 1e9:
                raise BadInput(f"fault {self.kind}: {name} {getattr(self, name)!r} is not a number of 0 or more")
        for name in ("count", "bytes"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise BadInput(f"fault {self.kind}: {name} {getattr(self, name)!r} is not a whole number of 1 or more")
        if self.code not in CLOSE_CODES:
            raise BadInput(
                f"fault {self.kind}: close code {self.code!r} cannot be sent; 1000-1003, 1006-1014 and 3000-4999 can"
            )
        if self.kind == "rest_status" and not 400 <= self.status <= 599:
            raise BadInput(f"fault rest_status: status {self.status!r} is not an HTTP error from 400 to 599")
        if self.kind in LASTING and self.for_s == 0:
            raise BadInput(
                f"fault {self.kind} at {self.at_s} s has no for_s; say how many seconds of the tape it lasts"
            )


def read_script(path: Path | str) -> list[Fault]:
    """Read a JSON list of faults, each an object such as {"at_s": 10, "kind": "drop", "stream": "*@depth*"}."""
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"fault script {path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise BadInput(f"fault script {path} is not JSON ({error})") from None
    if not isinstance(entries, list):
        raise BadInput(
            f'fault script {path} is not a list; it reads [{{"at_s": 10, "kind": "drop", "stream": "*@depth*"}}, ...]'
        )
    known = {field.name for field in fields(Fault)}
    faults = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not {"at_s", "kind"} <= entry.keys():
            raise BadInput(f"fault script {path} entry {number} is not an object with at_s and kind")
        for name in entry.keys() - known:
            raise BadInput(f"fault script {path} entry {number} has {name!r}; {nearest(name, known)}")
        try:
            faults.append(Fault(**entry))
        except BadInput as error:
            raise BadInput(f"fault script {path} entry {number}: {error}") from None
    return faults


def seeded(seed: int, per_minute: Mapping[str, float], duration_s: float, streams: Sequence[str]) -> list[Fault]:
    """Draw faults at mean rates a minute of the tape; equal arguments give equal faults."""
    faults = []
    for kind, rate in sorted(per_minute.items()):
        if kind not in KINDS:
            raise BadInput(f"fault rate of {kind!r}: no such kind; {nearest(kind, KINDS)}")
        if not 0 <= rate <= 60_000:
            raise BadInput(f"fault rate of {kind} is {rate}; it is a number a minute from 0 to 60000")
        draw = random.Random(f"{seed} {kind}")
        at_s = draw.expovariate(rate / 60) if rate else duration_s
        while at_s < duration_s:
            on_all = kind not in ON_FRAMES and kind != "silent"
            faults.append(
                Fault(
                    round(at_s, 3),
                    kind,
                    "*" if on_all else draw.choice(streams),
                    count=draw.randint(1, 3),
                    for_s=round(draw.uniform(0.5, 5.0), 3),
                    code=draw.choice((1001, 1006, 1008, 1011, 1012)),
                    reason="drawn",
                    ms=draw.choice((-1, 1)) * draw.randint(50, 2000),
                    bytes=draw.randint(1, 4) << 20,
                    per_s=draw.choice((0.0, 20.0)),
                    status=draw.choice((429, 500, 503)),
                    diffs=draw.choice((-200, -20, 2)),
                )
            )
            at_s += draw.expovariate(rate / 60)
    return sorted(faults, key=lambda fault: (fault.at_s, fault.kind))


def shifted(ms: int) -> Change:
    """Return what moves every E and T of a payload."""
    return lambda payload: _VENUE_MS.sub(lambda found: b'"%s":%d' % (found[1], int(found[2]) + ms), payload)


def in_microseconds(payload: bytes) -> bytes:
    """Return a payload with its times in microseconds, as spot sends them when asked."""
    return _VENUE_MS.sub(rb'"\1":\g<2>000', payload)


def cut(payload: bytes) -> bytes:
    """Return the first half of a payload."""
    return payload[: len(payload) // 2]


def padded(size: int) -> Change:
    """Return what fills a payload with blanks, which JSON allows, to a size."""
    return lambda payload: payload.ljust(size)


class _Active:
    """A fault that is under way."""

    def __init__(self, fault: Fault):
        self.fault = fault
        self.left = fault.count
        self.held: Item | None = None


class Gate:
    """What stands between the tape and the sockets: faults that are done to the frames themselves."""

    def __init__(self, streams: Sequence[str], stream: Sequence[int]):
        self._streams, self._stream = streams, stream
        self._active: list[_Active] = []

    @property
    def idle(self) -> bool:
        """True while frames pass unchanged."""
        return not self._active

    def begin(self, fault: Fault) -> None:
        """Start doing a fault."""
        self._active.append(_Active(fault))

    def end(self, fault: Fault) -> list[Item]:
        """Stop doing a fault; return a frame it still held."""
        over = [active for active in self._active if active.fault is fault]
        self._active = [active for active in self._active if active.fault is not fault]
        return [active.held for active in over if active.held]

    def end_all(self) -> list[Item]:
        """Stop every fault; return what they still held."""
        return [item for active in list(self._active) for item in self.end(active.fault)]

    def pass_through(self, items: list[Item]) -> list[Item]:
        """Return the frames that come out, in order."""
        for active in list(self._active):
            items = [out for item in items for out in self._one(active, item)]
            if active.left <= 0 and not active.held:
                self._active.remove(active)
        return items

    def _one(self, active: _Active, item: Item) -> list[Item]:
        fault, (place, changes) = active.fault, item
        if active.held:
            return self._behind(active, item)
        if active.left <= 0 or not fnmatchcase(self._streams[self._stream[place]], fault.stream):
            return [item]
        if fault.kind == "gap":
            return []
        if fault.kind == "clock_jump":
            return [(place, (*changes, shifted(fault.ms)))]
        if fault.kind == "reorder":
            active.held = item
            return []
        active.left -= 1
        if fault.kind == "drop":
            return []
        if fault.kind == "duplicate":
            return [item, item]
        return [(place, (*changes, cut if fault.kind == "malformed" else padded(fault.bytes)))]

    def _behind(self, active: _Active, item: Item) -> list[Item]:
        """Let a frame of the held one's stream pass before it; the last of them brings the held one with it."""
        if self._stream[item[0]] != self._stream[active.held[0]]:
            return [item]
        active.left -= 1
        if active.left > 0:
            return [item]
        held, active.held = active.held, None
        return [item, held]
