"""The broker's wall clock: server time is written as if it were UTC, and moves with a daylight-saving rule."""

import calendar

from engine.errors import BadInput, nearest

HOUR_S, DAY_S = 3600, 86_400
QUARTER_S = 900
MAX_RESIDUAL_S = 60
# rule: (hours in winter, hours in summer, the dates that switch)
RULES = {"new_york+7": (2, 3, "us"), "eu+2": (2, 3, "eu"), "utc": (0, 0, ""), "utc+2": (2, 2, ""), "utc+3": (3, 3, "")}


def _sunday_s(year: int, month: int, nth: int) -> int:
    """Return midnight UTC of the nth Sunday of a month, of its last for nth = -1."""
    days = [week[calendar.SUNDAY] for week in calendar.monthcalendar(year, month) if week[calendar.SUNDAY]]
    return calendar.timegm((year, month, days[nth - 1 if nth > 0 else nth], 0, 0, 0))


def _summer_s(year: int, dates: str) -> tuple[int, int]:
    """Return the UTC seconds at which summer time begins and ends."""
    if dates == "us":
        return _sunday_s(year, 3, 2) + 7 * HOUR_S, _sunday_s(year, 11, 1) + 6 * HOUR_S
    return _sunday_s(year, 3, -1) + HOUR_S, _sunday_s(year, 10, -1) + HOUR_S


class ServerClock:
    """Turns UTC into server time and back by a named rule."""

    def __init__(self, rule: str = "new_york+7"):
        if rule not in RULES:
            raise BadInput(f"server clock rule {rule!r} is not known; {nearest(rule, RULES)}")
        self.rule = rule
        self.winter_s, self.summer_s, self.dates = RULES[rule][0] * HOUR_S, RULES[rule][1] * HOUR_S, RULES[rule][2]
        self._years: dict[int, tuple[int, int]] = {}

    def offset_s(self, utc_s: int) -> int:
        """Return server time minus UTC at an instant, in seconds."""
        if not self.dates:
            return self.winter_s
        year = 1970 + int(utc_s // 31_556_952)
        for each in (year - 1, year, year + 1):
            if each not in self._years:
                self._years[each] = _summer_s(each, self.dates)
            begin, end = self._years[each]
            if begin <= utc_s < end:
                return self.summer_s
        return self.winter_s

    def server_msc(self, utc_ns: int) -> int:
        """Return the server's milliseconds at an instant."""
        return utc_ns // 1_000_000 + self.offset_s(utc_ns // 1_000_000_000) * 1000

    def utc_ns(self, server_msc: int) -> int:
        """Return the instant of a server stamp; the hour that happens twice is taken as the later one."""
        for offset in (self.winter_s, self.summer_s):
            utc_ns = (server_msc - offset * 1000) * 1_000_000
            if self.server_msc(utc_ns) == server_msc:
                return utc_ns
        return (server_msc - self.summer_s * 1000) * 1_000_000


def detect_offset_s(samples: list[tuple[int, int]]) -> int | None:
    """Return server minus UTC in seconds from (server msc, local UTC ns at arrival) of changed ticks; None when not sure."""
    found = set()
    for server_msc, utc_ns in samples:
        difference_s = server_msc / 1000 - utc_ns / 1e9
        rounded = round(difference_s / QUARTER_S) * QUARTER_S
        if abs(difference_s - rounded) < MAX_RESIDUAL_S and abs(rounded) <= 14 * HOUR_S:
            found.add(rounded)
        else:
            return None
    return found.pop() if len(found) == 1 else None
