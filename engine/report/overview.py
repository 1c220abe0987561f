"""The charts that put all rules side by side; each is drawn for a wide page and again for a narrow one."""

from collections.abc import Callable

from engine.report.charts import Canvas, Scale, axis_below, labels, spread, steps
from engine.report.figures import empty, figure
from engine.report.words import (
    UNKNOWN,
    bounds,
    count,
    interval,
    judgement,
    member,
    number,
    percent,
    plain,
    shorten,
    signed,
    text,
    wilson,
)

WIDE, NARROW = 1040, 350
SHADES = 10
ENDS = ("stopped", "taken", "timed_out")


def both(draw: Callable[[float], str]) -> str:
    """Return a drawing for a wide page and one for a narrow page; the style sheet shows the one that fits."""
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


class Rows:
    """Rows of a chart lying down: name left and value right on a wide page, both above the row on a narrow one."""

    def __init__(self, width: float, count: int, height: float, values: float = 190):
        self.wide = width > 500
        self.start, self.end = (190, width - values) if self.wide else (10, width - 10)
        self.row = height if self.wide else height + 20
        self.canvas = Canvas(width, count * self.row + 48)
        self.bottom = count * self.row + 8

    def head(self, n: int, name: str, value: str) -> float:
        """Write a row's name and value; return where the middle of its marks goes."""
        top = 4 + n * self.row
        middle = top + self.row / 2 + (0 if self.wide else 10)
        at = middle + 4 if self.wide else top + 12
        self.canvas.write(0 if self.wide else self.start, at, shorten(name, 26 if self.wide else 20), "name")
        self.canvas.write(self.canvas.width if self.wide else self.end, at, value, "value", "end")
        return middle


def excess_chart(rules: dict[str, dict], trades: int | None) -> str:
    """Draw what each rule changed in excess of matched random exits, and what this sample could have seen at all."""
    caption = "<b>Mean ΔR in excess of matched random exits</b>"
    known = [member(rule, "excess_r", "mean") for rule in rules.values()]
    ends = [end for rule in rules.values() for end in bounds(member(rule, "excess_r", "ci95")) or ()]
    floors = [abs(floor) for rule in rules.values() if (floor := plain(rule.get("minimum_detectable_r"))) is not None]
    values = [value for value in map(plain, known) if value is not None]
    if not values:
        return empty(caption, "The excess over matched random exits is not known for any rule.")
    span = spread([*values, *ends, *floors, *(-floor for floor in floors)], 0.0)

    def draw(width: float) -> str:
        rows = Rows(width, len(rules), 30)
        scale = Scale(*span, rows.start, rows.end)
        ticks = steps(*span, 7 if rows.wide else 4)
        axis_below(rows.canvas, scale, rows.bottom, ticks, labels(ticks, sign=True), "R a trade", top=4)
        rows.canvas.line(scale(0), 4, scale(0), rows.bottom, "zero")
        for n, (name, rule) in enumerate(rules.items()):
            mean, ci, floor = (
                plain(member(rule, "excess_r", "mean")),
                bounds(member(rule, "excess_r", "ci95")),
                plain(rule.get("minimum_detectable_r")),
            )
            shown = UNKNOWN if mean is None else f"{signed(mean)} {interval(ci)}"
            y = rows.head(n, name, shown)
            if floor is not None:
                rows.canvas.rect(
                    scale(-abs(floor)),
                    y - 8,
                    scale(abs(floor)),
                    y + 8,
                    "band",
                    f"{name}: an effect inside ±{number(floor, 3)} R would most likely not be seen",
                )
            if mean is not None:
                judged = judgement(rule, trades)[1]
                style = judged if judged in ("better", "worse") else "neutral-strong"
                if ci:
                    rows.canvas.whisker(scale(ci[0]), scale(ci[1]), y, f"whisker stroke-{style}")
                rows.canvas.dot(scale(mean), y, 4.5, f"mark {style}", f"{name}: {shown} R")
        return rows.canvas.svg("excess", "mean change in R in excess of matched random exits, by rule")

    note = (
        "Dot and line: mean and 95% interval. Shaded: effects too small for this sample to see (minimum detectable "
        "effect, 80% power)."
    )
    return figure(both(draw), caption, note)


