"""Exit rules: one plain file each. The file name is the rule name; adding a rule is adding a file.

A rule file has

- a docstring: why, source, blind spots;
- `Params`, a frozen dataclass of numbers with defaults, checked in `__post_init__`;
- optionally `PRESETS`, a dict of named `Params`; the first is the default;
- `State`, a dataclass of numbers whose defaults are the state at entry; the engine resets to them. What a rule acted on
  belongs here: the first eight fields are stored with each decision as its evidence;
- `on_event(params, state, market, position)`, called at every whole event while a position is open. It returns
  HOLD 0, ALERT 1, TIGHTEN 2, PARTIAL 3 or CLOSE 4.

- optionally `nearness(params, state, market, position)`, for the screen of a live run only: below 1 while the rule holds, the
  least share of what its conditions need (0 or less is far), 1 or more when they are met (it may still wait out its dwell), NaN
  when that is not known. It changes nothing, and no decision depends on it.

Reserved names in State: `stop_ticks`, the stop a TIGHTEN asks for, in broker ticks; `share`, the part of the initial volume a
PARTIAL closes (0.5 when absent); `occasion`, a number naming what the vote is about: one occasion acts once, and 0 means
"follows the price", so a TIGHTEN may move again.

What a rule may read is `engine/kernel/market.py`: `market` (signed features, basis points, NaN or MISSING when not known) and
`position` (`side` is +1 long, -1 short; `gain_r` is the open result in initial risks). Multiply a signed feature by
`position.side`: positive then supports the position. Comparisons with NaN are false, so write conditions that must hold.

Plain Python: numbers, `if`, `while`, `for range`, `math`. No numba, no numpy, no engine import, no clock, no random numbers.
"""
