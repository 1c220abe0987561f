"""What must be true before a live run may send an order, and the sentence for each thing that is not."""

import json
from importlib import metadata
from pathlib import Path

from engine.errors import BadInput
from engine.live.commands import kill_file
from engine.live.options import LiveOptions
from engine.live.terminal import Account
from engine.rules import Choice, params_dict
from engine.runlog import runs_folder

REQUIRED = ("actions_per_minute", "actions_per_day", "max_share")
PROVING = ("shadow", "act")
LEAST_S = 600.0                # a rule that was asked so long on a position, with all feeds well, is proven without a decision
SIZES = ("tick_size", "lot_size", "pair")


def admit(options: LiveOptions, account: Account, kernel: str, data: Path) -> set[str]:
    """Return the rules that may act in this run; raise BadInput with every reason why it may not."""
    missing = lacking(options, data)
    found, acting = proof(options, account, kernel, data), {choice.rule.name for choice in options.choices if choice.mode == "act"}
    unproven = [f"{', '.join(sorted(acting - rules))} on {symbol}" for symbol, rules in found.items() if acting - rules]
    if unproven or not any(found.values()):
        shows = f" that shows {' and '.join(unproven)}" if unproven else ""
        missing.append(f"no shadow run of account {account.shown['login']} with these very rules, parameters and symbols was verified"
                       f"{shows}; run tapeguard live --mode shadow with a position of each symbol open, until each rule that is to act "
                       f"decided on it or for {LEAST_S / 60:.0f} minutes with all feeds well, then tapeguard verify")
    refuse(missing)
    return set.intersection(*found.values())


def lacking(options: LiveOptions, data: Path) -> list[str]:
    """Return what act lacks that can be told before the terminal is reached."""
    missing = []
    if options.account is None:
        missing.append("the account number was not typed (--account NUMBER)")
    absent = [name.replace("_", "-") for name in REQUIRED if name not in options.limits_set]
    if absent:
        missing.append(f"these limits are not set: --{', --'.join(absent)}")
    if kill_file(data).exists():
        missing.append(f"the kill switch is on; tapeguard kill --lift takes {kill_file(data)} away")
    if not any(choice.mode == "act" for choice in options.choices):
        missing.append("no rule has the mode act (--rules whale=act)")
    return missing


def refuse(missing: list[str]) -> None:
    """Raise BadInput with every reason there is."""
    if missing:
        raise BadInput("act is refused: " + "; ".join(missing))


def proof(options: LiveOptions, account: Account, kernel: str, data: Path) -> dict[str, set[str]]:
    """Return by venue symbol the rules whose parity verified runs prove for this kernel, account and market."""
    found = {instrument.pair: set() for instrument in account.instruments.values()}
    for path in runs_folder(data).glob("*/verify.json"):
        try:
            live, verified = (json.loads((path.parent / name).read_text(encoding="utf-8")) for name in ("live.json", "verify.json"))
            if verified["identical"] is not True or not _same(live, options, account, kernel):
                continue
            for name, instrument in account.instruments.items():
                if _traded(live, name) == (*(getattr(instrument, size) for size in SIZES), account.shown["contracts"][name]):
                    asked = verified["asked"].get(instrument.pair, {})
                    found[instrument.pair] |= {choice.rule.name for choice in options.choices if _shown(live, asked, choice)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _same(live: dict, options: LiveOptions, account: Account, kernel: str) -> bool:
    """Tell whether a run was of this code, account and market."""
    recording = options.recording
    return live["mode"] in PROVING and live["kernel"] == kernel and live["versions"]["tapeguard"] == metadata.version("tapeguard") \
        and live["account"]["id"] == account.shown["id"] and (live["venue"], live["stream"]) == (recording.endpoint.venue, recording.trades)


def _traded(live: dict, name: str) -> tuple | None:
    """Return what a run wrote down of a broker symbol, None where it had none of this name."""
    row = next((row for row in live["instruments"] if (row["venue"], row["symbol"]) == ("mt5", name)), None)
    return row and (*(row[size] for size in SIZES), live["account"]["contracts"][name])


def _shown(live: dict, asked: dict, choice: Choice) -> bool:
    """Tell whether a rule with these parameters decided on a position, or was asked long enough."""
    seen = asked.get(choice.rule.name)
    return seen is not None and live["rules"][choice.rule.name]["params"] == params_dict(choice) \
        and (seen["decisions"] > 0 or seen["seconds"] >= LEAST_S)
