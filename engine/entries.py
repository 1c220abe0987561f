"""Systematic entries: positions opened at fixed moments, for replaying a recording without any trades of one's own."""

import hashlib
import re
from dataclasses import dataclass
from fractions import Fraction

from engine.errors import BadInput, nearest
from engine.trades import TradePlan

PLANS_MAX = 1_000_000
SIDES = ("buy", "sell", "both", "alternate")
KEYS = ("every", "side", "sl", "tp", "max", "start", "volume", "symbol", "seed")
EXAMPLE = "every=10s,side=both,sl=20bps,tp=30bps,max=300s"

_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_UNITS_BPS = {"bps": 1, "%": 100}
_MEASURE = re.compile(r"(-?[0-9]{0,12}\.?[0-9]{1,12})\s*([a-z%]*)")


@dataclass(frozen=True)
class EntrySpec:
    """When to open positions and what protects them; distances are in bps of the entry price, times in ns."""

    every_ns: int
    sl_bps: Fraction
    tp_bps: Fraction | None = None
    side: str = "both"                 # buy | sell | both: one of each at a moment | alternate: buy, sell, buy, ...
    max_hold_ns: int | None = None
    start_ns: int = 60 * 10**9         # wait this long after the first event, so that every window is filled
    volume: str = "1.0"                # lots
    symbol: str = ""                   # empty: the symbol the caller names
    seed: int | None = None            # move each moment by a drawn share of `every`; None: keep whole multiples


def parse_entries(text: str) -> EntrySpec:
    """Read `every=10s,side=both,sl=20bps,tp=30bps,max=300s[,start=60s][,volume=1.0][,symbol=BTCUSD][,seed=1]`.

    Times take ms, s, m or h; distances bps or %. `every` and `sl` must be given.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.lower()
        if not equals or not value:
            raise BadInput(f"entries {text!r}: {part.strip()!r} is no key=value; {EXAMPLE} would be right")
        if key not in KEYS:
            raise BadInput(f"entries {text!r}: unknown key {key!r}; {nearest(key, KEYS)}")
        if key in values:
            raise BadInput(f"entries {text!r}: {key} is given twice, as {values[key]!r} and {value!r}; give it once")
        values[key] = value
    for key, example in (("every", "10s"), ("sl", "20bps")):
        if key not in values:
            raise BadInput(f"entries {text!r}: {key} is missing; add {key}={example}")
    try:
        spec = _spec(values)
        _check(spec)
    except ValueError as error:
        raise BadInput(f"entries {text!r}: {error}") from None
    return spec


def plan_entries(spec: EntrySpec, first_ns: int, last_ns: int, symbol: str) -> list[TradePlan]:
    """Return the positions to open between the first and last event, in order of time and ticket, tickets from 1.

    Moments are multiples of `every` since 1970, from the first at or after `first_ns` + `start`; the last leaves room
    for a whole `max`. The plans of a shorter recording are a prefix of those of a longer one.
    """
    earliest_ns = first_ns + spec.start_ns
    latest_ns = last_ns - (spec.max_hold_ns or 0)
    first = -(-earliest_ns // spec.every_ns)
    count = (latest_ns // spec.every_ns) - first + 1
    if count * (2 if spec.side == "both" else 1) > PLANS_MAX:
        raise BadInput(f"entries every {_seconds(spec.every_ns)} over {_seconds(last_ns - first_ns)} are more than "
                       f"{PLANS_MAX} trades; a larger every= would be right")
    plans: list[TradePlan] = []
    for number in range(count):
        moment_ns = (first + number) * spec.every_ns + _delay_ns(spec, first + number)
        if moment_ns > latest_ns:
            break
        for side in _sides(spec.side, number):
            plans.append(TradePlan(ticket=len(plans) + 1, symbol=spec.symbol or symbol, side=side, volume=spec.volume,
                                   open_ns=moment_ns, sl_bps=spec.sl_bps, tp_bps=spec.tp_bps,
                                   max_hold_ns=spec.max_hold_ns))
    if not plans:
        raise BadInput(f"no entry fits: the recording lasts {_seconds(last_ns - first_ns)}, and start= "
                       f"{_seconds(spec.start_ns)}, every= {_seconds(spec.every_ns)} and max= "
                       f"{_seconds(spec.max_hold_ns or 0)} need more; smaller ones would be right")
    return plans


def _spec(values: dict[str, str]) -> EntrySpec:
    side = values.get("side", "both").lower()
    if side not in SIDES:
        raise ValueError(f"side {side!r} is unknown; {nearest(side, SIDES)}")
    seed = values.get("seed")
    if seed is not None and not re.fullmatch(r"[0-9]{1,18}", seed):
        raise ValueError(f"seed {seed!r} is no whole number such as 1")
    return EntrySpec(every_ns=_time_ns("every", values["every"]), sl_bps=_bps("sl", values["sl"]),
                     tp_bps=_bps("tp", values["tp"]) if "tp" in values else None, side=side,
                     max_hold_ns=_time_ns("max", values["max"]) if "max" in values else None,
                     start_ns=_time_ns("start", values.get("start", "60s"), zero=True),
                     volume=values.get("volume", "1.0"), symbol=values.get("symbol", ""),
                     seed=None if seed is None else int(seed))


def _check(spec: EntrySpec) -> None:
    # the record knows what a volume, a symbol and a distance may be
    TradePlan(ticket=1, symbol=spec.symbol or "X", side=1, volume=spec.volume, open_ns=1, sl_bps=spec.sl_bps,
              tp_bps=spec.tp_bps, max_hold_ns=spec.max_hold_ns)


def _measure(name: str, text: str, units: dict[str, int], example: str) -> Fraction:
    match = _MEASURE.fullmatch(text.lower())
    if match is None or match[2] not in units:
        raise ValueError(f"{name} {text!r} has no number and unit of {', '.join(units)}; {example} would be right")
    return Fraction(match[1]) * units[match[2]]


def _time_ns(name: str, text: str, zero: bool = False) -> int:
    value_ns = _measure(name, text, _UNITS_NS, "10s")
    if value_ns.denominator != 1 or value_ns < 0 or (value_ns == 0 and not zero):
        raise ValueError(f"{name} {text!r} is not a whole number of nanoseconds above 0; 10s would be right")
    return value_ns.numerator


def _bps(name: str, text: str) -> Fraction:
    value = _measure(name, text, _UNITS_BPS, "20bps")
    if not 0 < value < 10_000:
        raise ValueError(f"{name} {text!r} is not between 0 and 100 %; 20bps would be right")
    return value


def _sides(side: str, number: int) -> tuple[int, ...]:
    if side == "both":
        return (1, -1)
    if side == "alternate":
        return (1,) if number % 2 == 0 else (-1,)
    return (1,) if side == "buy" else (-1,)


def _delay_ns(spec: EntrySpec, multiple: int) -> int:
    """Return the drawn delay of a moment; keyed by the moment, so that no other entry changes it."""
    if spec.seed is None:
        return 0
    digest = hashlib.sha256(f"entries {spec.seed} {multiple}".encode()).digest()
    return int.from_bytes(digest[:16], "big") % spec.every_ns


def _seconds(value_ns: int) -> str:
    text = f"{value_ns // 10**9}.{value_ns % 10**9:09d}".rstrip("0").rstrip(".")
    return f"{text} s"
