"""What is asked of the gateway, what came of it, and the request that does it: pure arithmetic, no calls."""

import re
from dataclasses import asdict, dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import ceil
from pathlib import Path

from engine.instruments import Instrument
from engine.kernel.records import CLOSE, MISSING, PARTIAL, TIGHTEN

DEAL, SLTP = 1, 6
FOK, IOC, RETURN = 0, 1, 2
SYMBOL_FOK, SYMBOL_IOC = 1, 2          # bits of the symbol's mask; the request takes the enumeration above
MARKET, EXCHANGE = 2, 3
GUARD_LOTS = 1e-9
DONE, REFUSED, FAILED, UNKNOWN = "done", "refused", "failed", "unknown"
MAX_COMMENT = 25
DECISION = re.compile(r"[A-Za-z0-9._:/+-]{1,100}")


class Refusal(Exception):
    """The gateway does not do what it was asked, and why."""


@dataclass(frozen=True)
class Exit:
    """One decision: close whole, reduce to `volume_left` steps, or set the stop to `stop_ticks`."""

    decision: str                  # unique; a decision is acted on once
    action: int                    # TIGHTEN, PARTIAL or CLOSE
    identifier: int                # of the position; its ticket may change
    symbol: str                    # the broker's name
    side: int                      # 1 long, -1 short
    volume_left: int = MISSING
    stop_ticks: int = MISSING
    rule: str = ""
    decided_ns: int = MISSING      # wall clock of what it was decided on; of unknown age only where it is used by hand


@dataclass(frozen=True)
class Limits:
    """What the gateway may do at all; nothing is allowed by default."""

    accounts: frozenset[int] = frozenset()
    symbols: frozenset[str] = frozenset()
    actions_per_minute: int = 6
    actions_per_day: int = 50
    max_share: float = 1.0         # of a position, in one action
    max_spread_bps: float = 20.0
    max_quote_age_s: float = 5.0
    max_decision_age_s: float = 5.0
    kill_file: Path | None = None
    max_deviation_bps: float = 20.0    # of the price from the quote, where a broker executes on request or instantly
    magic: int = 7_418_520
    settle_s: float = 5.0          # after a doubt, with a healthy link, before nothing counts as nothing
    doubt_s: float = 60.0          # a position stays untouched after an end that is not known
    give_up_s: float = 60.0
    resends: int = 2               # after a doubt that left no trace; on netting accounts never


@dataclass
class Outcome:
    """How a decision ended; `code` is the kernel's, MISSING for what is not known is never 0."""

    decision: str
    state: str                     # done | refused | failed | unknown
    reason: str = ""
    code: int = 0
    sends: int = 0
    retcodes: list[int] = field(default_factory=list)
    lots_closed: float | None = None
    lots_left: float | None = None
    price: float | None = None     # volume-weighted, of the deals
    stop: float | None = None
    net: float | None = None       # profit, swap, commission and fee of the deals
    at_ns: int = 0

    def as_dict(self) -> dict:
        """Return it for the journal."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """A request, and the volume or stop with which the decision is fulfilled."""

    request: dict
    keep_lots: float = 0.0
    stop: float = 0.0


def check_exit(exit: Exit) -> None:
    """Raise Refusal for anything that is not a close, a reduction or a stop."""
    if exit.action not in (CLOSE, PARTIAL, TIGHTEN):
        raise Refusal(f"action {exit.action} neither closes, reduces nor tightens")
    if not DECISION.fullmatch(exit.decision):
        raise Refusal(f"decision {exit.decision!r} is not a name made of letters, digits and . _ : + - /")
    if exit.side not in (1, -1):
        raise Refusal(f"side {exit.side} is neither 1 nor -1")
    if exit.action == PARTIAL and exit.volume_left <= 0:
        raise Refusal("a reduction needs the volume to keep, more than 0")
    if exit.action == TIGHTEN and exit.stop_ticks <= 0:
        raise Refusal("a stop needs a price")


def decimal(value: float) -> Decimal:
    """Return a float of the terminal as the decimal it stands for."""
    return Decimal(repr(float(value)))


def snap(price: Decimal, tick: Decimal, up: bool) -> Decimal:
    """Return the price on the tick grid, rounded up or down."""
    return (price / tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * tick


def fillings(spec: dict) -> list[int]:
    """Return the filling modes to try: immediate or cancel, fill or kill, then return where it is allowed."""
    if spec["trade_exemode"] < MARKET:
        return [IOC, FOK, RETURN]
    found = [mode for mode, bit in ((IOC, SYMBOL_IOC), (FOK, SYMBOL_FOK)) if spec["filling_mode"] & bit]
    return found + ([RETURN] if spec["trade_exemode"] == EXCHANGE else [])


def keep_lots(exit: Exit, instrument: Instrument) -> float:
    """Return the volume that must stay."""
    return float(exit.volume_left * Decimal(instrument.lot_size)) if exit.action == PARTIAL else 0.0


def wanted_stop(exit: Exit, instrument: Instrument, spec: dict) -> Decimal:
    """Return the stop a decision asks for on the symbol's own grid, rounded away from the price."""
    return snap(exit.stop_ticks * Decimal(instrument.tick_size), decimal(spec["trade_tick_size"]), up=exit.side < 0)


