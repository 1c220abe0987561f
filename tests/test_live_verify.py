"""The kernel a live run is held against has the parameters of the run for every rule, also for one that was off at the start."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.gateway.orders import Limits
from engine.live.options import LiveOptions, Terminal, described
from engine.live.verify import LiveRun
from engine.record.recorder import Options
from engine.rules import choose, find_rules, params_dict
from engine.sources.binance import LIVE


@pytest.mark.parametrize(("rules", "changes"), [
    ("whale:classic=off,void=shadow", ["whale.fresh_ms=1999"]), ("all=off", ["whale.fresh_ms=1999"]), ("none", []), ("all:classic=act", [])])
def test_every_rule_is_replayed_with_the_parameters_it_had(tmp_path, linked, rules, changes):
    run = linked()
    (tmp_path / "kernel").symlink_to(run.folder)
    choices = choose(find_rules(), rules, changes)
    options = LiveOptions("shadow", Options(LIVE["binance_usdm"], ["BTCUSDT"]), choices, Terminal(), {}, limits=Limits())
    live = described(options, "r", "s", Path("k"), {}, 1) | {"instruments": []}
    again = LiveRun(tmp_path, live, SimpleNamespace()).choices
    assert [(each.rule.name, each.preset, params_dict(each)) for each in again] == [
        (each.rule.name, each.preset, params_dict(each)) for each in choices]
    assert [each.mode for each in again] == [live["rules"][each.rule.name]["mode"] for each in choices]
