"""The MCP server through clients nobody here wrote: the official SDK's and FastMCP's, in process, over stdio and over HTTP."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import jsonschema
import pytest
from replays import shipped

import engine.analysis.server as server_module
from engine.analysis.library import Library, size_of
from engine.analysis.moment import canonical
from engine.analysis.schemas import INPUTS, OUTPUTS
from engine.analysis.server import PROMPT, Guard, build_server, check_arguments, serve
from engine.errors import BadInput
from engine.replay import Plan, replay

pytest.importorskip("mcp", reason="the MCP SDK is not installed: pip install 'tapeguard[mcp]'")
from mcp import Client, StdioServerParameters  # noqa: E402
from mcp.client.streamable_http import streamable_http_client  # noqa: E402

TOOLS = ["analyse_symbol", "get_order_flow", "get_order_flow_trend", "list_sessions", "list_positions", "explain_exit", "measure_rules"]
WORDS_OF_TRADING = ("place", "open", "close_position", "modify", "cancel", "buy", "sell", "execute", "send")


@pytest.fixture(scope="module")
def data(generated) -> Path:
    """A data root with a generated session and one run of it."""
    root = generated.session.path.parents[1]
    replay(Plan(generated.session, generated.trades, shipped("classic")), root, {"entries": "made"})
    return root


@pytest.fixture(scope="module")
def run(data) -> str:
    return next(path.name for path in (data / "runs").iterdir())


@pytest.fixture(scope="module")
def calls(data, run) -> dict[str, list[dict]]:
    """Arguments for every tool."""
    library = Library(data)
    closed = library.list_positions(run, ended_by="rule_closed", limit=1)["positions"][0]["ticket"]
    stopped = library.list_positions(run, ended_by="stopped", limit=1)["positions"][0]["ticket"]
    return {"analyse_symbol": [{"symbol": "btcusdt"}, {"symbol": "BTCUSD", "at": "+150s", "direction": "SELL", "detail": "full"}],
            "get_order_flow": [{"symbol": "BTCUSDT", "window": "M15"}, {"symbol": "BTCUSDT", "window": 45, "at": "+40s", "detail": "full"}],
            "get_order_flow_trend": [{"symbol": "BTCUSDT"}, {"symbol": "BTCUSDT", "window": 120, "detail": "full"}],
            "list_sessions": [{}], "list_positions": [{"run": run}, {"run": run, "limit": 3, "cursor": 5, "ended_by": "stopped"}],
            "explain_exit": [{"run": run, "ticket": closed}, {"run": run, "ticket": stopped, "detail": "full"}],
            "measure_rules": [{"session": "gen", "rules": "whale,void", "entries": "every=5s,side=both,sl=10bps,tp=15bps,max=30s", "draws": 99}]}


def official(data: Path, work, mode: str = "auto"):
    async def go():
        async with Client(build_server(data), mode=mode) as client:
            return await work(client)
    return asyncio.run(go())


def said(result) -> str:
    return result.content[0].text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_lists_and_calls_every_tool(data, calls, mode):
    """Both protocol eras; the client validates each answer by its output schema, and so does jsonschema here."""
    async def work(client):
        listed = (await client.list_tools()).tools
        assert [tool.name for tool in listed] == TOOLS
        for tool in listed:
            for arguments in calls[tool.name]:
                result = await client.call_tool(tool.name, arguments)
                assert not result.is_error, said(result)
                jsonschema.validate(result.structured_content, tool.output_schema)
                assert json.loads(said(result)) == result.structured_content
                assert result.structured_content["summary"]
    official(data, work, mode)


@pytest.mark.filterwarnings("ignore")
def test_the_fastmcp_client_lists_and_calls_every_tool(data, calls):
    """Another client, over HTTP with the token."""
    fastmcp = pytest.importorskip("fastmcp", reason="FastMCP is not installed: pip install fastmcp")
    from fastmcp.client.transports import StreamableHttpTransport

    async def work(url: str):
        async with fastmcp.Client(StreamableHttpTransport(url, headers={"Authorization": "Bearer right"})) as client:
            assert [tool.name for tool in await client.list_tools()] == TOOLS
            for name, each in calls.items():
                for arguments in each:
                    result = await client.call_tool(name, arguments)
                    jsonschema.validate(result.structured_content, OUTPUTS[name])
            assert [prompt.name for prompt in await client.list_prompts()] == [PROMPT]
            refused = await client.call_tool("get_order_flow", {"symbol": "DOGE"}, raise_on_error=False)
            assert refused.is_error
    with http_server(data, "right") as url:
        asyncio.run(work(url))


def test_schemas_are_strict_and_every_tool_says_it_only_reads(data):
    async def work(client):
        return (await client.list_tools()).tools
    for tool in official(data, work):
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        assert tool.input_schema["additionalProperties"] is False and tool.output_schema["additionalProperties"] is False
        assert tool.annotations.destructive_hint is False and tool.annotations.open_world_hint is False
        assert tool.annotations.read_only_hint is (tool.name != "measure_rules"), "measuring adds to the ledger of things tried"
        assert tool.description and not any(word in tool.name for word in WORDS_OF_TRADING)
    assert set(INPUTS) == set(OUTPUTS) == set(TOOLS)


HOSTILE = [
    ("get_order_flow", {"symbol": "DOGEUSDT"}, "not recorded"), ("get_order_flow", {"symbol": "../../etc/passwd"}, "no symbol name"),
    ("get_order_flow", {"symbol": ""}, "symbol"), ("get_order_flow", {"symbol": "B" * 10_000}, "symbol"), ("get_order_flow", {"symbol": 5}, "symbol"),
    ("get_order_flow", {"symbol": None}, "symbol"), ("get_order_flow", {"symbol": ["BTCUSDT"]}, "symbol"), ("get_order_flow", {}, "needs symbol"),
    ("get_order_flow", {"symbol": "BTCUSDT", "window": 10**15}, "window"), ("get_order_flow", {"symbol": "BTCUSDT", "window": -1}, "window"),
    ("get_order_flow", {"symbol": "BTCUSDT", "window": 1.5}, "window"), ("get_order_flow", {"symbol": "BTCUSDT", "window": "H9"}, "window"),
    ("get_order_flow", {"symbol": "BTCUSDT", "window": {"$gt": 0}}, "window"), ("get_order_flow", {"symbol": "BTCUSDT", "session": "../gen"}, "not a path"),
    ("get_order_flow", {"symbol": "BTCUSDT", "session": "/etc"}, "not a path"), ("get_order_flow", {"symbol": "BTCUSDT", "session": "gen/../gen"}, "not a path"),
    ("get_order_flow", {"symbol": "BTCUSDT", "session": "gem"}, "did you mean 'gen'"), ("get_order_flow", {"symbol": "BTCUSDT", "at": "yesterday"}, "+120s"),
    ("get_order_flow", {"symbol": "BTCUSDT", "at": "+999999s"}, "outside session"), ("get_order_flow", {"symbol": "BTCUSDT", "at": 5}, "at"),
    ("get_order_flow", {"symbol": "BTCUSDT", "x": 1}, "no argument 'x'"), ("get_order_flow", {"symbol": "BTCUSDT", "detail": "all"}, "detail"),
    ("get_order_flow_trend", {"symbol": "BTCUSDT", "window": 5}, "too short"), ("analyse_symbol", {"symbol": "BTCUSDT", "direction": "UP"}, "direction"),
    ("list_sessions", {"limit": 1.5}, "limit"), ("list_sessions", {"limit": True}, "limit"), ("session", {"name": "gen"}, "there is no tool"),
    ("_run", {"name": "x"}, "there is no tool"), ("analyse_symbol", {"symbol": "BTCUSDT", "self": 1}, "no argument 'self'"),
    ("measure_rules", {"session": "../../etc"}, "not a path"), ("explain_exit", {"run": "../../etc", "ticket": 1}, "not a path"),
    ("measure_rules", {"session": "gen", "entries": "every=30s,sl=10bps,symbol=../../etc"}, "no symbol"),
    ("list_sessions", {"limit": 10**9}, "limit"), ("list_sessions", {"cursor": -1}, "cursor"), ("list_positions", {"run": "../x"}, "not a path"),
    ("list_positions", {"run": "none"}, "no run"), ("explain_exit", {"run": "RUN", "ticket": 10**9}, "no position"),
    ("explain_exit", {"run": "RUN", "ticket": "1"}, "ticket"), ("list_positions", {"run": "RUN", "rule": "magic"}, "no rule"),
    ("measure_rules", {"session": "gen", "draws": 10**9}, "draws"), ("measure_rules", {"session": "gen", "rules": "magic"}, "no rule"),
    ("measure_rules", {"session": "gen", "entries": "every=1ms,sl=10bps"}, "larger every="), ("measure_rules", {"session": "gen", "entries": "x"}, "key=value"),
    ("measure_rules", {"session": "gen", "seed": -1}, "seed"), ("place_order", {"symbol": "BTCUSDT"}, "there is no tool"),
]


def test_hostile_arguments_get_a_sentence_that_says_what_to_do(data, run):
    async def work(client):
        for name, arguments, word in HOSTILE:
            result = await client.call_tool(name, {key: run if value == "RUN" else value for key, value in arguments.items()})
            text = said(result)
            assert result.is_error and word in text and "Traceback" not in text, (name, arguments, text)
            assert len(text) < 700 and str(data) not in text, text
    official(data, work)


def test_a_whole_number_may_be_written_with_a_point(data, run):
    """JSON has one kind of number: 8.0 passes an integer schema, and clients of other languages send it."""
    async def work(client):
        for name, arguments in (("list_sessions", {"limit": 2.0, "cursor": 0.0}), ("list_positions", {"run": run, "limit": 3.0}),
                                ("get_order_flow", {"symbol": "BTCUSDT", "window": 30.0})):
            whole = {key: int(value) if isinstance(value, float) else value for key, value in arguments.items()}
            pointed, plain = [await client.call_tool(name, each) for each in (arguments, whole)]
            assert not pointed.is_error and pointed.structured_content == plain.structured_content, said(pointed)
    official(data, work)


def test_a_damaged_calibration_is_a_sentence_too(generated, tmp_path):
    (tmp_path / "sessions").symlink_to(generated.session.path.parent)
    (tmp_path / "calibration.json").write_text("{")

    async def work(client):
        for name in ("analyse_symbol", "get_order_flow", "get_order_flow_trend"):
            refused = await client.call_tool(name, {"symbol": "BTCUSDT"})
            assert refused.is_error and "calibration.json is no calibration" in said(refused) and str(tmp_path) not in said(refused)
        assert not (await client.call_tool("list_sessions", {})).is_error
    official(tmp_path, work)


def test_a_damaged_session_is_a_sentence_too(data, tmp_path):
    folder = tmp_path / "sessions" / "bad"
    folder.mkdir(parents=True)
    good = json.loads((data / "sessions" / "gen" / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(good))

    async def work(client):
        missing = await client.call_tool("analyse_symbol", {"symbol": "BTCUSDT", "session": "bad"})
        assert missing.is_error and "missing" in said(missing) and str(tmp_path) not in said(missing)
        (folder / "manifest.json").write_text(json.dumps({**good, "first_recv_ns": "x"}))
        odd = await client.call_tool("analyse_symbol", {"symbol": "BTCUSDT", "session": "bad", "at": "+3s"})
        assert odd.is_error and "Traceback" not in said(odd)
        assert not (await client.call_tool("list_sessions", {})).is_error
    official(tmp_path, work)


def test_nothing_recorded_says_how_to_record(tmp_path):
    with pytest.raises(BadInput, match="nothing is recorded yet"):
        Library(tmp_path).analyse_symbol("BTCUSDT")
    assert Library(tmp_path).list_sessions()["total"] == 0


def test_brief_answers_are_small(data, calls):
    """Two to four kilobytes; full ones stay far under what clients cut at."""
    library = Library(data)
    sizes = {name: [size_of(getattr(library, name)(**check_arguments(name, each))) for each in arguments] for name, arguments in calls.items()
             if name != "measure_rules"}
    assert sizes["analyse_symbol"][0] < 4_200 and all(each[0] < 4_200 for each in sizes.values()), sizes
    assert max(max(each) for each in sizes.values()) < 20_000, sizes


def test_the_same_question_gives_the_same_bytes(data, calls):
    first, second = Library(data), Library(data)
    answers = [canonical(first.analyse_symbol(**each)) for each in calls["analyse_symbol"]]
    assert [canonical(second.analyse_symbol(**each)) for each in reversed(calls["analyse_symbol"])] == answers[::-1]
    assert canonical(first.analyse_symbol(**calls["analyse_symbol"][0])) == answers[0]


def test_explain_exit_tells_the_rule_its_evidence_and_the_votes(data, run, calls):
    library = Library(data)
    made = library.explain_exit(**calls["explain_exit"][0])
    decided = made["decided_by"]
    assert made["position"]["ended_by"] == "rule_closed" and decided["rule"] == made["position"]["rule"] in decided["votes"]
    assert decided["action"] == "CLOSE" and decided["result"] == "acted" and decided["evidence"] and made["decision_to_fill_ms"] >= 250
    assert decided["rule"] in made["summary"]
    manifest = json.loads((data / "runs" / run / "manifest.json").read_text())
    assert list(decided["evidence"]) == manifest["rules"][decided["rule"]]["evidence"]
    stopped = library.explain_exit(**calls["explain_exit"][1])
    assert (stopped["decided_by"] is None) == ("reason" in stopped)
    if stopped["decided_by"]:
        assert stopped["decided_by"]["action"] == "TIGHTEN" and stopped["position"]["stops_moved"] > 0


def test_every_position_is_listed_once_over_its_pages(data, run, generated):
    library, found, cursor = Library(data), [], 0
    while cursor is not None:
        page = library.list_positions(run, limit=7, cursor=cursor)
        found += [each["ticket"] for each in page["positions"]]
        cursor = page["next_cursor"]
    assert found == sorted(trade.ticket for trade in generated.trades) and page["total"] == len(found)


def test_the_prompt_puts_order_flow_and_whales_first(data):
    async def work(client):
        listed = (await client.list_prompts()).prompts
        assert [prompt.name for prompt in listed] == [PROMPT]
        got = await client.get_prompt(PROMPT, {"symbol": "BTCUSDT", "direction": "BUY"})
        return got.messages[0].content.text
    text = official(data, work)
    assert "BTCUSDT" in text and text.index("Order flow") < text.index("Whales") < text.index("market fields")


@contextlib.contextmanager
def http_server(data: Path, token: str):
    """Serve over HTTP on a free port from a thread and yield the address."""
    import uvicorn
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(server_module.http_app(data, token), log_level="error", access_log=False, ws="none"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[door])), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.mark.filterwarnings("ignore")
def test_over_http_with_the_token_only(data):
    import httpx2

    async def work(url: str, headers: dict):
        async with httpx2.AsyncClient(headers=headers) as http, Client(streamable_http_client(url, http_client=http)) as client:
            return await client.call_tool("analyse_symbol", {"symbol": "BTCUSDT", "at": "+100s"})

    with http_server(data, "right") as url:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        answers = [httpx2.post(url, json=body, headers=headers) for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"})]
        assert [answer.status_code for answer in answers] == [401] * 3 and "Bearer" in answers[0].text
        foreign = httpx2.post(url, json=body, headers={"Authorization": "Bearer right", "Host": "evil.example", "Content-Type": "application/json"})
        assert foreign.status_code == 421, "another host name must not reach a loopback server"
        result = asyncio.run(work(url, {"Authorization": "Bearer right"}))
    assert result.structured_content == Library(data).analyse_symbol("BTCUSDT", at="+100s")


@pytest.mark.filterwarnings("ignore")
def test_over_stdio(data):
    program = f"from pathlib import Path; from engine.analysis.server import serve; serve(Path({str(data)!r}))"
    place = StdioServerParameters(command=sys.executable, args=["-c", program], env=dict(os.environ), cwd=str(Path(__file__).resolve().parents[1]))

    async def work():
        async with Client(place) as client:
            return await client.call_tool("list_sessions", {})
    assert asyncio.run(work()).structured_content == Library(data).list_sessions(8)


def test_serve_tells_the_address_and_token_and_refuses_a_taken_port(tmp_path, monkeypatch):
    import uvicorn
    told = []

    async def nothing(self, sockets):
        assert sockets[0].getsockname()[0] == "127.0.0.1"
    monkeypatch.setattr(uvicorn.Server, "serve", nothing)
    serve(tmp_path, "http", say=told.append)
    serve(tmp_path, "http", say=told.append)
    first, second = map(json.loads, told)
    assert first["url"].startswith("http://127.0.0.1:") and len(first["token"]) >= 32 and first["token"] != second["token"]
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        with pytest.raises(BadInput, match="port"):
            serve(tmp_path, "http", door.getsockname()[1])
    for bad in ({"transport": "ftp"}, {"transport": "http", "port": 70_000}):
        with pytest.raises(BadInput):
            serve(tmp_path, **bad)


def test_without_the_sdk_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    with pytest.raises(BadInput, match=r"pip install 'tapeguard\[mcp\]'"):
        build_server(tmp_path)


def test_the_guard_passes_what_is_not_http():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])
    asyncio.run(Guard(app, "t")({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
