"""Which broker symbol a venue symbol leads: found from what the terminal tells, confirmed by a person, stored."""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from engine.errors import BadInput
from engine.instruments import Instrument
from engine.record.store import write_text_atomic

FORMAT = 1
DOLLARS = ("USDT", "USDC", "FDUSD", "BUSD", "USD")  # one currency as far as leading goes; the basis carries the rest
QUOTES = (*DOLLARS, "EUR", "GBP", "JPY", "TRY", "BRL", "BTC", "ETH", "BNB")
ALIASES = {
    "BTC": ("XBT", "BITCOIN", "Bitcoin"),
    "ETH": ("ETHEREUM", "Ethereum"),
    "XAU": ("GOLD", "Gold"),
    "XAG": ("SILVER", "Silver"),
}
DISABLED, LONG_ONLY, SHORT_ONLY, CLOSE_ONLY, FULL = range(5)
MODES = {
    DISABLED: "trading is disabled",
    LONG_ONLY: "only longs may be opened",
    SHORT_ONLY: "only shorts may be opened",
    CLOSE_ONLY: "positions may only be closed",
}
EXECUTIONS = {0: "a dealer confirms each order (request execution)", 1: "instant execution: requotes happen"}
STOPS_BIT = 16  # of order_mode: a position may carry a stop
# what was confirmed, the field of the terminal it came from, and its name in a sentence
CONFIRMED = {
    "tick_size": ("trade_tick_size", "tick size"),
    "volume_step": ("volume_step", "volume step"),
    "volume_min": ("volume_min", "smallest volume"),
    "contract_size": ("trade_contract_size", "contract size"),
}


@dataclass(frozen=True)
class Candidate:
    """A broker symbol that a venue symbol may lead, and why or why not."""

    symbol: str
    fit: bool
    reasons: list[str]


@dataclass(frozen=True)
class SymbolMap:
    """One confirmed pair of symbols with what the contract was then; numbers as exact decimal text."""

    server: str
    account: str  # masked
    venue_symbol: str
    broker_symbol: str
    tick_size: str
    volume_step: str
    volume_min: str
    contract_size: str
    currency: str
    confirmed_at: str  # UTC, ISO 8601


def masked(login: int) -> str:
    """Return an account number that can be recognised by its owner and by nobody else."""
    text = str(login)
    return f"{text[:2] if len(text) > 5 else text[:1]}***{text[-1:] if len(text) > 2 else ''}"


def decimal_of(value: float) -> str:
    """Return a number of the terminal as the decimal text it stands for; raise ValueError where it is no size."""
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is not a size")
    text = f"{Decimal(f'{value:.15g}'):f}"  # 15 digits: what a double carries through, without its noise
    return text.rstrip("0").rstrip(".") if "." in text else text


def split_pair(symbol: str, listed: dict[str, tuple[str, str]] | None = None) -> tuple[str, str]:
    """Return base and quote asset of a venue symbol: as the venue lists it, else told from its end."""
    if listed and symbol in listed:
        return listed[symbol]
    for quote in QUOTES:
        if symbol.endswith(quote) and symbol != quote:
            return symbol.removesuffix(quote), quote
    raise BadInput(f"venue symbol {symbol!r} does not end in a currency; it is written like BTCUSDT")


def group_of(base: str) -> str:
    """Return the pattern for `symbols_get` under which a broker may list an asset."""
    return ",".join(f"*{name}*" for name in (base, *ALIASES.get(base, ())))


def same_currency(one: str, other: str) -> bool:
    """Tell whether two currencies are the same, stablecoins of the dollar taken as dollars."""
    return one == other or one in DOLLARS and other in DOLLARS


def suffix_of(spec: dict) -> str | None:
    """Return what follows the currencies in a symbol's name, None where the name is made otherwise."""
    plain = spec["currency_base"] + spec["currency_profit"]
    return spec["name"][len(plain) :] if plain and spec["name"].startswith(plain) else None


def account_suffix(specs: list[dict]) -> str | None:
    """Return the suffix most symbols have that are shown and can be traded; None when there are none."""
    found = Counter(suffix_of(spec) for spec in specs if spec["visible"] and spec["trade_mode"] == FULL)
    found.pop(None, None)
    return min(found, key=lambda suffix: (-found[suffix], suffix)) if found else None


def judge(spec: dict, base: str, quote: str) -> Candidate:
    """Say whether a broker symbol may be led by base/quote, with every reason."""
    against, notes = [], []
    names, traded = (base, *ALIASES.get(base, ())), spec["currency_base"]
    if traded not in names:
        if traded and traded != spec["currency_profit"]:
            against.append(f"it trades {traded}, not {base}")
        notes.append(f"only its name says {base}: look at its specification before confirming")
    if not same_currency(spec["currency_profit"], quote):
        against.append(f"it is priced in {spec['currency_profit'] or 'an unknown currency'}, not {quote}")
    if spec["custom"]:
        against.append("it is a custom symbol of the terminal, which no broker trades")
    for field, words in CONFIRMED.values():
        if not math.isfinite(spec[field]) or spec[field] <= 0:
            against.append(f"the terminal gives no {words} for it")
    if spec["trade_mode"] == DISABLED:
        against.append(MODES[DISABLED])
    elif spec["trade_mode"] in MODES:
        notes.append(MODES[spec["trade_mode"]])
    notes += [EXECUTIONS[spec["trade_exemode"]]] if spec["trade_exemode"] in EXECUTIONS else []
    if not spec["order_mode"] & STOPS_BIT:
        notes.append("it takes no stop loss at the broker")
    if spec["expiration_time"]:
        notes.append(f"it expires on {datetime.fromtimestamp(spec['expiration_time'], UTC):%Y-%m-%d}")
    if not spec["visible"]:
        notes.append("it is not in Market Watch")
    return Candidate(spec["name"], not against, against or [terms(spec, base), *notes])


