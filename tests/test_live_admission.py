"""What a run needs before it may act: each thing that is missing is named, and a proof is of this account, kernel and parameters."""

import json
from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.gateway.orders import Limits
from engine.instruments import Instrument
from engine.live.admission import REQUIRED, admit, proof
from engine.live.commands import kill_file
from engine.live.options import LiveOptions, Terminal, described
from engine.live.terminal import Account, fingerprint
from engine.record.recorder import Options
from engine.rules import choose, find_rules
from engine.sources.binance import LIVE

KERNEL = "k1"


def account(data: Path, login: int = 5001, server: str = "Demo") -> Account:
    shown = {"login": "5***1", "id": fingerprint(data, server, login), "server": server}
    return Account(login, shown, {"BTCUSD": Instrument("BTCUSD", "mt5", "0.01", "0.01", 2, 2, "venue", "BTCUSDT")}, {})


def options(rules: str = "whale=act,void=shadow", changes: tuple[str, ...] = (), **more) -> LiveOptions:
    given = dict(account=5001, limits_set=REQUIRED, limits=Limits(symbols=frozenset({"BTCUSD"}))) | more
    return LiveOptions("act", Options(LIVE["binance_usdm"], ["BTCUSDT"]), choose(find_rules(), rules, list(changes)), Terminal(), {}, **given)


def shadowed(data: Path, who: Account, kernel: str = KERNEL, mode: str = "shadow", identical: bool = True,
             found: dict | None = None, pair: str = "BTCUSDT", **more) -> Path:
    """Leave a run and its verification under a data root."""
    found, folder = found or {}, data / "runs" / "live-shadow-1"
    folder.mkdir(parents=True)
    made = options(**more)
    made.mode = mode
    live = described(made, folder.name, "s", Path(kernel), who.shown, 1)
    live["instruments"] = [i.as_dict() | {"pair": pair} for i in who.instruments.values()]
    (folder / "live.json").write_text(json.dumps(live))
    (folder / "verify.json").write_text(json.dumps({"identical": identical, "positions": 1, "compared": 3, "seconds": 20.0} | found))
    return folder


def test_a_verified_shadow_run_of_the_same_admits(tmp_path):
    who = account(tmp_path)
    shadowed(tmp_path, who, rules="all=shadow")
    assert admit(options(), who, KERNEL, tmp_path) >= {"whale", "void", "divergence"}


def test_only_what_was_asked_in_shadow_may_act_later(tmp_path):
    who = account(tmp_path)
    shadowed(tmp_path, who, rules="whale=shadow,void=alert", found={"compared": 0, "seconds": 700.0})
    assert admit(options(), who, KERNEL, tmp_path) == {"whale"}, "a quiet run of ten minutes with a position will do"


@pytest.mark.parametrize("what", [
    {"identical": False}, {"kernel": "k2"}, {"mode": "paper"}, {"rules": "whale=off,void=shadow"}, {"rules": "whale=alert"},
    {"rules": "whale:classic=shadow"}, {"rules": "whale=shadow", "changes": ("whale.fresh_ms=1999",)},
    {"pair": "ETHUSDT"}, {"found": {"positions": 0}}, {"found": {"compared": 0}}])
def test_what_proves_something_else_admits_nothing(tmp_path, what):
    who = account(tmp_path)
    shadowed(tmp_path, who, **{"rules": "whale=shadow"} | what)
    with pytest.raises(BadInput, match="no shadow run of account 5.*1 with these very rules and parameters was verified"):
        admit(options(), who, KERNEL, tmp_path)


@pytest.mark.parametrize(("login", "server"), [(5991, "Demo"), (5001, "Live")])
def test_another_account_with_the_same_mask_is_another_account(tmp_path, login, server):
    shadowed(tmp_path, account(tmp_path), rules="all=shadow")
    assert "whale" in proof(options(), account(tmp_path), KERNEL, tmp_path)
    assert proof(options(), account(tmp_path, login, server), KERNEL, tmp_path) is None


def test_a_damaged_proof_is_no_proof(tmp_path):
    who = account(tmp_path)
    folder = shadowed(tmp_path, who, rules="all=shadow")
    for text in ("", "{}", "[]", '{"identical": "yes"}', "null"):
        (folder / "verify.json").write_text(text)
        assert proof(options(), who, KERNEL, tmp_path) is None


def test_every_missing_thing_is_named(tmp_path):
    who = account(tmp_path)
    kill_file(tmp_path).write_text("")
    with pytest.raises(BadInput) as refused:
        admit(options("whale=shadow", account=None, limits_set=("max_share",)), who, KERNEL, tmp_path)
    for part in ("account number was not typed", "--actions-per-minute, --actions-per-day", "no shadow run", "kill switch is on", "no rule has the mode act"):
        assert part in str(refused.value)
    assert "max-share" not in str(refused.value)


def test_the_number_of_an_account_cannot_be_read_from_what_is_kept(tmp_path):
    first, other = fingerprint(tmp_path, "Demo", 5001), fingerprint(tmp_path / "other", "Demo", 5001)
    assert first == fingerprint(tmp_path, "Demo", 5001) != other, "every data root has a salt of its own"
    assert (tmp_path / "live" / "salt").stat().st_mode & 0o077 == 0
