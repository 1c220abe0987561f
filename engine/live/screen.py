"""The screen of a live run: 100 columns that stay where they are, the mode and how to stop it first."""

from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from engine.live.status import status_of
from engine.screen import size, utc

if TYPE_CHECKING:
    from engine.live.session import LiveSession

WIDTH = 100
MODES = {"record": "bold white on blue", "shadow": "bold white on blue", "paper": "bold black on yellow", "act": "bold white on red"}
RULE_STYLES = {"act": "bold red", "paper": "bold yellow", "shadow": "", "alert": "yellow", "off": "dim"}
GONE = {"not connected": "bold red", "silent": "bold red"}
ACTED_STYLES = {"acted": "bold", "alerted": "yellow"}
LEAST_DECISIONS, ALARMS = 2, 3
BAR = 10
FOLDED = ("@trade", "@aggTrade", "@depth", "@bookTicker")      # streams that rules rest on
UNITS = {"bps": "bps", "r": "R", "lots": "lots", "z": "z", "s": "s", "pct": "%"}
OUTCOMES = {"rule_closed": "closed", "rule_reduced": "reduced", "stop_moved": "stop moved", "stopped": "stopped out meanwhile",
            "taken": "take profit hit meanwhile"}
RESULTS = {"acted": "under way", "alerted": "alert only", "shadowed": "shadow: nothing is sent", "outranked": "another rule went first",
           "busy": "an order is under way already", "cooling": "too soon after the last order", "useless": "would change nothing"}
Cell = tuple[str, int, str, str]       # text, width, < or >, style


