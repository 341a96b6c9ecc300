"""Writes a prompt as a program: for the OpenAI client, for LangChain, and for curl. Nothing of it is ever run here."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pprint import pformat

from promptjobs.sdk.shapes import Message

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
LANGCHAIN_ROLES = {"system": "system", "user": "human", "assistant": "ai"}
"""Any other role is a message of its own there."""


@dataclass(frozen=True, slots=True)
class Model:
    """What answers a prompt. base_url: of the provider's OpenAI-compatible endpoint; None where only the service knows
    it. key_variable: the environment variable with the key.
    """

    name: str
    base_url: str | None
    key_variable: str
    url_variable: str
    limit_field: str
    temperature: float
    max_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Call:
    """A kind of call. name: the module's, "" where there is only one."""

    name: str
    messages: Sequence[Message]
    model: Model


@dataclass(frozen=True, slots=True)
class Exported:
    """title: what was exported. wildcards: the placeholders that are filled in; other text in braces is plain text."""

    title: str
    calls: Sequence[Call]
    wildcards: Sequence[str]


# --- Python ----------------------------------------------------------------------------------------------------------

OPENAI = '''\
import os
import re

from openai import OpenAI

WILDCARDS = {wildcards}
CALLS = {calls}


def messages(values: dict[str, str], call: str = {first}) -> list[dict[str, str]]:
    """The prompt of a call with its placeholders filled in; what a value holds is never taken for a placeholder."""

    def filled(content: str) -> str:
        return re.sub(
            {pattern},
            lambda found: values[found[1]] if found[1] in WILDCARDS else found[0],
            content,
        )

    return [{{**message, "content": filled(message["content"])}} for message in CALLS[call]["messages"]]


def complete(values: dict[str, str], call: str = {first}) -> str | None:
    """What the model answers."""
    chosen = CALLS[call]
    client = OpenAI(
        base_url=chosen["base_url"] or os.environ[chosen["url_variable"]],
        api_key=os.environ.get(chosen["key_variable"], "none"),
    )
    completion = client.chat.completions.create(messages=messages(values, call), **chosen["parameters"])
    return completion.choices[0].message.content


if __name__ == "__main__":
    print(complete({example}))
'''


def openai_snippet(exported: Exported) -> str:
    """A Python program with a function that asks the model."""
    calls = {call.name or "prompt": _openai_call(call) for call in exported.calls}
    first = next(iter(calls))
    body = OPENAI.format(
        wildcards=_python(tuple(exported.wildcards)),
        calls=_python(calls),
        first=_python(first),
        pattern=_python(PLACEHOLDER.pattern),
        example=_python(dict.fromkeys(exported.wildcards, "…")),
    )
    return f"{_heading(exported)}\n\n{body}"


def _openai_call(call: Call) -> dict[str, object]:
    model = call.model
    return {
        "base_url": model.base_url,
        "url_variable": model.url_variable,
        "key_variable": model.key_variable,
        "parameters": _parameters(model),
        "messages": [dict(message) for message in call.messages],
    }


def _parameters(model: Model) -> dict[str, object]:
    return {"model": model.name, "temperature": model.temperature, model.limit_field: model.max_completion_tokens}


def langchain_snippet(exported: Exported) -> str:
    """A Python module with a ChatPromptTemplate for each call; its variables are the wildcards."""
    blocks = []
    for call in exported.calls:
        name = re.sub(r"\W", "_", f"{call.name}_prompt" if call.name else "prompt")
        lines = [f"    {_langchain_message(message, exported.wildcards)}," for message in call.messages]
        name = f"_{name}" if name[0].isdigit() else name
        blocks.append("\n".join([f"{name} = ChatPromptTemplate.from_messages([", *lines, "])"]))
    roles = {message["role"] for call in exported.calls for message in call.messages}
    names = "ChatPromptTemplate" if roles <= LANGCHAIN_ROLES.keys() else "ChatMessagePromptTemplate, ChatPromptTemplate"
    return "\n\n".join([_heading(exported), f"from langchain_core.prompts import {names}", *blocks]) + "\n"


def _langchain_message(message: Message, wildcards: Sequence[str]) -> str:
    template, role = _python(langchain_template(message["content"], wildcards)), message["role"]
    if role in LANGCHAIN_ROLES:
        return f"({_python(LANGCHAIN_ROLES[role])}, {template})"
    return f"ChatMessagePromptTemplate.from_template({template}, role={_python(role)})"


def langchain_template(content: str, wildcards: Sequence[str]) -> str:
    """A format string whose fields are the wildcards; every other brace is doubled, and so stands for itself."""
    pieces, position = [], 0
    for found in PLACEHOLDER.finditer(content):
        if found[1] in wildcards:
            pieces += [_doubled(content[position : found.start()]), found[0]]
            position = found.end()
    return "".join([*pieces, _doubled(content[position:])])


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _heading(exported: Exported) -> str:
    """A docstring, whatever the title holds."""
    return _python(f"The prompt {exported.title}.")


def _python(value: object) -> str:
    """A literal; what does not show in a text is escaped in it."""
    return pformat(value, width=110, sort_dicts=False)


# --- shell -----------------------------------------------------------------------------------------------------------


def curl_snippet(exported: Exported) -> str:
    """One command for each call. Placeholders stand in it as they are: replace them in the JSON."""
    blocks = [f"# The prompt {_comment(exported.title)}"]
    if exported.wildcards:
        names = ", ".join(f"{{{name}}}" for name in exported.wildcards)
        blocks[0] += f"\n# Replace in the JSON: {_comment(names)}"
    for call in exported.calls:
        model = call.model
        base = shlex.quote(model.base_url) if model.base_url else f'"${model.url_variable}"'
        body = json.dumps({**_parameters(model), "messages": list(call.messages)})
        lines = [
            *([f"# {_comment(call.name)}"] if call.name else []),
            f"curl -sS {base}/chat/completions \\",
            "  -H 'content-type: application/json' \\",
            f'  -H "authorization: Bearer ${model.key_variable}" \\',
            f"  -d {shlex.quote(body)}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _comment(text: str) -> str:
    """In one line, and in ASCII."""
    return json.dumps(text)[1:-1]