def saved_chart(rules: dict[str, dict], trades: int | None) -> str:
    """Draw the shares saved and harmed back to back with 95% Wilson intervals."""
    caption = "<b>Saved against harmed, share of all trades</b>"
    shares = [wilson(rule.get(key), trades) for rule in rules.values() for key in ("saved", "harmed")]
    if not any(shares):
        return empty(caption, "Neither saved nor harmed trades are known.")
    most = max(0.02, *(ci[1] for ci in shares if ci)) * 1.08

    def draw(width: float) -> str:
        rows = Rows(width, len(rules), 32)
        scale = Scale(-most, most, rows.start, rows.end)
        ticks = steps(-most, most, 8 if rows.wide else 4)
        axis_below(
            rows.canvas,
            scale,
            rows.bottom,
            ticks,
            [f"{abs(tick):.3g}%" for tick in (100 * tick for tick in ticks)],
            "← harmed · share of all trades · saved →",
            top=4,
        )
        for n, (name, rule) in enumerate(rules.items()):
            y = rows.head(n, name, f"{count(rule.get('harmed'))} harmed, {count(rule.get('saved'))} saved")
            for key, side, style in (("harmed", -1, "worse"), ("saved", 1, "better")):
                found, ci = plain(rule.get(key)), wilson(rule.get(key), trades)
                if found is None or ci is None:
                    continue
                tip = (
                    f"{name}: {count(found)} of {count(trades)} {key}, {percent(found / trades)} [{percent(ci[0])}, "
                    f"{percent(ci[1])}]"
                )
                rows.canvas.rect(scale(0), y - 8, scale(side * found / trades), y + 8, f"mark {style}", tip)
                rows.canvas.whisker(scale(side * ci[0]), scale(side * ci[1]), y)
        rows.canvas.line(scale(0), 4, scale(0), rows.bottom, "zero")
        return rows.canvas.svg("saved", "shares of all trades saved and harmed, by rule")

    note = (
        "Lines: 95% Wilson intervals. A longer right side proves nothing by itself: a rule that fires under water "
        "saves often and harms seldom "
        "even where nothing can be predicted."
    )
    return figure(both(draw), caption, note)


def mix(rule: dict, trades: int | None) -> str:
    """Draw what became of the trades a rule acted on as one bar."""
    parts = [
        ("saved", "better"),
        ("improved", "better-soft"),
        ("neutral", "neutral"),
        ("too_late", "late"),
        ("harmed", "worse"),
    ]
    values = [(key, style, plain(rule.get(key)) or 0.0) for key, style in parts]
    total = sum(value for _, _, value in values)
    if not total or not trades:
        return ""
    canvas, x = Canvas(500, 10), 0.0
    for key, style, value in values:
        if value:
            canvas.rect(x, 0, x + 500 * value / total, 10, f"mark {style}", f"{key.replace('_', ' ')}: {count(value)}")
            x += 500 * value / total
    return canvas.svg("mix", "what became of the trades this rule acted on", "mix", ' preserveAspectRatio="none"')


