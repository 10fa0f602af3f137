"""The tools that OpenAI's servers run themselves, and the items that belong to them: one table.

None is here yet, so each is refused by name. A tool that this server learns to run leaves the
table and gets its item types in `items`.
"""

from __future__ import annotations

from collections.abc import Mapping

from osslo.errors import UnsupportedError

_OWN = "declare a function of your own"
_CODE = f"this server runs no code for a response; {_OWN}"
_SEARCH = f"this server has no web search; {_OWN}"
_COMPUTER = f"this model reads text only; {_OWN}"
_MCP = f"this server calls no MCP servers for a response; {_OWN}"
_COMPACT = "this server compacts nothing; send truncation 'auto', or a summary of your own"

HOSTED_TOOLS: Mapping[str, str] = {
    "apply_patch": f"{_OWN}, or a custom tool",
    "browser": _SEARCH,
    "code_interpreter": _CODE,
    "computer": _COMPUTER,
    "computer_use_preview": _COMPUTER,
    "file_search": f"this server searches no files; {_OWN}",
    "image_generation": "this model writes text only",
    "local_shell": _OWN,
    "mcp": _MCP,
    "namespace": "name the functions themselves in 'tools'",
    "programmatic_tool_calling": _CODE,
    "python": _CODE,
    "shell": _OWN,
    "tool_search": "name the functions themselves in 'tools'",
    "web_search": _SEARCH,
    "web_search_2025_08_26": _SEARCH,
    "web_search_preview": _SEARCH,
    "web_search_preview_2025_03_11": _SEARCH,
}
"""Type of tool: why it cannot be had, and what to do."""

HOSTED_ITEMS: Mapping[str, str] = {
    "additional_tools": "name the functions themselves in 'tools'",
    "apply_patch_call": HOSTED_TOOLS["apply_patch"],
    "apply_patch_call_output": HOSTED_TOOLS["apply_patch"],
    "code_interpreter_call": _CODE,
    "compaction": _COMPACT,
    "compaction_trigger": _COMPACT,
    "computer_call": _COMPUTER,
    "computer_call_output": _COMPUTER,
    "file_search_call": HOSTED_TOOLS["file_search"],
    "image_generation_call": HOSTED_TOOLS["image_generation"],
    "local_shell_call": _OWN,
    "local_shell_call_output": _OWN,
    "mcp_approval_request": _MCP,
    "mcp_approval_response": _MCP,
    "mcp_call": _MCP,
    "mcp_list_tools": _MCP,
    "program": _CODE,
    "program_output": _CODE,
    "shell_call": _OWN,
    "shell_call_output": _OWN,
    "tool_search_call": HOSTED_TOOLS["tool_search"],
    "tool_search_output": HOSTED_TOOLS["tool_search"],
    "web_search_call": _SEARCH,
}

HOSTED_INCLUDES: Mapping[str, str] = {
    "code_interpreter_call.outputs": "code_interpreter",
    "computer_call_output.output.image_url": "computer",
    "file_search_call.results": "file_search",
    "message.input_image.image_url": "image_generation",
    "web_search_call.action.sources": "web_search",
    "web_search_call.results": "web_search",
}
"""What `include` may ask of a hosted tool, and of which."""


def refused_tool(kind: str, where: str) -> UnsupportedError:
    """The error for a tool, or a choice of one, that is neither a function nor custom."""
    why = HOSTED_TOOLS.get(kind, "there are functions and custom tools")
    return UnsupportedError(
        f"'{where}' is of type '{kind[:64]}', which is not supported: {why}.", param=f"{where}.type"
    )


def refused_item(kind: str, where: str) -> UnsupportedError:
    """The error for an input item of a type that this server does not know."""
    why = HOSTED_ITEMS.get(kind, "there is no such item")
    return UnsupportedError(
        f"'{where}' is of type '{kind[:64]}', which is not supported: {why}.", param=f"{where}.type"
    )


def refused_include(name: str, where: str) -> UnsupportedError:
    """The error for something that only a hosted tool could include."""
    tool = HOSTED_INCLUDES[name]
    return UnsupportedError(
        f"'{where}' is '{name}', which is not supported: {HOSTED_TOOLS[tool]}.", param=where
    )
