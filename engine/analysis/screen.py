"""The analysis as one screen for a person: order flow at the top, + is buyers everywhere."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

COLOURS = {"BULLISH": "green", "BUY": "green", "BEARISH": "red", "SELL": "red"}
WHALES = 5
UNITS = {  # of fields whose evidence needs more words than a screen has
    "price_trend_10s": "",
    "last_candle_color": "last closed minute",
    "last_candle_size": "body over range",
    "volume_surge": "volume over twice the usual",
    "momentum_acceleration": "% points, 10 s against the 10 s before",
    "divergence_vs_mt5": "broker off its usual offset",
}


def screen_parts(made: dict) -> Group:
    """Return one screen from a full answer."""
    advice, flow = made["recommendation"], made["order_flow"]
    price = made["binance_enrichment"]["binance_price"]
    direction = advice["direction"]
    head = Text.assemble(
        (f"{made['symbol']} {_price(price['value'])}", "bold"),
        f"  {made['as_of'][:23].replace('T', ' ')} UTC  ",
        ("" if advice["given"] else f"{direction}: ", f"bold {COLOURS.get(direction, 'yellow')}"),
        (advice["reason"], "bold red" if advice["contradiction"]["present"] else ""),
    )
    warnings = [Text(text, style="bold red" if "CONTRADICTION" in text else "yellow") for text in advice["warnings"]]
    parts = [head, *warnings, _flow_table(made), *_unknown(made), Text(_worth(flow), style="dim"), Text(_trend(made))]
    parts += [*_whales(made), *_voids(made), _fields(made)]
    return Group(*parts, Text(f"key {made['key']}  seq {made['seq']}  code {made['code']}", style="dim"))


def _show(value) -> str:
    """Write a value as a person reads it: four digits of what was measured, counts whole."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        size = abs(value)
        form = ",.2f" if size >= 1000 else ".4g" if size >= 1 else ".4f" if size >= 0.001 or not size else ".2e"
        return format(value, form)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _price(value: float | None) -> str:
    return "-" if value is None else f"{value:,.10g}"


def _share(value: float | None) -> str:
    """Write what buyers have over sellers as a signed percentage."""
    return "-" if value is None else f"{round(100 * value):+d} %"


def _usd(value: int | None) -> str:
    return "-" if value is None else f"{value:+,}"


def _table(title: str, names: tuple[str, ...], left: tuple[str, ...]) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold")
    for name in names:
        table.add_column(name, justify="left" if name in left else "right")
    return table


def _flow_table(made: dict) -> Table:
    """Return the windows of order flow that are known, one row each."""
    names = ("window", "side", "score", "takers", "takers USD", "book", "whales", "whales USD", "trades")
    table = _table("Order flow: buyers +, sellers -", names, ("window", "side"))
    for flow in made["order_flow_mtf"].values():
        pressure, book, whales = (flow["parts"][name] for name in ("pressure", "imbalance", "whales"))
        signal = flow["signal"]
        table.add_row(
            _window(flow),
            Text(signal or "not known", style=COLOURS.get(signal, "" if signal else "dim")),
            "-" if flow["score"] is None else f"{flow['score']:+.0f}",
            _share(pressure["value"]),
            _usd(pressure.get("net_usd")),
            _share(book["value"]),
            _share(whales["value"]),
            _usd(whales.get("net_usd")),
            _show(pressure.get("n")),
        )
    return table


def _window(flow: dict) -> str:
    return f"{flow['window_s']} s ({flow['alias']})"


def _unknown(made: dict) -> list[Text]:
    """Say once for each window what is not known, and why."""
    told = []
    for flow in made["order_flow_mtf"].values():
        why = dict.fromkeys(part["reason"] for part in flow["parts"].values() if part["value"] is None)
        if why:
            told.append(Text(f"{_window(flow)}: {'; '.join(why)}", style="dim"))
    return told


def _worth(flow: dict) -> str:
    """Say what the score may be taken for."""
    told = "A side begins at a score of 35. "
    if flow["called"] == "score":
        return f"{told}The score is no probability: {flow['called_reason']}."
    share, worth = flow.get("probability"), flow["calibration"]
    judged = f"{worth['judged_n']} calls out of sample, Brier {worth['brier']:.3f}, a coin has 0.250"
    if share is None or share["value"] is None:
        return f"{told}Judged on {judged}; none was of this size."
    low, high = share["ci95"]
    return (
        f"{told}Of {share['n']} calls of this size {share['value']:.0%} [{low:.0%}, {high:.0%}] went the score's way in "
        f"{worth['horizon_s']} s ({judged})."
    )


def _trend(made: dict) -> str:
    trend, earlier = made["order_flow_trend"], made["order_flow"]["v1"]
    told = f"Trend over {trend['window_s']} s: "
    if trend["trend"] is None:
        told += f"not known, {trend['reason']}. "
    else:
        books = " ".join(_show(each) for each in trend["imbalance_trend"])
        told += (
            f"{trend['trend']}; whales {trend['whale_activity_trend']}; takers {trend['pressure_side']} and "
            f"{trend['pressure_trend']}; book bids/asks {books}, oldest first. "
        )
    return told + f"Earlier system: {earlier['signal'] or 'not known'} {_show(earlier['score'])}."


def _whales(made: dict) -> list[Table | Text]:
    """Return the newest large orders under a line that sums them up."""
    part = made["order_flow"]["parts"]["whales"]
    if part["value"] is None:
        return [Text(f"Whales: not known, {part['reason']}")]
    said = f"Whales: {part['n']} large orders in {part['window_s']} s, net {part['net_usd']:+,} USD, {part['activity']}"
    head = Text(said + (f"; the newest {WHALES}:" if part["n"] > WHALES else ""), style="bold")
    if not made["whales"]:
        return [head]
    table = _table("", ("side", "USD", "price", "tier", "prints", "age s"), ())
    for each in made["whales"][:WHALES]:
        table.add_row(
            Text(each["side"], style=COLOURS[each["side"]]),
            f"{each['usd_value']:,}",
            _price(each["price"]),
            each["tier"],
            str(each["prints"]),
            f"{each['age_ms'] / 1000:.1f}",
        )
    return [head, table]


def _voids(made: dict) -> list[Text]:
    """Say where the book is hollow, and whom that harms."""
    told = []
    for side, void in made["voids"].items():
        if void["value"] == "void":
            said = (
                f"void {void['near_bps']:.1f} to {void['far_bps']:.1f} bps away ({_price(void['price_from'])} to "
                f"{_price(void['price_to'])}), {void['missing_share']:.0%} of the usual missing, against a {void['adverse_to']}"
            )
        else:
            said = "no void" if void["value"] else f"voids not known, {void['reason']}"
        told.append(Text(f"Book, {side} side: {said}", style="yellow" if void["value"] == "void" else ""))
    return told


def _fields(made: dict) -> Table:
    names = ("field", "value", "unit, or why not", "n", "earlier system, own units")
    table = _table("Market, as explanation", names, ("field", "unit, or why not"))
    fields = made["binance_enrichment"]
    flat = {**fields, **{f"wicks.{name}": field for name, field in fields["wicks"].items()}}
    for name, field in flat.items():
        if name in ("wicks", "binance_price"):
            continue
        unit = UNITS.get(name, field["unit"]) if field["value"] is not None else field["reason"]
        if name == "feed_health" and field["troubles"]:
            unit = "; ".join(field["troubles"])
        table.add_row(name, _show(field["value"]), unit, _show(field.get("n")), _show(field.get("v1")))
    return table
