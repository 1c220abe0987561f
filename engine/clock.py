"""The only file that reads a clock."""

import threading
import time
from collections.abc import Callable

STEP_NS = 50_000_000           # a wall clock that falls behind the monotonic one by so much at once was put back
DRIFT_NS = 1_000_000           # less than that is followed
SLEW = 100                     # of the time that passes, one part in so many is then given back


class SteadyClock:
    """Wall time that goes on at its own pace when the machine's clock is put back, and approaches it by one percent of the time.

    A clock put forward is followed at once: that is how the time of a suspended machine comes back.
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns):
        self.wall_ns, self.monotonic_ns = wall_ns, monotonic_ns
        self.ahead_ns = 0              # of the machine's clock
        self.put_back_ns = 0           # in all
        self._lock = threading.Lock()
        self._last_ns = monotonic_ns()
        self._apart_ns = wall_ns() - self._last_ns

    def now_ns(self) -> int:
        """Return nanoseconds since 1970 UTC."""
        wall, monotonic = self.wall_ns(), self.monotonic_ns()
        if self.ahead_ns == 0 and -DRIFT_NS < self._apart_ns - (wall - monotonic) < DRIFT_NS:
            return wall                # as nearly always; without the lock
        with self._lock:
            # the wall first: who loses the processor between the two sees a fall that the next look takes back
            wall, monotonic = self.wall_ns(), self.monotonic_ns()
            fell = self._apart_ns - (wall - monotonic)
            if fell > STEP_NS:
                self.ahead_ns += fell
                self.put_back_ns += fell
            elif self.ahead_ns:
                self.ahead_ns -= min(self.ahead_ns, max(0, -fell) + (monotonic - self._last_ns) // SLEW)
            self._apart_ns, self._last_ns = wall - monotonic, monotonic
            return wall + self.ahead_ns


STEADY = SteadyClock()


def now_ns() -> int:
    """Return wall time in nanoseconds since 1970 UTC, which does not stand still when the machine's clock is put back."""
    return STEADY.now_ns()


def put_back_s() -> float:
    """Return by how many seconds the machine's clock has been put back since the start, in all."""
    return STEADY.put_back_ns / 1e9


def monotonic_s() -> float:
    """Return seconds of a clock that never goes back, for measuring durations."""
    return time.perf_counter()


def sleep_s(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)
