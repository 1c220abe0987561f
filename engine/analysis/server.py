"""The analysis for a model: an MCP server over stdio or over HTTP on loopback. It reads; no tool can trade."""

import asyncio
import hmac
import os
import secrets
import socket
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from engine.analysis.library import Library
from engine.analysis.moment import canonical
from engine.analysis.schemas import INPUTS, OUTPUTS
from engine.errors import BadInput, TapeguardError, nearest

INSTRUCTIONS = (
    "Order flow of recorded markets. Read analyse_symbol first: order flow and whales decide, the other fields "
    "only explain. A null has its reason "
    "beside it and is never zero or neutral. Scores run from -100 to 100 and are no probabilities; where one is called "
    "a probability, the share measured out of sample stands beside it. The same key means the same bytes. "
    "HOLD is an answer. Nothing here can trade."
)
ABOUT = {
    "analyse_symbol": (
        "Analyse a symbol",
        "The recommendation with order flow on it, order flow over 30, 180, 600 and 3600 s, its trend, whales, "
        "voids, and the "
        "fourteen market fields, at one moment of a recording. A side begins at a score of 35; over 70 against "
        "the direction is a warning.",
    ),
    "get_order_flow": (
        "Order flow of one window",
        "Side, score and the three parts it rests on: imbalance (five book levels), whales (taker orders from 100,000 "
        "USD, by USD), pressure (taker buys against sells); with whales by tier and voids.",
    ),
    "get_order_flow_trend": (
        "Trend of order flow",
        "Four closed readings of the window: INCREASINGLY, STEADY or WEAKENING, BULLISH or BEARISH, or NEUTRAL; "
        "with whale activity, book imbalance and pressure.",
    ),
    "list_sessions": (
        "List recordings",
        "The recorded sessions, newest first, and the names of the runs made of them.",
    ),
    "list_positions": ("List positions of a run", "The positions of one run, how each ended and what it made in R."),
    "explain_exit": (
        "Explain an exit",
        "Why a position of a run ended: the rule that decided, the evidence it acted on, who else voted, and what "
        "it outranked.",
    ),
    "measure_rules": (
        "Measure exit rules",
        "What each exit rule was worth on a session against matched random exits, and the newest published calibration "
        "of the order-flow score. Takes seconds to minutes; each call is counted in the ledger of things tried, which is "
        "all it writes.",
    ),
}
PROMPT = "read_order_flow"
_PROMPT_TEXT = """Read {symbol} with analyse_symbol{given} and answer in this order:
1. Order flow: side and score over 30 s, what 180, 600 and 3600 s say, and which parts agree (imbalance,
   whales, pressure). Name what is null and why.
2. Whales: who is buying or selling large, net USD and how long ago; ACCUMULATING, DISTRIBUTING or NEUTRAL.
3. The trend of order flow, and any void that is adverse to the direction.
4. Only then the market fields, as explanation.
5. Your decision: BUY, SELL or HOLD, with one reason. HOLD when order flow is null, neutral or contradicts.
   Repeat every warning and the key."""
_NO_MCP = "the MCP server needs the package mcp, version 2; install it with: pip install 'tapeguard[mcp]'"


def _sdk():
    """Return the SDK's types and server class, or raise BadInput saying what to install."""
    try:
        import mcp_types
        from mcp.server.lowlevel import Server
    except ImportError:
        raise BadInput(_NO_MCP) from None
    return mcp_types, Server


def check_arguments(name: str, arguments: dict | None) -> dict:
    """Return the arguments with their defaults, or raise BadInput with what would be right."""
    from jsonschema import Draft202012Validator

    schema = INPUTS[name]
    given = {} if arguments is None else arguments
    problems = sorted(
        Draft202012Validator(schema).iter_errors(given), key=lambda each: list(map(str, each.absolute_path))
    )
    problem = problems[0] if problems else None
    if problem is None:
        # in JSON 8.0 is a whole number, and clients write it so
        given = {key: int(each) if isinstance(each, float) and each.is_integer() else each for key, each in given.items()}
        return {**{key: each["default"] for key, each in schema["properties"].items() if "default" in each}, **given}
    unknown = [key for key in given if key not in schema["properties"]]
    if unknown:
        raise BadInput(
            f"{name} has no argument {str(unknown[0])[:40]!r}; {nearest(str(unknown[0])[:40], schema['properties'])}"
        )
    absent = [key for key in schema["required"] if key not in given]
    if absent:
        raise BadInput(f"{name} needs {absent[0]}: {schema['properties'][absent[0]].get('description', '')}")
    place = str(problem.absolute_path[0]) if problem.absolute_path else name
    wanted = {key: each for key, each in schema["properties"].get(place, {}).items() if key != "default"}
    raise BadInput(f"{name}: {place} {str(given.get(place))[:40]!r} is not right; it must be {canonical(wanted)[:300]}")


