"""What must be true before a live run may send an order, and the sentence for each thing that is not."""

import json
from pathlib import Path

from engine.errors import BadInput
from engine.live.commands import kill_file
from engine.live.options import LiveOptions
from engine.live.terminal import Account
from engine.runlog import runs_folder

REQUIRED = ("actions_per_minute", "actions_per_day", "max_share")
PROVING = ("shadow", "act")


def admit(options: LiveOptions, account: Account, kernel: str, data: Path) -> None:
    """Raise BadInput with every reason why this run may not act."""
    missing = []
    if options.account is None:
        missing.append("the account number was not typed (--account NUMBER)")
    absent = [name.replace("_", "-") for name in REQUIRED if name not in options.limits_set]
    if absent:
        missing.append(f"these limits are not set: --{', --'.join(absent)}")
    if proof(account.shown, kernel, set(account.instruments), data) is None:
        missing.append(f"no shadow run of this account with these very rules was verified; run tapeguard live --mode shadow on "
                       f"{account.shown['login']} for a while, then tapeguard verify RUN")
    if kill_file(data).exists():
        missing.append(f"the kill switch is on; tapeguard kill --lift takes {kill_file(data)} away")
    if not any(choice.mode == "act" for choice in options.choices):
        missing.append("no rule has the mode act (--rules whale=act)")
    if missing:
        raise BadInput("act is refused: " + "; ".join(missing))


def proof(account: dict, kernel: str, symbols: set[str], data: Path) -> str | None:
    """Return the run that proves the parity of this kernel on this account, None where there is none."""
    for path in sorted(runs_folder(data).glob("*/verify.json"), reverse=True):
        try:
            live, found = (json.loads((path.parent / name).read_text(encoding="utf-8")) for name in ("live.json", "verify.json"))
        except (OSError, ValueError):
            continue
        same = all(live.get("account", {}).get(key) == account[key] for key in ("login", "server"))
        if same and live.get("mode") in PROVING and live.get("kernel") == kernel and found.get("identical") is True \
                and symbols <= set(live.get("limits", {}).get("symbols", ())):
            return live["run"]
    return None
