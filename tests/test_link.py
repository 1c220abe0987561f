"""The linker: what is compiled has the name of its source, and nothing else ever runs under that name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from streams import PAIR
from test_rule_files import GOOD, rules_of, selling

from engine.errors import BadInput, SourceFailed
from engine.kernel import records as R
from engine.link import KERNEL, kernels_folder, link, snapshot_hash, sources
from engine.replay import compile_loop
from engine.rules import choose, find_rules
from engine.run import Run, Settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def decisions_of(folder: Path, text: str, interpreted: bool = True) -> tuple[str, int]:
    """Return the snapshot a rule text is linked into, and how many decisions it makes."""
    choices = choose(rules_of(folder, text), "own", [])
    run = Run([PAIR], [choices], [Settings()], slots=8, interpreted=interpreted)
    with np.errstate(all="ignore"):
        return run.folder.name, len(run.feed(selling().events())[0])


def test_an_edited_rule_is_another_snapshot_and_behaves_as_edited(tmp_path):
    """In one process and under one file name: no old code under the new text, none under the old text either."""
    first = decisions_of(tmp_path / "rules", GOOD)
    edited = decisions_of(tmp_path / "rules", GOOD.replace("> params.limit", "> 0.9 + params.limit"))
    again = decisions_of(tmp_path / "rules", GOOD)
    assert first == again and first[1] > 0 and edited[0] != first[0] and edited[1] == 0


@pytest.mark.slow
def test_an_edited_rule_is_compiled_anew(tmp_path):
    first = decisions_of(tmp_path / "rules", GOOD, interpreted=False)
    edited = decisions_of(tmp_path / "rules", GOOD.replace("> params.limit", "> 0.9 + params.limit"), interpreted=False)
    assert first[1] > 0 and edited[1] == 0 and decisions_of(tmp_path / "rules", GOOD, interpreted=False) == first


def test_everything_that_is_compiled_is_in_the_name(tmp_path):
    rules = list(find_rules().values())
    texts = sources(rules)
    names = {snapshot_hash(texts)}
    for place in texts:
        names.add(snapshot_hash({**texts, place: texts[place] + "\n# edited\n"}))
    names.add(snapshot_hash(sources(rules[1:])))
    names.add(snapshot_hash({**texts, "more.py": ""}))
    assert len(names) == len(texts) + 3
    assert snapshot_hash(sources(rules)) == snapshot_hash(texts)
    own = {"votes.py", "rules/__init__.py"} | {f"rules/{rule.name}.py" for rule in rules}
    assert {path.name for path in KERNEL.glob("*.py")} | own == set(texts)


def test_the_snapshot_is_exactly_what_runs(cache, tmp_path):
    rules = [*find_rules().values(), *rules_of(tmp_path / "rules", GOOD + f"\n# {tmp_path}\n").values()]
    module, folder = link(rules)
    texts = sources(rules)
    found = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert found == texts and folder == cache / f"k{snapshot_hash(texts)}" and [path.name for path in cache.iterdir()] == [folder.name]
    assert Path(module.__file__).parent == folder and module.__name__ == f"tapeguard_{folder.name}.loop"
    for name in ("records", "market", "tape", "votes"):
        assert Path(sys.modules[f"tapeguard_{folder.name}.{name}"].__file__).parent == folder
    assert link(rules)[0] is module


def test_the_kernel_imports_itself_and_nothing_else_of_the_engine(cache):
    """A snapshot runs where there is no engine at all."""
    _, folder = link(list(find_rules().values()))
    place = f"{str(folder / '__init__.py')!r}, submodule_search_locations=[{str(folder)!r}]"
    text = (f"import sys, importlib.util as u; s = u.spec_from_file_location('k', {place});"
            "m = u.module_from_spec(s); sys.modules['k'] = m; s.loader.exec_module(m); import k.loop;"
            "print(sorted(n for n in sys.modules if n.split('.')[0] in ('engine', 'strategies')))")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("harm", ["edit", "remove"])
def test_a_snapshot_that_was_tampered_with_does_not_run(cache, harm):
    rules = list(find_rules().values())
    _, folder = link(rules)
    path = folder / "rules" / "whale.py"
    if harm == "edit":
        path.write_text(path.read_text(encoding="utf-8").replace("return action", "return 0"), encoding="utf-8")
    else:
        path.unlink()
    with pytest.raises(SourceFailed, match=r"whale\.py is not what was compiled under this name.*delete .* and run again"):
        link(rules)
    shutil.rmtree(folder)
    assert link(rules)[1] == folder


def test_two_processes_may_link_at_once(cache):
    text = "from engine.link import link; from engine.rules import find_rules; print(link(list(find_rules().values()))[1])"
    racers = [subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    folders = {racer.communicate(timeout=120)[0].strip() for racer in racers}
    assert all(racer.returncode == 0 for racer in racers) and len(folders) == 1
    assert [path.name for path in cache.iterdir()] == [Path(folders.pop()).name], "nothing is left beside it"


def test_the_loser_of_a_race_takes_the_winners_folder(cache, monkeypatch):
    """The other process renames its folder into place just before this one does."""
    rules = list(find_rules().values())
    replace = os.replace

    def late(source, target):
        if not Path(target).exists() and Path(source).is_dir():
            shutil.copytree(source, target)
        return replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    _, folder = link(rules)
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_is_said_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("TAPEGUARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceFailed, match="cannot write the compiled kernel under .*set TAPEGUARD_CACHE to a folder that can") as caught:
        link(list(find_rules().values()))
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_where_kernels_are_kept(monkeypatch, tmp_path):
    assert kernels_folder() == tmp_path / "cache" / "kernels"
    monkeypatch.delenv("TAPEGUARD_CACHE")
    for platform, variable, expected in (("linux", "XDG_CACHE_HOME", "tapeguard"), ("win32", "LOCALAPPDATA", "tapeguard"),
                                         ("darwin", "", "Caches")):
        monkeypatch.setattr(sys, "platform", platform)
        if variable:
            monkeypatch.setenv(variable, str(tmp_path / "user"))
        assert expected in kernels_folder().parts and kernels_folder().name == "kernels"


@pytest.mark.slow
def test_a_rule_that_cannot_be_compiled_is_named(tmp_path):
    """It ran in the interpreter; numba's own words would be a page."""
    text = GOOD.replace("    return HOLD\n", "    if market.sigma_bps > 1e9 and sorted({1: 2}.items(), key=str)[0] == (1, 2):\n"
                                             "        return CLOSE\n    return HOLD\n")
    choices = choose(rules_of(tmp_path / "rules", text), "own", [])
    with pytest.raises(BadInput, match="own.*cannot be compiled") as caught:
        compile_loop(Run([PAIR], [choices], [Settings()], slots=8))
    assert len(str(caught.value).splitlines()) == 1