def _tools(types) -> list:
    """Return every tool with its schemas and hints, in a fixed order."""
    tools = []
    for name, (title, text) in ABOUT.items():
        reads = name != "measure_rules"  # which adds to the ledger of things tried
        hints = types.ToolAnnotations(
            title=title, read_only_hint=reads, destructive_hint=False, idempotent_hint=reads, open_world_hint=False
        )
        tools.append(
            types.Tool(
                name=name,
                title=title,
                description=text,
                input_schema=INPUTS[name],
                output_schema=OUTPUTS[name],
                annotations=hints,
            )
        )
    return tools


def _prompt(types):
    """Return the one prompt."""
    symbol = types.PromptArgument(name="symbol", description="such as BTCUSDT", required=True)
    direction = types.PromptArgument(name="direction", description="BUY or SELL, when one is meant", required=False)
    text = "Reads a symbol with order flow and whales first."
    return types.Prompt(name=PROMPT, title="Order flow before a trade", description=text, arguments=[symbol, direction])


def build_server(data: Path):
    """Return the SDK's server object over a data root."""
    types, server_class = _sdk()
    library = Library(data)

    tools, prompt = _tools(types), _prompt(types)

    async def list_tools(context, params):
        return types.ListToolsResult(tools=tools)

    async def call_tool(context, params):
        try:
            if params.name not in INPUTS:
                raise BadInput(f"there is no tool {params.name[:40]!r}; {nearest(params.name[:40], INPUTS)}")
            arguments = check_arguments(params.name, params.arguments)
            answer = await asyncio.to_thread(getattr(library, params.name), **arguments)
        except (TapeguardError, KeyError, TypeError, ValueError, OSError) as error:
            said = str(error).replace(f"{library.data}{os.sep}", "")
            if not isinstance(error, TapeguardError):
                said = f"what is stored cannot be read ({type(error).__name__}); tapeguard check names what is wrong"
            return types.CallToolResult(content=[types.TextContent(type="text", text=said)], is_error=True)
        text = types.TextContent(type="text", text=canonical(answer))
        return types.CallToolResult(content=[text], structured_content=answer)

    async def list_prompts(context, params):
        return types.ListPromptsResult(prompts=[prompt])

    async def get_prompt(context, params):
        arguments = params.arguments or {}
        direction = arguments.get("direction")
        text = _PROMPT_TEXT.format(
            symbol=str(arguments.get("symbol", "the symbol"))[:40],
            given=f", direction {direction[:8]}" if direction else "",
        )
        return types.GetPromptResult(
            messages=[types.PromptMessage(role="user", content=types.TextContent(type="text", text=text))]
        )

    return server_class(
        "tapeguard",
        version=metadata.version("tapeguard"),
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
    )


class Guard:
    """Lets only requests with the token through to an ASGI application."""

    def __init__(self, app, token: str):
        self.app, self._wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope, receive, send) -> None:
        """Answer 401 to an HTTP request without the token."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                await send(
                    {
                        "type": "http.response.start",
                        "status": 401,
                        "headers": [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")],
                    }
                )
                await send(
                    {
                        "type": "http.response.body",
                        "body": b"give the token tapeguard mcp printed as Authorization: Bearer TOKEN\n",
                    }
                )
                return
        await self.app(scope, receive, send)


def http_app(data: Path, token: str):
    """Return the ASGI application of the HTTP server."""
    return Guard(build_server(data).streamable_http_app(json_response=True, max_request_body_size=64 * 1024), token)


async def serve_stdio(data: Path) -> None:
    """Serve one client on standard input and output until it leaves."""
    server = build_server(data)
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def serve_http(data: Path, port: int, token: str | None, say: Callable[[str], None]) -> None:
    """Serve on loopback until stopped; tell the address and the token."""
    _sdk()
    import uvicorn

    token = token or secrets.token_urlsafe(24)
    app = http_app(data, token)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as door:
        try:
            door.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(
                f"port {port} on loopback cannot be used ({error.strerror}); give another --port, or 0 for a free one"
            ) from None
        say(canonical({"url": f"http://127.0.0.1:{door.getsockname()[1]}/mcp", "token": token}))
        await uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).serve(sockets=[door])


def serve(
    data: Path,
    transport: str = "stdio",
    port: int = 0,
    token: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Serve until the client leaves or Ctrl-C; `say` gets the address and token of the HTTP server."""
    if transport not in ("stdio", "http"):
        raise BadInput(f"transport {transport!r} is not known; known: stdio, http")
    if not 0 <= port <= 65_535:
        raise BadInput(f"port {port} is not between 0 and 65535")
    asyncio.run(serve_stdio(data) if transport == "stdio" else serve_http(data, port, token, say))
