"""When faults begin and end, and what they do to sockets and REST; those done to frames are the gate's."""

from fnmatch import fnmatchcase
from typing import Protocol

from engine.errors import BadInput
from engine.sim.faults import ON_FRAMES, Fault, Gate, Item
from engine.sim.sockets import Client
from engine.sim.tape import Tape

COUNTED = ("snapshot_race", "rest_status")


class Venue(Protocol):
    """What faults act on."""

    clients: list[Client]

    def now_ms(self) -> int: ...
    def tape_ns(self) -> int: ...
    def deliver(self, items: list[Item]) -> None: ...


class _Slow:
    """Clients whose frames are let through at a rate."""

    def __init__(self, fault: Fault, clients: list[Client], since_ns: int):
        self.fault, self.clients, self.since_ns, self.released = fault, clients, since_ns, 0


class Effects:
    """The faults of one playing of the tape, begun and ended by its place."""

    def __init__(self, tape: Tape, faults: list[Fault], venue: Venue):
        self.tape, self.venue = tape, venue
        self.gate = Gate(tape.streams, tape.stream)
        self.fired: list[Fault] = []
        self._schedule: list[tuple[int, int, bool, Fault]] = []  # place, order, begins, fault
        for order, fault in enumerate(faults):
            place = tape.place_at(fault.at_s)
            if place >= len(tape):
                raise BadInput(
                    f"fault {fault.kind} at {fault.at_s} s lies behind the capture's end at {tape.duration_s:.3f} s"
                )
            self._schedule.append((place, order, True, fault))
            if fault.for_s:
                self._schedule.append((max(place + 1, tape.place_at(fault.at_s + fault.for_s)), order, False, fault))
        self._schedule.sort(key=lambda entry: entry[:2])
        self.rewind()

    def rewind(self) -> None:
        """Make ready for another playing."""
        self._next = 0
        self.jump_ms = 0
        self._under_way: list[Fault] = []
        self._left: list[list] = []  # counted faults with what is left of them
        self._picked: dict[int, list[Client]] = {}
        self._slow: list[_Slow] = []

    def next_place(self) -> int:
        """Return the place of the next beginning or end."""
        return self._schedule[self._next][0] if self._next < len(self._schedule) else len(self.tape)

    def reach(self, place: int) -> None:
        """Begin and end what lies up to a place of the tape."""
        while self._next < len(self._schedule) and self._schedule[self._next][0] <= place:
            _, _, begins, fault = self._schedule[self._next]
            self._next += 1
            self._begin(fault) if begins else self._end(fault)

    def _begin(self, fault: Fault) -> None:
        self.fired.append(fault)
        if fault.kind in ON_FRAMES:
            self.gate.begin(fault)
            self.jump_ms += fault.ms if fault.kind == "clock_jump" else 0
            return
        if fault.kind in COUNTED:
            self._left.append([fault, fault.count])
            return
        if fault.kind in ("wrong_path", "no_ack", "rest_delay"):
            self._under_way.append(fault)
            return

        def fits(name: str) -> bool:
            return fnmatchcase(name, fault.stream)

        picked = [client for client in self.venue.clients if fault.stream == "*" or client.wants(fits)]
        self._picked[id(fault)] = picked
        if fault.kind == "slow_consumer":
            self._slow.append(_Slow(fault, picked, self.venue.tape_ns()))
        for client in picked:
            match fault.kind:
                case "silent":
                    client.muted |= {number for number, name in enumerate(self.tape.streams) if fits(name)}
                case "half_open":
                    client.freeze()
                case "close":
                    client.close(fault.code, fault.reason)
                case "slow_consumer":
                    client.hold()
                case "shutdown":
                    client.notice({"e": "serverShutdown", "E": self.venue.now_ms()})
                    if not fault.for_s:
                        client.close(fault.code, fault.reason)

    def _end(self, fault: Fault) -> None:
        if fault.kind in ON_FRAMES:
            self.venue.deliver(self.gate.end(fault))
            self.jump_ms -= fault.ms if fault.kind == "clock_jump" else 0
        self._under_way = [other for other in self._under_way if other is not fault]
        self._left = [entry for entry in self._left if entry[0] is not fault]
        self._slow = [slow for slow in self._slow if slow.fault is not fault]
        for client in self._picked.pop(id(fault), []):
            match fault.kind:
                case "silent":
                    client.muted -= {
                        number for number, name in enumerate(self.tape.streams) if fnmatchcase(name, fault.stream)
                    }
                case "half_open":
                    client.thaw()
                case "slow_consumer":
                    client.release()
                case "shutdown":
                    client.close(fault.code, fault.reason)

    def release(self, recv_ns: int) -> None:
        """Let slow clients have what is due to them by a time of the tape."""
        for slow in self._slow:
            due = int((recv_ns - slow.since_ns) * slow.fault.per_s / 1e9) - slow.released
            slow.released += due
            for client in slow.clients:
                client.release(due)

    def _lasts(self, kind: str) -> list[Fault]:
        return [fault for fault in self._under_way if fault.kind == kind]

    def _take(self, kind: str) -> Fault | None:
        for entry in self._left:
            if entry[0].kind == kind:
                entry[1] -= 1
                if entry[1] == 0:
                    self._left.remove(entry)
                return entry[0]
        return None

    def misroutes(self) -> bool:
        """Return whether a connection made now stays silent."""
        return bool(self._lasts("wrong_path"))

    def no_ack(self) -> bool:
        """Return whether requests on sockets go unanswered now."""
        return bool(self._lasts("no_ack"))

    def delay_s(self) -> float:
        """Return by how much a REST answer is late now."""
        return sum(max(0, fault.ms) for fault in self._lasts("rest_delay")) / 1000

    def status(self) -> int:
        """Return the HTTP error of the next request, or 0."""
        fault = self._take("rest_status")
        return fault.status if fault else 0

    def depth_shift(self) -> int:
        """Return by how many diffs the next depth body is off."""
        fault = self._take("snapshot_race")
        return fault.diffs if fault else 0
