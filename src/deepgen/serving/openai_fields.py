"""What OpenAI's clients send that means nothing to a model that draws: model names and field names.

Everything else that is unknown is refused, so these lists are what a request may hold without any effect.
docs/clients.md shows them; a test compares the two.
"""

from __future__ import annotations

# The clients fill in such a name where a program gives none; it then stands for the model that is served.
ALIAS_BEGINNINGS = ("gpt-", "chatgpt-", "dall-e-")
# OpenAI answers these with an address where the request names no form, and their clients read `url` only.
MODELS_WITH_URL = ("dall-e-2", "dall-e-3")

_SAMPLING = {
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "presence_penalty",
    "stop",
    "temperature",
    "top_logprobs",
    "top_p",
}
_ACCOUNT = {
    "metadata",
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "store",
    "user",
}
_TOOLS = {"parallel_tool_calls", "tool_choice", "tools"}

CHAT_IGNORED = frozenset(
    _SAMPLING
    | _ACCOUNT
    | _TOOLS
    | {
        "audio",
        "function_call",
        "functions",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "prediction",
        "reasoning_effort",
        "response_format",
        "verbosity",
        "web_search_options",
    }
)
# Of a message: OpenAI's own, and what routers and frameworks put into the histories they keep.
MESSAGE_IGNORED = frozenset(
    {
        "annotations",
        "audio",
        "function_call",
        "id",
        "name",
        "phase",
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "refusal",
        "status",
        "thinking_blocks",
        "tool_call_id",
        "tool_calls",
    }
)
RESPONSES_IGNORED = frozenset(
    _SAMPLING
    | (_ACCOUNT - {"store"})
    | {
        "context_management",
        "image",
        "include",
        "max_output_tokens",
        "max_tool_calls",
        "parallel_tool_calls",
        "reasoning",
        "stream_options",
        "text",
        "truncation",
    }
)
# Items of a response's input that are neither messages nor pictures: what a conversation may hold besides.
ITEMS_IGNORED = frozenset(
    {
        "additional_tools",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "computer_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "file_search_call",
        "function_call",
        "function_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "reasoning",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)


def is_alias(name: str) -> bool:
    """Whether a client uses this name of OpenAI's for whichever model it was pointed to."""
    return name.startswith(ALIAS_BEGINNINGS)
