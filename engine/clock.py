"""The only file that reads a clock."""

import time


def now_ns() -> int:
    """Return wall time in nanoseconds since 1970 UTC."""
    return time.time_ns()


def monotonic_s() -> float:
    """Return seconds of a clock that never goes back, for measuring durations."""
    return time.perf_counter()


def sleep_s(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)