class Screen:
    """One status, drawn into the height there is: first the lines of rules give way, then old decisions."""

    def __init__(self, status: dict):
        self.status = status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines(console.size.height - 1):
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line

    def lines(self, height: int) -> list[Text]:
        """Return the lines that fit."""
        status = self.status
        fixed = [_head(status), _feeds(status), _alarms(status)]
        room = height - sum(map(len, fixed)) - len(fixed) - 1 - 2 * LEAST_DECISIONS - 1
        positions = _positions(status, room)
        decisions = _decisions(status, LEAST_DECISIONS + max(0, room - len(positions)) // 2)
        head, feeds, alarms = fixed
        return [*head, Text(), *positions, Text(), *feeds, Text(), *alarms, Text(), *decisions]


def live_screen(live: "LiveSession") -> Screen:
    """Return the screen as it is now; nothing of it looks at the run later."""
    return Screen(status_of(live))


def _line(*cells: Cell) -> Text:
    """Return cells at fixed places; what is too long for its cell ends in an ellipsis."""
    line = Text()
    for text, width, align, style in cells:
        text = text if len(text) <= width else text[:width - 1] + "…"
        line.append(f"{text:{align}{width}}", style)
        line.append(" ")
    line.rstrip()
    return line


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _price(value: float | None, digits: int) -> str:
    return _number(value, f".{digits}f")


def _span(seconds: float | None) -> str:
    """Write a length of time in at most eight places."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days}d {hours % 24}h"
    return f"{hours}h {minutes % 60:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest} s"


def _head(status: dict) -> list[Text]:
    account, mode = status["account"], status["mode"]
    first = Text.assemble((f" {mode.upper()} ", MODES[mode]), f" {status['run']}  {_span(status['seconds'])}   account {account['login']} "
                          f"{account['server']} ", (account["kind"], "bold red" if account["kind"] != "demo" else "green"),
                          f" {account['margin']} {account['currency']}")
    lines = [first, Text("Ctrl-C: end and verify   tapeguard kill: no more orders   tapeguard switch RULE=off|alert|shadow|act", "dim")]
    if status["killed"]:
        lines.append(_banner("KILL SWITCH IS ON: no order is sent; tapeguard kill --lift allows them again", "bold white on red"))
    if status["held"]:
        who = f"{len(status['held_rules'])} RULES ARE HELD" if status["held_rules"] else "NOT READY"
        well = "" if status["back_in_s"] is None else f"all is well again, back in {status['back_in_s']:.0f} s; was: "
        lines.append(_banner(f"{who}: {well}{status['held']}; broker-side stops stay", "bold black on yellow"))
    if status["problem"]:
        lines.append(_banner(f"BROKER: {status['problem']}", "bold black on yellow"))
    return lines


def _banner(text: str, style: str) -> Text:
    return _line((f" {text}", WIDTH - 1, "<", style))


PLACES = (("ticket", 10, "<"), ("symbol", 8, "<"), ("side", 5, "<"), ("lots", 6, ">"), ("entry", 9, ">"), ("price", 9, ">"),
          ("stop", 9, ">"), ("take", 9, ">"), ("R", 6, ">"), ("gain", 10, ">"), ("age", 8, ">"))


def _positions(status: dict, room: int) -> list[Text]:
    """Return every position; as many of the first as there is room for with a line for each rule, the others with one for all."""
    spare = room - 1 - sum(2 + (not (each["watched"] and each["at_broker"])) for each in status["positions"])
    titles = {"gain": f"gain {status['account']['currency']}"}
    lines = [_line(*((titles.get(name, name), width, align, "bold") for name, width, align in PLACES))]
    if not status["positions"]:
        lines.append(Text("no position is open", "dim"))
    for position in status["positions"]:
        lines.append(_position(position))
        spare -= len(position["rules"]) - 1
        if spare >= 0:
            lines += [_rule(name, rule, status) for name, rule in position["rules"].items()]
        elif position["rules"]:
            lines.append(_nearest(position["rules"]))
        if not (position["watched"] and position["at_broker"]):
            lines.append(_line(("", 1, "<", ""), (_apart(position, status["mode"]), WIDTH - 4, "<", "yellow")))
    return lines


def _position(position: dict) -> Text:
    levels = [_price(position[name], position["digits"]) for name in ("entry", "price", "stop", "take")]
    gain_r, gain = position["gain_r"], position["gain"]
    cells = [str(position["ticket"]), position["symbol"], position["side"], _number(position["lots"], ".10g"), *levels,
             _number(gain_r, "+.2f"), _number(gain, "+,.2f"), _span(position["age_s"])]
    styles = ["bold"] * 8 + [_sign(gain_r if gain_r is not None else gain), _sign(gain), ""]
    return _line(*((text, width, align, style) for text, (_, width, align), style in zip(cells, PLACES, styles, strict=True)))


def _apart(position: dict, mode: str) -> str:
    """Say why a position is only at the broker, or only in the kernel."""
    if not position["watched"]:
        return "no rule watches it: " + ("it was left on paper" if mode == "paper" else "its symbol is not among those of this run")
    return "not seen at the broker at its last reading"


def _sign(value: float | None) -> str:
    return "dim" if value is None else "green" if value > 0 else "red" if value < 0 else ""


def _rule(name: str, rule: dict, status: dict) -> Text:
    """Return one line: what a rule may do, what it says, how near it is, and what it has seen."""
    near, held = rule["nearness"], name in status["held_rules"]
    filled = 0 if near is None else int(near * BAR)
    mode = "paper" if (rule["mode"], status["mode"]) == ("act", "paper") else rule["mode"]
    loud = "bold red" if mode == "act" else "yellow"
    style = loud if near == 1 else "yellow" if near is not None and near >= 0.75 else ""
    return _line(("", 1, "<", ""), (name, 17, "<", ""), ("held" if held else mode, 6, "<", RULE_STYLES[mode]),
                 (_says(rule), 15, "<", "bold" if rule["vote"] != "hold" else ""),
                 ("█" * filled + "░" * (BAR - filled) if near is not None else "not known", BAR, "<", style or "dim"),
                 (_number(None if near is None else 100 * near, ".0f", "%"), 4, ">", style), (_shown(rule["evidence"]), 40, "<", "dim"))


def _says(rule: dict) -> str:
    """Return what a rule says in a word or two."""
    if rule["vote"] != "hold":
        return f"{rule['vote']}, done" if rule["acted"] and rule["mode"] == "act" else f"says {rule['vote']}"
    if rule["last"]:
        return f"{'did' if rule['acted'] else 'said'} {rule['last']}"
    return "waits" if rule["nearness"] == 1 else "quiet"


def _nearest(rules: dict) -> Text:
    known = [f"{name} {'says ' + rule['vote'] if rule['vote'] != 'hold' else _number(100 * rule['nearness'], '.0f', '%')}"
             for name, rule in rules.items() if rule["nearness"] is not None]
    return _line(("", 1, "<", ""), ("  ".join(known), WIDTH - 4, "<", "dim"))


def _shown(evidence: dict, most: int = 3) -> str:
    """Write the first values a rule rests on, each with its unit."""
    return ", ".join(_value(name, value) for name, value in [each for each in evidence.items() if not each[0].endswith("_id")][:most])


def _value(name: str, value: float) -> str:
    stem, _, unit = name.rpartition("_")
    words = name.replace("_", " ")
    if name.endswith("usd"):
        return f"{stem} ${value / 1e3:,.0f}k".strip()
    if stem and unit in UNITS:
        return f"{stem.replace('_', ' ')} {value:,.4g} {UNITS[unit]}"
    return f"{words} {value:,.10g}" if name == "stop" or float(value).is_integer() else f"{words} {value:.3g}"


def _feeds(status: dict) -> list[Text]:
    recorder = status["recorder"]
    lines = [_line(("venue stream", 24, "<", "bold"), ("rate", 10, ">", "bold"), ("age", 9, ">", "bold"), ("holes", 6, ">", "bold"),
                   ("state", 40, "<", "bold"))]
    for name, stream in recorder["streams"].items():
        book = recorder["books"].get(name.partition("@")[0].upper()) if "@depth" in name else None
        state = stream["state"] if stream["state"] != "ok" or book is None else f"book {book}"
        wanted = any(part in name for part in FOLDED)
        style = "green" if state in ("ok", "book synced") else GONE.get(state, "bold yellow") if wanted else "dim"
        lines.append(_line((name, 24, "<", ""), (f"{stream['per_s']:,.1f}/s", 10, ">", ""),
                           (_number(stream["age_s"], ".1f", " s"), 9, ">", ""),
                           (f"{stream['holes']:,}", 6, ">", "" if not stream["holes"] else "yellow"),
                           (state, 40, "<", style)))
    for symbol, age_s in status["quote_age_s"].items():
        text, style = _basis(status["basis"].get(symbol))
        lines.append(_line((f"broker quote {symbol}", 24, "<", ""), ("", 10, ">", ""), (_number(age_s, ".1f", " s"), 9, ">", ""),
                           ("", 6, ">", ""), (text, 47, "<", style)))
    latency, disk = status["latency_ms"], status["disk_free_bytes"]
    low = disk < 2 * status["disk_reserve_bytes"]
    lines.append(Text.assemble(
        (f"{'broker account':<24}            {_number(status['account_age_s'], '.1f', ' s'):>9}        ", ""),
        f"journal {size(recorder['journal_bytes'])}, ", (f"disk free {size(disk)}", "bold red" if low else "")))
    lines.append(Text(f"socket to decision {_number(latency['p50'], '.2f')} ms p50, {_number(latency['p99'], '.2f')} ms p99   "
                      f"{status['events']:,} events, {status['decisions']:,} decisions, {status['actions']:,} orders"))
    return lines


def _basis(basis: dict | None) -> tuple[str, str]:
    """Write how far the broker's price is from the venue's, and whether levels may be carried over."""
    if basis is None or basis["bps"] is None:
        return "basis not known yet", "bold yellow"
    text = f"basis {basis['bps']:+.2f} ± {basis['mad_bps']:.2f} bps"
    return (f"{text}, ok", "green") if basis["ok"] else (f"{text}, now off it or a quote is old", "bold yellow")


def _decisions(status: dict, most: int) -> list[Text]:
    lines = [Text("last decisions (UTC), those acted on first", "bold")]
    for each in sorted(reversed(status["last_decisions"]), key=lambda each: each["result"] != "acted")[:most]:
        lines.append(_line((utc(each["time_ns"])[11:], 8, "<", "dim"), (each["rule"], 17, "<", ""), (each["action"], 8, "<", "bold"),
                           (f"{each['ticket']} {each['symbol']}", 18, "<", ""), (_number(each["gain_r"], "+.2f", " R"), 8, ">", ""),
                           (_ended(each), 34, "<", ACTED_STYLES.get(each["result"], "dim"))))
        times = f"{each['times']} times; " if each["times"] > 1 else ""
        lines.append(_line(("", 8, "<", ""), (times + (_shown(each["evidence"], 6) or "the price alone"), 90, "<", "dim")))
    if len(lines) == 1:
        lines.append(Text("none yet", "dim"))
    return lines


def _ended(decision: dict) -> str:
    """Write what became of a decision."""
    outcome = decision["outcome"]
    if outcome is None:
        return RESULTS[decision["result"]]
    if outcome["state"] != "done":
        return f"{outcome['state'].upper()}: {outcome['reason']}"
    at, level = ("to", outcome["stop"]) if outcome["code"] == "stop_moved" else ("at", outcome["price"])
    net = "" if outcome["net"] is None else f", net {outcome['net']:+,.2f}"
    return f"{OUTCOMES.get(outcome['code'], outcome['code'])} {at} {_price(level, decision['digits'])}{net}"


def _alarms(status: dict) -> list[Text]:
    webhook, alarms = status["webhook"], status["last_alarms"][-ALARMS:]
    title = Text("last alarms (UTC)", "bold")
    if webhook:
        well = not (webhook["failed"] or webhook["dropped"])
        title.append(f"   webhook: {webhook['sent']} posted, {webhook['waiting']} waiting, {webhook['dropped']} lost"
                     + (f" ({webhook['failed']})" if webhook["failed"] else ""), "dim" if well else "yellow")
    lines = [_line((utc(each["time_ns"])[11:], 8, "<", "dim"), (each["text"], WIDTH - 10, "<", "yellow")) for each in reversed(alarms)]
    return [title, *lines, *([Text("none", "dim")] if not alarms else [])]