def worth_chart(attribution: dict, names: list[str]) -> str:
    """Draw what each rule is worth alone, at the margin and as a fair share."""
    caption = "<b>Worth of each rule, total R</b>"
    kinds = (
        ("solo", "alone", "tone-a"),
        ("leave_one_out", "lost without it", "tone-b"),
        ("shapley", "fair share (Shapley)", "tone-c"),
    )
    values = [
        value for key, _, _ in kinds for name in names if (value := plain(member(attribution, key, name))) is not None
    ]
    if not values:
        return empty(caption, "Attribution is not known.")
    span = spread(values, 0.0)

    def draw(width: float) -> str:
        rows = Rows(width, len(names), 44, values=20)
        room = 46
        scale = Scale(*span, rows.start + (room if span[0] < 0 else 0), rows.end - room)
        ticks = steps(*span, 7 if rows.wide else 4)
        axis_below(rows.canvas, scale, rows.bottom, ticks, labels(ticks, sign=True), "total R over all trades", top=4)
        for n, name in enumerate(names):
            y = rows.head(n, name, "")
            for k, (key, words, style) in enumerate(kinds):
                value = plain(member(attribution, key, name))
                if value is None:
                    continue
                middle = y + (k - 1) * 12
                rows.canvas.rect(
                    scale(0),
                    middle - 4.5,
                    scale(value),
                    middle + 4.5,
                    f"mark {style}",
                    f"{name}, {words}: {signed(value, 2)} R",
                )
                side = -1 if value < 0 else 1
                rows.canvas.write(
                    scale(value) + 4 * side, middle + 4, signed(value, 1), "value small", "end" if side < 0 else "start"
                )
        rows.canvas.line(scale(0), 4, scale(0), rows.bottom, "zero")
        return rows.canvas.svg("worth", "total R of each rule: alone, lost without it, fair share")

    key = '<p class="key">' + " ".join(f'<i class="{style}"></i>{words}' for _, words, style in kinds) + "</p>"
    return figure(
        key + both(draw),
        caption,
        "Negative worth is shown as it is. Shapley shares add up to what all rules together changed.",
    )


def displaced_chart(displaced: dict, names: list[str]) -> str:
    """Draw each rule's total split by what would have ended the trade instead."""
    caption = "<b>What each rule displaced, total R</b>"
    table = {
        name: {what: value for what, raw in (displaced.get(name) or {}).items() if (value := plain(raw))}
        for name in names
    }
    kinds = list(dict.fromkeys(what for parts in table.values() for what in parts))
    if not kinds:
        return empty(caption, "What the rules displaced is not known.")
    kinds.sort(key=lambda what: (ENDS.index(what) if what in ENDS else len(ENDS), what))
    tone = {what: min(n, SHADES - 1) for n, what in enumerate(kinds)}
    span = spread(
        [sum(v for v in parts.values() if (v > 0) == up) for parts in table.values() for up in (True, False)], 0.0
    )

    def draw(width: float) -> str:
        rows = Rows(width, len(names), 28, values=110)
        scale = Scale(*span, rows.start, rows.end)
        ticks = steps(*span, 7 if rows.wide else 4)
        axis_below(
            rows.canvas,
            scale,
            rows.bottom,
            ticks,
            labels(ticks, sign=True),
            "total R, by what would have ended the trade",
            top=4,
        )
        for n, name in enumerate(names):
            y = rows.head(n, name, f"{signed(sum(table[name].values()), 1)} R" if table[name] else UNKNOWN)
            reached = {True: 0.0, False: 0.0}
            for what, value in sorted(table[name].items(), key=lambda item: kinds.index(item[0])):
                start = reached[value > 0]
                reached[value > 0] = start + value
                rows.canvas.rect(
                    scale(start),
                    y - 8,
                    scale(start + value),
                    y + 8,
                    f"mark part shade-{tone[what]}",
                    f"{name} in place of {what}: {signed(value, 2)} R",
                )
        rows.canvas.line(scale(0), 4, scale(0), rows.bottom, "zero")
        return rows.canvas.svg("displaced", "total R of each rule by what it displaced")

    key = (
        '<p class="key">'
        + " ".join(f'<i class="shade-{tone[what]}"></i>{text(what.replace("_", " "))}' for what in kinds)
        + "</p>"
    )
    return figure(
        key + both(draw),
        caption,
        "In the company of the other rules. Right of zero: better than what would have ended the trade; left: worse.",
    )
