"""Drawing in SVG: scales, ticks, axes and marks. Lengths are in SVG units, about one pixel on the page."""

import math
from dataclasses import dataclass

import numpy as np

from engine.report.words import number, text

MOST = 1e150
_SECONDS = {
    1e-3: "1 ms",
    1e-2: "10 ms",
    0.1: "100 ms",
    1: "1 s",
    10: "10 s",
    60: "1 min",
    600: "10 min",
    3600: "1 h",
    36_000: "10 h",
    86_400: "1 day",
    864_000: "10 days",
    8_640_000: "100 days",
}


@dataclass(frozen=True)
class Scale:
    """Maps values between low and high to positions between start and end; what lies outside is put at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log(max(x, 1e-300)) for x in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def spread(values, *always: float) -> tuple[float, float]:
    """Return a range that holds the values (0.5% at each end may be left out of many) and `always`, with some room."""
    known = np.asarray(values, float)
    known = np.clip(known[np.isfinite(known)], -MOST, MOST)
    if len(known) > 400:
        known = np.quantile(known, (0.005, 0.995))
    ends = [*known.tolist(), *np.clip(always, -MOST, MOST).tolist()] or [0.0]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.5
    return (low - room if low < 0 else low), (high + room if high > 0 or high == low else high)


def steps(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Return round values between low and high, about so many; `whole` keeps them to integers."""
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, first + 60) if n * step <= high + step * 1e-9]


def labels(ticks: list[float], unit: str = "", sign: bool = False) -> list[str]:
    """Write tick values with as many digits as their distance needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(ticks[0]) if ticks and ticks[0] else 1.0
    digits = min(6, max(0, -math.floor(math.log10(step) + 1e-9)))
    return [number(tick, digits, unit, sign) for tick in ticks]


def second_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Return ticks of a logarithmic axis of seconds, and their labels."""
    ticks = [tick for tick in _SECONDS if low * 0.999 <= tick <= high * 1.001]
    return ticks, [_SECONDS[tick] for tick in ticks]


def short(value: float) -> str:
    """Write a coordinate with one decimal, without a trailing zero."""
    return (
        f"{value:.1f}".removesuffix(".0").replace("-0", "0") if abs(value) < 0.05 else f"{value:.1f}".removesuffix(".0")
    )


class Canvas:
    """One SVG drawing under construction."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.parts: list[str] = []

    def _add(self, tag: str, attributes: str, tip: str) -> None:
        inner = f"<title>{text(tip)}</title>" if tip else ""
        self.parts.append(f"<{tag} {attributes}>{inner}</{tag}>")

    def rect(self, x0: float, y0: float, x1: float, y1: float, style: str, tip: str = "") -> None:
        """Draw a box between two corners."""
        self._add(
            "rect",
            f'class="{style}" x="{short(min(x0, x1))}" y="{short(min(y0, y1))}" '
            f'width="{short(max(abs(x1 - x0), 0.1))}" '
            f'height="{short(max(abs(y1 - y0), 0.1))}"',
            tip,
        )

    def line(self, x0: float, y0: float, x1: float, y1: float, style: str, tip: str = "") -> None:
        """Draw a straight line."""
        self._add("line", f'class="{style}" x1="{short(x0)}" y1="{short(y0)}" x2="{short(x1)}" y2="{short(y1)}"', tip)

    def path(self, xs, ys, style: str) -> None:
        """Draw a line through points."""
        self._add(
            "path",
            f'class="{style}" d="M{"L".join(f"{short(x)} {short(y)}" for x, y in zip(xs, ys, strict=True))}"',
            "",
        )

    def dots(self, xs, ys, style: str) -> None:
        """Draw many small dots as one path: lines of no length with round ends."""
        if len(xs):
            self._add(
                "path",
                f'class="{style}" d="{"".join(f"M{short(x)} {short(y)}h0" for x, y in zip(xs, ys, strict=True))}"',
                "",
            )

    def dot(self, x: float, y: float, radius: float, style: str, tip: str = "") -> None:
        """Draw one round dot."""
        self._add("circle", f'class="{style}" cx="{short(x)}" cy="{short(y)}" r="{short(radius)}"', tip)

    def whisker(self, x0: float, x1: float, y: float, style: str = "whisker") -> None:
        """Draw an interval lying down."""
        self.parts.append(
            f'<path class="{style}" d="M{short(x0)} {short(y)}H{short(x1)}M{short(x0)} {short(y - 3)}v6M{short(x1)} '
            f'{short(y - 3)}v6"/>'
        )

    def write(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """Write words at a place; anchor is start, middle or end."""
        self.parts.append(
            f'<text class="{style}" x="{short(x)}" y="{short(y)}" text-anchor="{anchor}">{text(words)}</text>'
        )

    def svg(self, name: str, title: str, style: str = "", extra: str = "") -> str:
        """Return the drawing; `name` says which chart it is, `title` is read out by a screen reader."""
        return (
            f'<svg data-chart="{name}" class="{style}" viewBox="0 0 {short(self.width)} {short(self.height)}" '
            'role="img" '
            f'aria-label="{text(title)}"{extra}><title>{text(title)}</title>{"".join(self.parts)}</svg>'
        )


def axis_below(
    canvas: Canvas, scale: Scale, y: float, ticks: list[float], names: list[str], title: str, top: float | None = None
) -> None:
    """Draw a horizontal axis with its unit; gridlines up to `top` when given."""
    for tick, name in zip(ticks, names, strict=True):
        x = scale(tick)
        canvas.line(x, y, x, y + 4 if top is None else top, "tick" if top is None else "guide")
        anchor = "start" if x < scale.start + 4 and scale.start < 12 else "end" if x > canvas.width - 16 else "middle"
        canvas.write(x, y + 15, name, "label", anchor)
    canvas.line(scale.start, y, scale.end, y, "axis")
    canvas.write((scale.start + scale.end) / 2, y + 30, title, "unit", "middle")


def axis_left(
    canvas: Canvas, scale: Scale, x0: float, x1: float, ticks: list[float], names: list[str], title: str
) -> None:
    """Draw a vertical axis: gridlines with values at their left, the unit above."""
    for tick, name in zip(ticks, names, strict=True):
        y = scale(tick)
        canvas.line(x0, y, x1, y, "guide")
        canvas.write(x0 - 6, y + 4, name, "label", "end")
    canvas.write(4, scale.end - 12, title, "unit")
