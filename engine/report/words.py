"""Values as a person reads them, safe inside HTML; what is not known says so and is never shown as 0."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html import escape

UNKNOWN = "not known"
ENOUGH_TRADES = 100
LEVEL = 0.05
_Z95 = 1.959963984540054
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text(value: object) -> str:
    """Return a value escaped for text and attributes, without characters HTML does not allow."""
    return escape("".join(c if c.isprintable() else " " for c in str(value)), quote=True)


def plain(value: object) -> float | None:
    """Return a finite number, or None for everything else."""
    if value is None or isinstance(value, (bool, str)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def member(value: object, *keys: str) -> object:
    """Return value[key][key]..., None where a step is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def names(value: object) -> list[str]:
    """Return the names of a list, without the unknown ones."""
    return [str(name) for name in value if name is not None] if isinstance(value, (list, tuple)) else []


def number(value: object, digits: int = 2, unit: str = "", sign: bool = False) -> str:
    """Write a number with a true minus sign; huge ones in powers of ten."""
    known = plain(value)
    if known is None:
        return UNKNOWN
    if abs(known) >= 1e7:
        power = math.floor(math.log10(abs(known)))
        body = f"{known / 10.0**power:.2f}e{power}"
    else:
        body = f"{known:,.{digits}f}"
    if not any(c in "123456789" for c in body):
        body = body.removeprefix("-")
    elif sign and known > 0:
        body = "+" + body
    return body.replace("-", "−") + unit


def signed(value: object, digits: int = 3, unit: str = "") -> str:
    """Write a change with its sign."""
    return number(value, digits, unit, sign=True)


def count(value: object) -> str:
    """Write a number of things."""
    return number(value, 0)


def percent(share: object, digits: int = 1) -> str:
    """Write a share as a percentage."""
    known = plain(share)
    return UNKNOWN if known is None else number(100.0 * known, digits, "%")


def bounds(ci: object) -> tuple[float, float] | None:
    """Return both ends of an interval, or None when either is not known."""
    if not isinstance(ci, Sequence) or isinstance(ci, str) or len(ci) != 2:
        return None
    low, high = plain(ci[0]), plain(ci[1])
    return None if low is None or high is None else (low, high)


def interval(ci: object, digits: int = 3) -> str:
    """Write an interval of changes, or say that it is not known."""
    known = bounds(ci)
    return f"[{UNKNOWN}]" if known is None else f"[{signed(known[0], digits)}, {signed(known[1], digits)}]"


def with_interval(value: object, digits: int = 3, unit: str = "") -> str:
    """Write {"mean", "ci95"} as "mean [low, high]"; one unknown is said once."""
    if plain(member(value, "mean")) is None:
        return UNKNOWN
    return f"{signed(member(value, 'mean'), digits, unit)} {interval(member(value, 'ci95'), digits)}"


def probability(value: object) -> str:
    """Write a p-value."""
    known = plain(value)
    if known is None:
        return UNKNOWN
    return "<0.001" if known < 0.001 else number(known, 3)


def duration(seconds: object) -> str:
    """Write a length of time in the unit a person would use."""
    known = plain(seconds)
    if known is None:
        return UNKNOWN
    for limit, divisor, unit in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if abs(known) < limit:
            return number(known / divisor, 0 if abs(known / divisor) >= 10 else 1, f" {unit}")
    return number(known / 86400, 1, " days")


def utc(time_ns: object) -> str:
    """Write nanoseconds since 1970 as UTC to the minute."""
    known = plain(time_ns)
    try:
        return (
            UNKNOWN if known is None else (_EPOCH + timedelta(seconds=int(time_ns) // 10**9)).strftime("%Y-%m-%d %H:%M")
        )
    except OverflowError:
        return UNKNOWN


def wilson(found: object, of: object) -> tuple[float, float] | None:
    """Return the 95% Wilson interval of a share, or None when it cannot be said."""
    k, n = plain(found), plain(of)
    if k is None or n is None or n <= 0 or not 0 <= k <= n:
        return None
    share, z2 = k / n, _Z95 * _Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def shorten(name: str, letters: int) -> str:
    """Cut a name that would not fit its place."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def groups(result: dict, rules: dict[str, dict]) -> str:
    """Write how many separate groups of trades the intervals resample, over all rules where the result does not say."""
    found = [plain(result.get("clusters")), *(plain(rule.get("clusters")) for rule in rules.values())]
    known = sorted({value for value in found if value is not None})
    return " to ".join(map(count, dict.fromkeys((known[0], known[-1])))) if known else UNKNOWN


def _doubt(rule: dict, excess: tuple[float, float] | None) -> str:
    """Return which test keeps a rule from being called better."""
    holm, twin = plain(member(rule, "excess_r", "p_holm")), bounds(member(rule, "twin_r", "ci95"))
    if excess and excess[0] > 0 and holm is not None and holm <= LEVEL:
        if twin and twin[0] <= 0:
            return "not shown to beat a plain tighter stop"
        matched = plain(member(rule, "matched_r", "p"))
        if matched is not None and matched > LEVEL:
            return "not shown to beat matched moments of other trades"
    return "not distinguishable from matched random exits"


def judgement(rule: dict, trades: object) -> tuple[str, str]:
    """Return what may be said of a rule and in which style; a claim needs both its verdict and its interval."""
    known, excess, verdict = plain(trades), bounds(member(rule, "excess_r", "ci95")), rule.get("verdict")
    if plain(rule.get("fired")) == 0:
        return "never fired: nothing to judge", "insufficient"
    if known is None or known < ENOUGH_TRADES or verdict == "insufficient":
        return "insufficient to distinguish from chance", "insufficient"
    if verdict == "indistinguishable" or (excess and excess[0] <= 0 <= excess[1]):
        return _doubt(rule, excess), "indistinguishable"
    if verdict == "better" and excess and excess[0] > 0:
        return "better than matched random exits", "better"
    if verdict == "worse" and excess and excess[1] < 0:
        return "worse than matched random exits", "worse"
    return "not known whether it differs from matched random exits", "insufficient"
