"""The built-in tools gpt-oss was trained with, exactly as its system message declares them.

These words are part of the format (`openai-harmony` renders the same): another wording is another
prompt. Running the tools is `osslo.tools`' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osslo.harmony.messages import BuiltinTools, FunctionTool
from osslo.harmony.typescript import Namespace

_NUMBER_OR_FIRST = {"type": "number", "default": -1}


def _parameters(properties: Mapping[str, Any], *required: str) -> Mapping[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | {"required": list(required)} if required else schema


PYTHON = Namespace(
    "python",
    description=(
        "Use this tool to execute Python code in your chain of thought. The code will not be shown "
        "to the user. This tool should be used for internal reasoning, but not for code that is "
        "intended to be visible to the user (e.g. when creating plots, tables, or files).\n\n"
        "When you send a message containing Python code to python, it will be executed in a "
        "stateful Jupyter notebook environment. python will respond with the output of the "
        "execution or time out after 120.0 seconds. The drive at '/mnt/data' can be used to save "
        "and persist user files. Internet access for this session is UNKNOWN. Depends on the "
        "cluster."
    ),
)

BROWSER = Namespace(
    "browser",
    description=(
        "Tool for browsing.\n"
        "The `cursor` appears in brackets before each browsing display: `[{cursor}]`.\n"
        "Cite information from the tool using the following format:\n"
        "`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.\n"
        "Do not quote more than 10 words directly from the tool output.\n"
        "sources=web (default: web)"
    ),
    tools=(
        FunctionTool(
            "search",
            "Searches for information related to `query` and displays `topn` results.",
            _parameters(
                {
                    "query": {"type": "string"},
                    "topn": {"type": "number", "default": 10},
                    "source": {"type": "string"},
                },
                "query",
            ),
        ),
        FunctionTool(
            "open",
            "Opens the link `id` from the page indicated by `cursor` starting at line number "
            "`loc`, showing `num_lines` lines.\n"
            "Valid link ids are displayed with the formatting: `【{id}†.*】`.\n"
            "If `cursor` is not provided, the most recent page is implied.\n"
            "If `id` is a string, it is treated as a fully qualified URL associated with "
            "`source`.\n"
            "If `loc` is not provided, the viewport will be positioned at the beginning of the "
            "document or centered on the most relevant passage, if available.\n"
            "Use this function without `id` to scroll to a new location of an opened page.",
            _parameters(
                {
                    "id": {"type": ["number", "string"], "default": -1},
                    "cursor": _NUMBER_OR_FIRST,
                    "loc": _NUMBER_OR_FIRST,
                    "num_lines": _NUMBER_OR_FIRST,
                    "view_source": {"type": "boolean", "default": False},
                    "source": {"type": "string"},
                }
            ),
        ),
        FunctionTool(
            "find",
            "Finds exact matches of `pattern` in the current page, or the page given by `cursor`.",
            _parameters({"pattern": {"type": "string"}, "cursor": _NUMBER_OR_FIRST}, "pattern"),
        ),
    ),
)


def builtin_namespaces(tools: BuiltinTools) -> tuple[Namespace, ...]:
    """The declared built-in tools in the order of the format: browser, python."""
    return (BROWSER,) * tools.browser + (PYTHON,) * tools.python
