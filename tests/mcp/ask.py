"""Calls every tool of InferTrace's MCP server with MCP's own client, and checks what it tells.

Usage: ask.py API_URL MODEL_REQUESTS

Any mistake ends it with 1.
"""

import asyncio
import json
import sys

from mcp import Client, MCPError

api, requests = sys.argv[1], float(sys.argv[2])
WANTED = {"find_traces", "get_trace", "explain_slowness", "list_insights", "compare_versions", "cost", "list_models"}


def same(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"{what}:\n got    {got!r}\n wanted {wanted!r}")


def check(what, holds, told):
    if not holds:
        raise SystemExit(f"{what}: {json.dumps(told, indent=1)[:4000]}")


async def main():
    async with Client(f"{api}/mcp") as client:
        same("version", client.protocol_version, "2025-06-18")
        same("server", client.server_info.name, "infertrace")
        await client.send_ping()
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        same("tools", set(tools), WANTED)
        for tool in tools.values():
            check(f"{tool.name} only reads", tool.annotations.read_only_hint, tool.model_dump())
            same(f"schema of {tool.name}", tool.input_schema["type"], "object")

        async def call(name, **arguments):
            result = await client.call_tool(name, arguments)
            check(f"{name} {arguments}", not result.is_error, result.model_dump())
            same(f"text of {name}", json.loads(result.content[0].text), result.structured_content)
            return result.structured_content

        async def refused(words, name, **arguments):
            result = await client.call_tool(name, arguments)
            text = result.content[0].text
            check(f"{name} {arguments}", result.is_error and words in text, result.model_dump())

        models = await call("list_models")
        check("requests by model", sum(one["requests"] for one in models["models"]) == requests, models)
        busiest = models["models"][0]
        check("percentiles", 0 < busiest["duration_p50_ms"] <= busiest["duration_p99_ms"], busiest)
        model = busiest["model"]

        found = await call("find_traces", model=model, limit=5)
        check("traces", 0 < len(found["traces"]) <= 5, found)
        newest = found["traces"][0]
        if found["next_cursor"]:
            page = await call("find_traces", model=model, limit=5, cursor=found["next_cursor"])
            check("another page", newest["trace_id"] not in [one["trace_id"] for one in page["traces"]], page)

        trace = await call("get_trace", trace_id=newest["trace_id"], max_spans=2)
        same("trace", (trace["trace_id"], trace["duration_ms"]), (newest["trace_id"], newest["duration_ms"]))
        check("two spans", len(trace["spans"]) <= 2 and all(0 <= span["offset_ms"] for span in trace["spans"]), trace)

        why = await call("explain_slowness", trace_id=newest["trace_id"])
        critical = sum(span["critical_ms"] for span in why["critical_path"])
        whole = why["trace"]["duration_ms"]
        check("findings", why["findings"] and why["stages"], why)
        check("the critical path", 0 < critical <= 1.01 * whole, why)

        slow = await call("explain_slowness", model=model)
        same("requests", slow["requests"], busiest["requests"])
        check("where the time went", slow["latency"]["duration"]["p50_ms"] == busiest["duration_p50_ms"], slow)

        check("insights", isinstance((await call("list_insights"))["insights"], list), None)
        cost = await call("cost", by=["tenant", "model"])
        check("requests by tenant and model", sum(row["requests"] for row in cost["rows"]) == requests, cost)
        check("the sum", abs(sum(row.get("cost_usd", 0) for row in cost["rows"]) - cost["total_usd"]) < 1e-3, cost)

        await refused("has no two such versions", "compare_versions", model="none")
        await refused("had no requests", "explain_slowness", model="none")
        await refused("give `trace_id`", "explain_slowness")
        await refused("argument `trace_id`: expected 1 to 32 hex digits", "get_trace", trace_id="../status")
        await refused("no span of trace", "get_trace", trace_id="7" * 32)
        await refused("there is no argument `modle`; arguments: ", "find_traces", modle="x")
        await refused("argument `limit`", "find_traces", limit=0)
        await refused("argument `by`: expected a list of: model, tenant", "cost", by=["colour"])
        await refused("q: ", "find_traces", query="{ nonsense")
        try:
            await client.call_tool("drop_tables", {})
        except MCPError as error:
            check("an unknown tool", "there is no tool" in str(error), str(error))
        else:
            raise SystemExit("an unknown tool was called")


asyncio.run(main())