def test_a_compile_error_becomes_one_sentence(tmp_path, monkeypatch):
    """The same without compiling: what numba raises, a page with places or a bare KeyError, and whose rule it was."""
    choices = choose(rules_of(tmp_path / "rules", GOOD), "own", [])
    run = Run([PAIR], [choices], [Settings()], slots=8, interpreted=True)
    page = 'Failed in nopython mode pipeline (step: nopython frontend)\nUnknown attribute\nFile "x/k1/rules/own.py", line 30:\n    def\n'
    for error, expected in ((TypeError(page), r"rule file own\.py, line 30 .*cannot be compiled: TypeError: Unknown attribute"),
                            (KeyError("nosuch"), "one of the rules own .*KeyError: 'nosuch'")):
        def fail(events, error=error):
            raise error
        monkeypatch.setattr(run, "feed", fail)
        with pytest.raises(BadInput, match=expected):
            compile_loop(run)
    shipped = Run([PAIR], [choose(find_rules(), "all", [])], [Settings()], slots=8, interpreted=True)
    monkeypatch.setattr(shipped, "feed", fail)
    with pytest.raises(KeyError):
        compile_loop(shipped)


def test_an_empty_stream_is_nothing(tmp_path):
    run = Run([PAIR], [[]], [Settings()], slots=8, interpreted=True)
    decisions, fills = run.feed(np.zeros(0, R.EVENT))
    assert not len(decisions) and not len(fills)