def terms(spec: dict, base: str) -> str:
    """Say in a few words what is traded."""
    return (
        f"1 lot is {spec['trade_contract_size']:g} {base} in {spec['currency_profit']}, "
        f"tick {spec['trade_tick_size']:g}, "
        f"volume from {spec['volume_min']:g} by {spec['volume_step']:g}, {spec['digits']} decimals"
    )


def rank(specs: list[dict], base: str, quote: str, suffix: str | None = None) -> list[Candidate]:
    """Return every candidate, the likeliest first: shown in Market Watch, with the suffix of this account's symbols."""

    def key(spec: dict) -> tuple:
        return (
            not judge(spec, base, quote).fit,
            spec["currency_base"] not in (base, *ALIASES.get(base, ())),
            not (spec["visible"] or spec["select"]),
            suffix is None or suffix_of(spec) != suffix,
            spec["trade_mode"] != FULL,
            spec["expiration_time"] > 0,
            len(spec["name"]),
            spec["name"],
        )

    return [judge(spec, base, quote) for spec in sorted(specs, key=key)]


def instrument_of(spec: dict, pair: str) -> Instrument:
    """Return the instrument of a broker symbol that a venue symbol leads, in exact decimal text."""
    try:
        tick, lot = decimal_of(spec["trade_tick_size"]), decimal_of(spec["volume_step"])
    except ValueError as error:
        raise BadInput(
            f"the terminal gives no tick size or volume step for {spec['name']} ({error}); "
            "show it in Market Watch and ask again"
        ) from None
    least_lots = max(1, round(spec["volume_min"] / spec["volume_step"]))
    return Instrument(spec["name"], "mt5", tick, lot, spec["digits"], len(lot.partition(".")[2]), "venue", pair, least_lots)


def map_of(spec: dict, pair: str, server: str, login: int, now_ns: int) -> SymbolMap:
    """Return what is stored when a person confirms a pair now."""
    sizes = {name: decimal_of(spec[field]) for name, (field, _) in CONFIRMED.items()}
    at = datetime.fromtimestamp(now_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return SymbolMap(
        server, masked(login), pair, spec["name"], currency=spec["currency_profit"], confirmed_at=at, **sizes
    )


def maps_path(data: Path) -> Path:
    """Return where the confirmed pairs live under a data root."""
    return data / "symbols.json"


def _stored(data: Path) -> list[SymbolMap]:
    path = maps_path(data)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']!r}, this version reads {FORMAT}")
        maps = [SymbolMap(**row) for row in body["maps"]]
        if not all(isinstance(getattr(each, field.name), str) for each in maps for field in fields(SymbolMap)):
            raise ValueError("a value that is no text")
        return maps
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is no list of confirmed symbols ({error}); move it away and confirm them again with "
            "tapeguard doctor --map BTCUSDT=BROKERSYMBOL"
        ) from None


def store_map(data: Path, confirmed: SymbolMap) -> None:
    """Store a confirmed pair in place of the one its venue symbol had on the same account."""

    def key(each: SymbolMap) -> tuple:
        return each.server, each.account, each.venue_symbol

    kept = [each for each in _stored(data) if key(each) != key(confirmed)]
    rows = [asdict(each) for each in sorted([*kept, confirmed], key=key)]
    data.mkdir(parents=True, exist_ok=True)
    write_text_atomic(maps_path(data), json.dumps({"format": FORMAT, "maps": rows}, indent=1) + "\n")


def load_map(data: Path, server: str, login: int) -> dict[str, SymbolMap]:
    """Return the confirmed pairs of an account by venue symbol."""
    return {each.venue_symbol: each for each in _stored(data) if (each.server, each.account) == (server, masked(login))}


def check_map(stored: SymbolMap, spec: dict) -> str:
    """Say what changed since a pair was confirmed, "" where nothing did; live refuses until it is confirmed anew."""
    changes = []
    for name, (field, words) in CONFIRMED.items():
        try:
            now = decimal_of(spec[field])
        except ValueError:
            now = "unknown"
        if now != getattr(stored, name):
            changes.append(f"its {words} was {getattr(stored, name)} and is {now}")
    if spec["currency_profit"] != stored.currency:
        changes.append(f"its currency was {stored.currency} and is {spec['currency_profit']}")
    if not changes:
        return ""
    return f"{stored.broker_symbol} is not what was confirmed on {stored.confirmed_at[:10]}: {', '.join(changes)}"
