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


def account(data: Path, login: int = 5001, server: str = "Demo", symbols: tuple[str, ...] = ("BTC",), **sizes) -> Account:
    shown = {"login": "5***1", "id": fingerprint(data, server, login), "server": server,
             "contracts": {f"{name}USD": sizes.get("contract", "1") for name in symbols}}
    made = {f"{name}USD": Instrument(f"{name}USD", "mt5", sizes.get("tick", "0.01"), sizes.get("lot", "0.01"), 2, 2, "venue", f"{name}USDT")
            for name in symbols}
    return Account(login, shown, made, {})


def options(rules: str = "whale=act,void=shadow", changes: tuple[str, ...] = (), trades: str = "trade", **more) -> LiveOptions:
    given = dict(account=5001, limits_set=REQUIRED, limits=Limits(symbols=frozenset({"BTCUSD"}))) | more
    return LiveOptions("act", Options(LIVE["binance_usdm"], ["BTCUSDT"], trades=trades), choose(find_rules(), rules, list(changes)),
                       Terminal(), {}, **given)


def asked(rules: str = "whale", seconds: int = 20, decisions: int = 1, symbol: str = "BTCUSDT") -> dict:
    return {symbol: {rule: {"seconds": seconds, "decisions": decisions} for rule in rules.split(",")}}


def shadowed(data: Path, who: Account, kernel: str = KERNEL, mode: str = "shadow", identical: bool = True,
             found: dict | None = None, pair: str = "", name: str = "live-shadow-1", **more) -> Path:
    """Leave a run and its verification under a data root."""
    folder = data / "runs" / name
    folder.mkdir(parents=True)
    made = options(**more)
    made.mode = mode
    live = described(made, folder.name, "s", Path(kernel), who.shown, 1)
    live["instruments"] = [i.as_dict() | ({"pair": pair} if pair else {}) for i in who.instruments.values()]
    (folder / "live.json").write_text(json.dumps(live))
    (folder / "verify.json").write_text(json.dumps({"identical": identical, "asked": asked() if found is None else found}))
    return folder


def test_a_verified_shadow_run_of_the_same_admits(tmp_path):
    who = account(tmp_path)
    shadowed(tmp_path, who, rules="all=shadow", found=asked("whale,void"))
    assert admit(options(), who, KERNEL, tmp_path) == {"whale", "void"}, "what decided on nothing yet may not be switched to act"


@pytest.mark.parametrize(("seconds", "admitted"), [(599, False), (600, True)])
def test_a_rule_that_never_decided_is_proven_by_ten_minutes_with_a_position(tmp_path, seconds, admitted):
    who = account(tmp_path)
    shadowed(tmp_path, who, rules="whale=shadow,void=shadow", found=asked("whale", seconds, 0))
    if admitted:
        assert admit(options(), who, KERNEL, tmp_path) == {"whale"}
    else:
        with pytest.raises(BadInput, match="was verified that shows whale on BTCUSDT; run tapeguard live"):
            admit(options(), who, KERNEL, tmp_path)


def test_runs_prove_together_what_each_shows(tmp_path):
    who = account(tmp_path)
    shadowed(tmp_path, who, rules="whale=shadow")
    with pytest.raises(BadInput, match="shows void on BTCUSDT; run"):
        admit(options("whale=act,void=act"), who, KERNEL, tmp_path)
    shadowed(tmp_path, who, rules="void=shadow", found=asked("void"), name="live-shadow-2")
    assert admit(options("whale=act,void=act"), who, KERNEL, tmp_path) == {"whale", "void"}


def test_a_position_of_one_symbol_proves_nothing_for_another(tmp_path):
    both = account(tmp_path, symbols=("BTC", "ETH"))
    shadowed(tmp_path, both, rules="all=shadow", found=asked("whale,void") | asked("void", symbol="ETHUSDT"))
    with pytest.raises(BadInput, match="shows whale on ETHUSDT; run tapeguard live --mode shadow with a position of each symbol open"):
        admit(options(), both, KERNEL, tmp_path)
    assert admit(options(), account(tmp_path), KERNEL, tmp_path) == {"whale", "void"}
    assert admit(options("void=act"), both, KERNEL, tmp_path) == {"void"}


@pytest.mark.parametrize("what", [
    {"identical": False}, {"kernel": "k2"}, {"mode": "paper"}, {"rules": "whale:classic=shadow"}, {"trades": "aggTrade"},
    {"rules": "whale=shadow", "changes": ("whale.fresh_ms=1999",)}, {"pair": "ETHUSDT"}, {"found": {}},
    {"found": asked("void", 900)}, {"found": asked(symbol="ETHUSDT")}, {"found": asked(decisions=0)}])
def test_what_proves_something_else_admits_nothing(tmp_path, what):
    who = account(tmp_path)
    shadowed(tmp_path, who, **{"rules": "whale=shadow"} | what)
    with pytest.raises(BadInput, match="no shadow run of account 5.*1 with these very rules, parameters and symbols was verified"):
        admit(options(), who, KERNEL, tmp_path)


@pytest.mark.parametrize("sizes", [{"tick": "0.10"}, {"lot": "0.10"}, {"contract": "10"}])
def test_a_symbol_with_other_sizes_is_another_symbol(tmp_path, sizes):
    shadowed(tmp_path, account(tmp_path))
    assert admit(options(), account(tmp_path), KERNEL, tmp_path) == {"whale"}
    with pytest.raises(BadInput, match="shows whale on BTCUSDT"):
        admit(options(), account(tmp_path, **sizes), KERNEL, tmp_path)


@pytest.mark.parametrize(("login", "server"), [(5991, "Demo"), (5001, "Live")])
def test_another_account_with_the_same_mask_is_another_account(tmp_path, login, server):
    shadowed(tmp_path, account(tmp_path), rules="all=shadow")
    assert proof(options(), account(tmp_path), KERNEL, tmp_path) == {"BTCUSDT": {"whale"}}
    assert proof(options(), account(tmp_path, login, server), KERNEL, tmp_path) == {"BTCUSDT": set()}


def test_a_damaged_proof_is_no_proof(tmp_path):
    who = account(tmp_path)
    folder = shadowed(tmp_path, who, rules="all=shadow")
    for text in ("", "{}", "[]", '{"identical": "yes"}', "null", '{"identical": true}', '{"identical": true, "asked": [1]}',
                 '{"identical": true, "asked": {"BTCUSDT": {"whale": 3}}}'):
        (folder / "verify.json").write_text(text)
        assert proof(options(), who, KERNEL, tmp_path) == {"BTCUSDT": set()}


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