def volume_to_close(held: float, keep: float, spec: dict) -> float:
    """Return the volume of the next deal in whole steps, all that is left of it when the position is to go whole."""
    largest, least = spec["volume_max"], spec["volume_min"]
    if keep == 0.0 and held <= largest:
        return held
    step = decimal(spec["volume_step"])
    over = held - keep
    if largest + GUARD_LOTS < over < largest + least - GUARD_LOTS and largest >= 2 * least:
        largest = over - least             # the part that follows can be dealt too
    steps = int((min(over, largest) + GUARD_LOTS) / float(step))
    return float(steps * step)


def plan_deal(exit: Exit, position: dict, spec: dict, tick: dict, keep: float, limits: Limits, filling: int, comment: str) -> Plan:
    """Return the deal that closes down to `keep` lots; raise Refusal where the symbol has none."""
    if 0 < keep < spec["volume_min"] - GUARD_LOTS:
        raise Refusal(f"{keep} lots would be left, {exit.symbol} allows no less than {spec['volume_min']}")
    volume = volume_to_close(position["volume"], keep, spec)
    if volume < spec["volume_min"] - GUARD_LOTS and volume != position["volume"] or volume <= 0:
        raise Refusal(f"{volume} lots would be closed, {exit.symbol} deals in no less than {spec['volume_min']}")
    rest = position["volume"] - volume
    if GUARD_LOTS < rest < spec["volume_min"] - GUARD_LOTS:
        raise Refusal(f"{rest:.8g} lots would be left, {exit.symbol} allows no less than {spec['volume_min']}")
    price = tick["bid"] if exit.side > 0 else tick["ask"]
    request = {"action": DEAL, "position": position["ticket"], "symbol": exit.symbol, "type": 1 if exit.side > 0 else 0,
               "volume": volume, "price": price, "deviation": ceil(price * limits.max_deviation_bps / 1e4 / spec["point"] - GUARD_LOTS),
               "type_filling": filling, "magic": limits.magic, "comment": comment[:MAX_COMMENT]}
    return Plan(request, keep)


def tighter(side: int, stop: float, old: float) -> bool:
    """Tell whether a stop is nearer than the one in force; 0 is none."""
    return stop > 0 and (old <= 0 or side * (stop - old) > 0)


def plan_stop(exit: Exit, position: dict, spec: dict, tick: dict, instrument: Instrument) -> Plan:
    """Return the change of the stop, as near as the symbol allows; both levels are written, the take profit as it is."""
    side, stop = exit.side, wanted_stop(exit, instrument, spec)
    price, point = decimal(tick["bid"] if side > 0 else tick["ask"]), decimal(round(spec["point"], 10))
    if side * (price - stop) <= 0:
        raise Refusal(f"the price {price} has passed the stop {stop}")
    nearest = snap(price - side * max(spec["trade_stops_level"], 1) * point, decimal(spec["trade_tick_size"]), up=side < 0)
    stop = min(stop, nearest) if side > 0 else max(stop, nearest)
    value = round(float(stop), spec["digits"])
    if not tighter(side, value, position["sl"]) or abs(value - position["sl"]) < spec["trade_tick_size"] * 0.5:
        raise Refusal(f"stop {value} is not tighter than {position['sl']}")
    return Plan({"action": SLTP, "position": position["ticket"], "symbol": exit.symbol, "sl": value, "tp": position["tp"]}, stop=value)


def frozen(position: dict, spec: dict, tick: dict) -> bool:
    """Tell whether the price is so near a level that the server changes and closes nothing."""
    price = tick["bid"] if position["type"] == 0 else tick["ask"]
    reach = spec["trade_freeze_level"] * spec["point"]
    return reach > 0 and any(level > 0 and abs(price - level) <= reach + spec["point"] / 2 for level in (position["sl"], position["tp"]))
