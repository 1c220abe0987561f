"""The tables of the report: outcomes over all trades, the numbers in R, and how rules work together."""

from engine.report.words import (
    UNKNOWN,
    bounds,
    count,
    duration,
    interval,
    member,
    number,
    percent,
    plain,
    probability,
    signed,
    text,
    wilson,
)

OUTCOMES = (
    ("fired", "fired", ""),
    ("saved", "saved", "better"),
    ("turned", "of which turned", "sub"),
    ("improved", "improved", "better-soft"),
    ("harmed", "harmed", "worse"),
    ("cut_winner", "cut winner", "sub"),
    ("flipped", "flipped", "sub"),
    ("worsened", "worsened", "sub"),
    ("neutral", "neutral", ""),
    ("too_late", "too late", ""),
    ("not_fired", "not fired", ""),
)


def unknown(words: str) -> str:
    """Mark an unknown value as such; other values pass."""
    return words.replace(UNKNOWN, f'<span class="unknown">{UNKNOWN}</span>')


def _table(name: str, head: list[str], rows: list[tuple[int | None, str, list[str]]]) -> str:
    columns = "".join(f'<th scope="col">{column}</th>' for column in head)
    body = "".join(
        f'<tr{"" if rule is None else f" data-rule={chr(34)}{rule}{chr(34)}"}><th scope="row">{title}</th>'
        f"{''.join(f'<td>{unknown(cell)}</td>' for cell in cells)}</tr>"
        for rule, title, cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _share(found: object, trades: int | None) -> str:
    known, ci = plain(found), wilson(found, trades)
    if known is None:
        return UNKNOWN
    below = (
        f"<small>{percent(known / trades)}</small><small>[{number(100 * ci[0], 1)}, {number(100 * ci[1], 1)}]</small>"
        if ci
        else ""
    )
    return f"{count(known)}{below}"


def outcome_table(rules: dict[str, dict], trades: int | None) -> str:
    """Show what became of every trade, with shares of all trades and their Wilson intervals."""
    head = [
        "rule",
        *(
            f'<span class="whole"><span class="swatch {style}"></span>{words}</span>'
            if style not in ("", "sub")
            else f'<span class="{style}">{words}</span>'
            for _, words, style in OUTCOMES
        ),
    ]
    rows = [
        (n, text(name), [_share(rule.get(key), trades) for key, _, _ in OUTCOMES])
        for n, (name, rule) in enumerate(rules.items())
    ]
    return _table("outcomes of all trades", head, rows)


def _change(value: object, write) -> str:
    """Write a {"before", "after"} pair, or a single number."""
    if isinstance(value, dict):
        before, after = (plain(value.get(key)) for key in ("before", "after"))
        return UNKNOWN if before is None and after is None else f"{write(before)} → {write(after)}"
    return write(value)


def _shift(value: object) -> str:
    if not isinstance(value, dict):
        return UNKNOWN
    if plain(value.get("mean")) is None:
        return "not run" if value.get("reason") else UNKNOWN
    most = f"<small>at most {signed(value['max'])}</small>" if plain(value.get("max")) is not None else ""
    shifts = f"<small>shifts: {count(value['shifts'])}</small>" if plain(value.get("shifts")) is not None else ""
    return signed(value["mean"]) + most + shifts


def _mean(value: object, digits: int = 3) -> str:
    """Write a mean with its interval and p beneath."""
    if plain(member(value, "mean")) is None:
        return UNKNOWN
    ci = f"<small>{interval(value['ci95'], digits)}</small>" if "ci95" in value else ""
    p = f"<small>p {probability(value['p'])}</small>" if "p" in value else ""
    holm = f"<small>Holm {probability(value['p_holm'])}</small>" if "p_holm" in value else ""
    return f"{signed(value['mean'], digits)}{ci}{p}{holm}"


def effect_table(rules: dict[str, dict]) -> str:
    """Show what each rule changed and what it is compared with, R a trade unless the column says otherwise."""
    head = [
        "rule",
        "mean ΔR",
        "matched random exits",
        "excess",
        "against matched moments",
        "net saved, beyond matched moments",
        "against price-only twin",
        "flow shifted in time",
        "stale-quote part",
        "least effect seen",
    ]
    rows = [
        (
            n,
            text(name),
            [
                _mean(rule.get("delta_r")) + f"<small>total {signed(member(rule, 'delta_r', 'total'), 1)}</small>",
                signed(member(rule, "placebo_r", "mean")),
                _mean(rule.get("excess_r")),
                _mean(rule.get("matched_r")),
                _mean(rule.get("count_excess")),
                _mean(rule.get("twin_r")),
                _shift(rule.get("time_shift")),
                signed(rule.get("stale_quote_r")),
                number(rule.get("minimum_detectable_r"), 3),
            ],
        )
        for n, (name, rule) in enumerate(rules.items())
    ]
    return _table("change in R and what it is compared with", head, rows)


def trader_table(rules: dict[str, dict]) -> str:
    """Show the measures a trader asks for, before and after."""
    head = [
        "rule",
        "fires that helped",
        "false exits",
        "win rate",
        "worst 5%, mean R",
        "deepest fall, R",
        "share of best result kept",
        "out before the baseline",
    ]
    rows = []
    for n, (name, rule) in enumerate(rules.items()):
        quarters = bounds(member(rule, "lead_s", "iqr"))
        lead = duration(member(rule, "lead_s", "median"))
        rows.append(
            (
                n,
                text(name),
                [
                    percent(rule.get("precision")),
                    percent(rule.get("false_exit_rate")),
                    _change(rule.get("win_rate"), percent),
                    _change(rule.get("es5_r"), lambda v: number(v, 2)),
                    _change(rule.get("max_drawdown_r"), lambda v: number(v, 1)),
                    _change(rule.get("mfe_capture"), percent),
                    lead + (f"<small>[{duration(quarters[0])}, {duration(quarters[1])}]</small>" if quarters else ""),
                ],
            )
        )
    return _table("before and after", head, rows)


def interaction_table(attribution: dict, names: list[str]) -> str:
    """Show how much two rules are worth together beyond their shares, in total R, shaded by size."""
    matrix = attribution.get("interaction")
    if (
        not isinstance(matrix, list)
        or len(matrix) != len(names)
        or not all(isinstance(row, list) and len(row) == len(names) for row in matrix)
    ):
        return '<p class="empty">How the rules work together is not known.</p>'
    cells = [[plain(value) for value in row] for row in matrix]
    largest = max(
        (abs(value) for a, row in enumerate(cells) for b, value in enumerate(row) if value is not None and a != b),
        default=0.0,
    )
    rows = []
    for a, row in enumerate(cells):
        line = []
        for b, value in enumerate(row):
            if a == b:
                line.append('<td class="heat self">·</td>')
            elif value is None:
                line.append(f'<td class="heat"><span class="unknown">{UNKNOWN}</span></td>')
            else:
                side = "up" if value > 0 else "down"
                strength = 0.0 if not largest else 0.55 * abs(value) / largest
                line.append(f'<td class="heat {side}" style="--strength:{100 * strength:.0f}%">{signed(value, 1)}</td>')
        rows.append(f'<tr><th scope="row">{a + 1}. {text(names[a])}</th>{"".join(line)}</tr>')
    head = "".join(f'<th scope="col" title="{text(name)}">{n + 1}</th>' for n, name in enumerate(names))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="interaction of rules"><table '
        'class="matrix"><thead><tr><th scope="col">R</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def calibration_table(bins: list[dict]) -> str:
    """Return what was predicted and what came of it, by size of the score."""
    rows = []
    for item in bins:
        low, high = wilson(item["right"], item["n"])
        observed = percent(item["right"] / item["n"])
        observed += f"<small>[{number(100 * low, 1)}, {number(100 * high, 1)}]</small>"
        right = f"{count(item['right'])} of {count(item['n'])}"
        rows.append((None, f"{item['from']:g} to {item['to']:g}", [right, percent(item["predicted"]), observed]))
    return _table("calls by size of the score", ["score, size", "right calls", "predicted", "observed"], rows)
