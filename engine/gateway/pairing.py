"""The doctor's look at symbols: what each leads, whether that is still as confirmed, or what it may lead."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from engine import clock
from engine.errors import BadInput
from engine.finding import FAIL, OK, SKIPPED, Finding
from engine.gateway.checkup import NEEDS, Terminal
from engine.gateway.symbols import (
    DISABLED,
    MODES,
    SymbolMap,
    account_suffix,
    check_map,
    group_of,
    judge,
    load_map,
    map_of,
    rank,
    split_pair,
    store_map,
    terms,
)

SHOWN = 3
Listed = dict[str, tuple[str, str]]  # what the venue lists: symbol to base and quote asset


@dataclass
class Pairing:
    """What was found for each venue symbol; `maps` and `candidates` are for the JSON result."""

    listed: Listed | None  # None: the venue could not be asked
    confirm: dict[str, str]  # venue symbol to the broker symbol a person confirms
    data: Path
    maps: dict[str, SymbolMap] = field(default_factory=dict)
    candidates: dict[str, list] = field(default_factory=dict)
    quoted: list[str] = field(default_factory=list)  # broker symbols whose quotes tell the broker's clock

    def findings(self, symbols: list[str], terminal: Terminal | None, account: dict | None) -> list[Finding]:
        """Return one finding for each venue symbol asked for, confirmed or stored."""
        if terminal is not None and account is not None:
            try:
                self.maps = load_map(self.data, account["server"], account["login"])
            except BadInput as error:
                return [Finding("symbols", FAIL, str(error), "move symbols.json away and confirm the symbols again")]
        wanted = list(dict.fromkeys([*symbols, *self.confirm])) or sorted(self.maps)
        if not wanted:
            return [Finding("symbols", SKIPPED, "none named", "name those you trade: tapeguard doctor BTCUSDT")]
        return [self._one(symbol, terminal, account) for symbol in wanted]

    def _one(self, symbol: str, terminal: Terminal | None, account: dict | None) -> Finding:
        if self.listed is not None and symbol not in self.listed:
            return Finding(
                symbol,
                FAIL,
                "the venue has no such symbol",
                _near(symbol, list(self.listed), "check its name, such as BTCUSDT"),
            )
        if terminal is None or account is None:
            return Finding(
                symbol,
                SKIPPED,
                f"not held against the broker: {NEEDS if terminal is None else 'needs the right account'}",
            )
        try:
            base, quote = split_pair(symbol, self.listed)
        except BadInput as error:
            return Finding(symbol, FAIL, str(error), "write it as the venue does, such as BTCUSDT")
        if symbol in self.confirm:
            return self._confirmed(symbol, self.confirm[symbol], base, quote, terminal, account)
        if symbol in self.maps:
            return self._mapped(self.maps[symbol], base, terminal)
        return self._proposed(symbol, base, quote, terminal)

    def _confirmed(self, symbol: str, broker: str, base: str, quote: str, terminal: Terminal, account: dict) -> Finding:
        spec = _spec(terminal, broker)
        if spec is None:
            names = [each["name"] for each in terminal.ask("symbols_get")]
            return Finding(
                symbol,
                FAIL,
                f"the broker has no symbol {broker!r}; nothing was stored",
                _near(broker, names, "open Market Watch > Symbols and see how the broker names it"),
            )
        judged = judge(spec, base, quote)
        if not judged.fit:
            return Finding(
                symbol,
                FAIL,
                f"{broker} cannot be led by it: {'; '.join(judged.reasons)}; nothing was stored",
                f"tapeguard doctor {symbol} lists those that can",
            )
        stored = map_of(spec, symbol, account["server"], account["login"], clock.now_ns())
        try:
            store_map(self.data, stored)
        except (BadInput, OSError) as error:
            return Finding(symbol, FAIL, f"the mapping could not be stored: {error}", "mend the data folder first")
        self.maps[symbol] = stored
        self.quoted.append(broker)
        return Finding(symbol, OK, f"leads {broker}, confirmed now and stored: {'; '.join(judged.reasons)}")

    def _mapped(self, stored: SymbolMap, base: str, terminal: Terminal) -> Finding:
        spec, again = _spec(terminal, stored.broker_symbol), f"--map {stored.venue_symbol}={stored.broker_symbol}"
        if spec is None:
            return Finding(
                stored.venue_symbol,
                FAIL,
                f"the broker no longer has {stored.broker_symbol}, which it was mapped to",
                f"see what there is now with tapeguard doctor {stored.venue_symbol}, and confirm another with --map",
            )
        self.quoted.append(stored.broker_symbol)
        changed = check_map(stored, spec)
        if changed:
            return Finding(stored.venue_symbol, FAIL, changed, f"if that is right, confirm it again with {again}")
        if spec["trade_mode"] == DISABLED:
            return Finding(
                stored.venue_symbol,
                FAIL,
                f"{stored.broker_symbol}: {MODES[DISABLED]}",
                "ask the broker when it can be traded again",
            )
        return Finding(
            stored.venue_symbol,
            OK,
            f"leads {stored.broker_symbol}, confirmed {stored.confirmed_at[:10]}: {terms(spec, base)}",
        )

    def _proposed(self, symbol: str, base: str, quote: str, terminal: Terminal) -> Finding:
        ranked = rank(
            terminal.ask("symbols_get", group=group_of(base)),
            base,
            quote,
            account_suffix(terminal.ask("symbols_get", group="*USD*")),
        )
        self.candidates[symbol] = ranked
        if not ranked:
            names = [each["name"] for each in terminal.ask("symbols_get")]
            return Finding(
                symbol,
                FAIL,
                f"the broker lists nothing named after {base}",
                _near(base + "USD", names, f"this broker may not offer {base}") + "; confirm one with --map",
            )
        told = "; ".join(
            f"{each.symbol}{'' if each.fit else ' NO'} ({', '.join(each.reasons)})" for each in ranked[:SHOWN]
        )
        told += f"; {len(ranked) - SHOWN} more with --json" if len(ranked) > SHOWN else ""
        if not ranked[0].fit:
            return Finding(
                symbol,
                FAIL,
                f"not mapped, and none of the broker's symbols will do: {told}",
                "ask the broker for one that can be traded",
            )
        self.quoted.append(ranked[0].symbol)
        return Finding(
            symbol,
            FAIL,
            f"not mapped yet; it may lead {told}",
            f"look at the broker's specification of {ranked[0].symbol}, then confirm it: "
            f"tapeguard doctor --map {symbol}={ranked[0].symbol}",
        )


def _spec(terminal: Terminal, name: str) -> dict | None:
    """Return what the terminal knows of a symbol, shown in Market Watch from now on; None for one it does not have."""
    return terminal.ask("symbol_info", name) if terminal.ask("symbol_select", name, True) else None


def _near(name: str, known: list[str], else_: str) -> str:
    close = difflib.get_close_matches(name, known, n=SHOWN, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else else_
