"""What commands show a person: tables and progress, built here and printed by the command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

STDERR = Console(stderr=True)


def utc(time_ns: int | None) -> str:
    """Write nanoseconds as a UTC time to the second."""
    return "-" if time_ns is None else datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Write a number of bytes for a person."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


@contextmanager
def progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on standard error while work reports (done, total); nothing when quiet or not a terminal."""
    if quiet or not STDERR.is_terminal:
        yield None
        return
    with Progress(
        TextColumn(what), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=STDERR, transient=True
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def make_table(title: str, *columns: str) -> Table:
    """Return an empty table, its first column on the left."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right")
    return table


def sessions_table(entries: list[dict]) -> Table:
    """Return the list of sessions."""
    table = make_table("Sessions", "session", "venue", "symbols", "from (UTC)", "length", "rows", "size", "state")
    for entry in entries:
        first, last = entry.get("first_recv_ns"), entry.get("last_recv_ns")
        length = f"{(last - first) / 1e9:,.0f} s" if first is not None and last is not None else "-"
        rows = entry.get("rows")
        table.add_row(
            entry["session"],
            entry.get("venue") or "-",
            " ".join(entry.get("symbols") or []),
            utc(first),
            length,
            "-" if rows is None else f"{rows:,}",
            "-" if entry.get("bytes") is None else size(entry["bytes"]),
            entry["state"],
        )
    return table


def import_table(result: dict) -> Table:
    """Return what an import found."""
    table = make_table(f"Session {result['session']}", "message", "count")
    for name, count in result["messages"].items():
        if count:
            table.add_row(name, f"{count:,}")
    return table


def check_table(result: dict) -> Table:
    """Return the findings of a check, one line each."""
    book, clock, files = result["book"], result["clock"], result["files"]
    table = make_table(f"Session {result['session']}: {'sound' if result['ok'] else 'NOT to be trusted'}", "check", "finding")
    offset = clock.get("recv_minus_event_ms") or {}
    known = offset.get("median") is not None
    table.add_row("files", f"{files['verified']} verified, {len(files['altered'])} altered")
    table.add_row("sequence", "dense, receive time rising" if result["sequence"]["ok"] else "BROKEN")
    table.add_row("trade ids", f"{result['trade_ids']['breaks']:,} breaks, {result['trade_ids']['missing']:,} missing")
    table.add_row("gaps recorded", f"{len(result['sequence']['gaps']):,}")
    table.add_row("book = venue's best quote", f"{book['equal']:,} of {book['compared']:,} compared, {book['crossed']} crossed")
    table.add_row(
        "receive - event time", f"{offset['min']:.1f} / {offset['median']:.1f} / {offset['max']:.1f} ms" if known else "not known"
    )
    for stream, share in result["coverage"].items():
        lacking = ", ".join(f"{why.replace('_', ' ')} {part:.2%}" for why, part in result["coverage_reasons"][stream].items())
        table.add_row(f"trusted: {stream}", f"{share:.2%}" + (f" ({lacking})" if lacking else ""))
    return table


def replay_tables(result: dict, modes: dict[str, str]) -> list:
    """Return what each rule did and how the trades ended."""
    rules = make_table(f"Rules ({result['quotes']} quotes)", "rule", "mode", "alerts", "stops moved", "partial exits", "exits")
    for name, counts in result["by_rule"].items():
        if modes.get(name, "off") != "off":
            rules.add_row(name, modes[name], *(f"{counts[action]:,}" for action in ("alert", "tighten", "partial", "close")))
    ends = make_table("Trades", "ended by", "count")
    words = {
        "stopped": "stop (own or moved)",
        "taken": "take profit",
        "timed_out": "time limit",
        "rule_closed": "a rule",
        "recorded_close": "the recorded exit",
    }
    for code, word in words.items():
        ends.add_row(word, f"{result['fills'][code]:,}")
    return [
        rules,
        ends,
        f"{result['trades']:,} trades closed, mean {_r(result['mean_r'])} (descriptive: not what a rule is worth)",
    ]


def _r(value: float | None) -> str:
    return "not known" if value is None else f"{value:+.3f} R"


def measure_parts(result: dict) -> list:
    """Return the outcome table over all trades, and one sentence for each rule."""
    table = make_table(
        f"{result['trades']:,} trades, mechanical baseline {_r(result['baseline_r'])}, {result['quotes']} quotes",
        "rule",
        "fired",
        "saved",
        "improved",
        "neutral",
        "harmed",
        "too late",
        "change R",
        "excess R",
        "p (Holm)",
        "verdict",
    )
    for name, rule in result["rules"].items():
        excess = rule["excess_r"]
        table.add_row(
            name,
            *(f"{rule[key]:,}" for key in ("fired", "saved", "improved", "neutral", "harmed", "too_late")),
            f"{rule['delta_r']['mean']:+.3f}",
            "-" if excess["mean"] is None else f"{excess['mean']:+.3f}",
            f"{excess['p_holm']:.3f}",
            rule["verdict"],
        )
    sentences = [f"\n[bold]{name}[/bold] {rule['sentence']}" for name, rule in result["rules"].items()]
    return [table, *sentences]


def sweep_parts(result: dict) -> list:
    """Return the best sets, the grid as a heatmap, and what may be said of the winner."""
    best = make_table(
        f"{result['sets']:,} sets, {result['trades']:,} trades, {result['quotes']} quotes",
        "set",
        "change R",
        "fires",
        "t",
        "p (adjusted)",
    )
    for entry in result["best"]:
        best.add_row(
            " ".join(f"{name}={value:g}" for name, value in entry["set"].items()),
            f"{entry['mean_delta_r']:+.4f}",
            f"{entry['fires']:,}",
            f"{entry['t']:+.2f}",
            f"{entry['adjusted_p']:.3f}",
        )
    winner = result["winner"]
    fair = "not known (too few blocks)" if winner["other_half_r"] is None else f"{winner['other_half_r']:+.4f} R"
    text = (
        f"Winner {winner['mean_delta_r']:+.4f} R; chosen on one half and "
        f"looked at on the other: {fair}. Adjusted p {result['adjusted_p']:.3f}, "
        f"{result['configurations_tried']:,} configurations tried. Verdict: {result['verdict']}."
    )
    return [best, _heat_table(result["heatmap"]), text, *result["notes"]]


def _heat_table(heat: dict) -> Table:
    """Return the mean change over the first two axes, coloured from worst to best."""
    cells = [value for row in heat["mean_delta_r"] for value in row if value is not None]
    reach = max((abs(value) for value in cells), default=0.0) or 1.0
    table = make_table(
        f"Mean change R: {heat['x']} across" + (f", {heat['y']} down" if heat["y"] else ""),
        heat["y"] or "",
        *(f"{value:g}" for value in heat["x_values"]),
    )
    for name, row in zip([f"{value:g}" for value in heat["y_values"]] or [""], heat["mean_delta_r"], strict=True):
        table.add_row(
            name,
            *(
                "-"
                if value is None
                else f"[{'' if abs(value) > reach / 2 else 'dim '}{'green' if value > 0 else 'red'}]{value:+.3f}[/]"
                for value in row
            ),
        )
    return table


def record_table(status: dict) -> Table:
    """Return the state of a recording: each stream's rate, age, holes, and the journal's."""
    table = make_table(
        f"Recording for {status['seconds']:,.0f} s: {status['kept']:,} frames kept, {status['journal_bytes'] / 1e6:,.1f} MB, "
        f"{status['not_synced']:,} not yet on disk",
        "stream",
        "frames",
        "per s",
        "age s",
        "holes",
        "duplicates",
        "state",
    )
    for name, stream in status["streams"].items():
        symbol = name.partition("@")[0].upper()
        state = status["books"].get(symbol, "") if "@depth" in name and stream["state"] == "ok" else stream["state"]
        table.add_row(
            name,
            f"{stream['frames']:,}",
            f"{stream['per_s']:,.1f}",
            "-" if stream["age_s"] is None else f"{stream['age_s']:.1f}",
            f"{stream['holes']:,}",
            f"{stream['duplicates']:,}",
            state,
        )
    table.caption = (
        f"{status['connections']} connections, {status['failures']} failures"
        f"{': ' + status['last_failure'] if status['last_failure'] else ''}; "
        f"slowest frame {status['slowest_take_ms']:.1f} ms; Ctrl-C ends and checks the session"
    )
    return table


def sql_table(columns: list[str], rows: list[tuple]) -> Table:
    """Return the rows of a query."""
    table = Table()
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    return table


def doctor_table(result: dict) -> Table:
    """Return what the doctor found: a line for each check, and below one that is not well how to mend it."""
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
    failed = sum(each["state"] == "fail" for each in result["findings"])
    table = Table(title=f"{failed} to mend" if failed else "Nothing is in the way", title_justify="left", title_style="bold")
    for name in ("check", "state", "seen"):
        table.add_column(name)
    for each in result["findings"]:
        table.add_row(Text(each["name"]), Text(each["state"], styles[each["state"]]), Text(each["seen"]))
        if each["mend"]:
            table.add_row("", "", Text(f"→ {each['mend']}", "cyan"))
    return table
