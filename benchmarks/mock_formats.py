"""The formats in which coding agents talk to models, as a mock server reads and writes them.

Sources: https://docs.anthropic.com/en/api/messages, https://platform.openai.com/docs/api-reference
(chat, responses), https://ai.google.dev/api/generate-content. Which tools a program offers, and
with which arguments, was seen in what it sends.
"""

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

# what gemini asks a small model: how hard is this prompt?
CLASSIFIED = {"complexity_reasoning": "simple", "complexity_score": 10, "model_choice": "flash"}
USAGE = {"input": 3000, "cached": 2000, "output": 50}  # tokens of each answer


class Action(NamedTuple):
    """What a model does: says a text, or calls a tool (read, edit, write, shell)."""

    kind: str
    path: str = ""
    old: str = ""
    new: str = ""
    text: str = ""  # of what is said or written; the command of a shell


class Conversation(NamedTuple):
    """What a program has sent. results: of tools so far. folder: where it works."""

    text: str
    tools: tuple[dict | str, ...]
    results: int
    folder: str = ""

    @property
    def is_plain_edit(self) -> bool:
        """Whether whole files are wanted as words (aider with a model that it doesn't know)."""
        return not self.tools and "file listing" in self.text

    def path_of(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name


class Response(NamedTuple):
    """An answer: whole, and as events [(name or None, JSON or text)]."""

    whole: dict
    stream: list[tuple[str | None, object]]


def unique(prefix: str) -> str:
    return f"{prefix}_{time.time_ns()}"


def texts_in(value: object) -> Iterable[str]:
    """All strings in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def find_folder(text: str) -> str:
    """The working folder, as a program tells its model of it; it is on this machine."""
    words = r"(?:<cwd>|work(?:ing|space) director(?:y|ies))[^/]{0,80}(/[^\s\"'`<*]+)"
    paths = [path.rstrip(".,") for path in re.findall(words, text, re.IGNORECASE)]
    return next(filter(os.path.isdir, paths), "")


# --------------------------------------------------------------------------------------------------
# Tools of programs


def call_of(action: Action, names: set[str]) -> tuple[str, dict]:
    """(name of the tool, its arguments) by which a program would do it, given the tools it has."""
    for tools in (CLAUDE, GEMINI, OPENCODE):
        if tools["edit"][0] in names:
            name, arguments = tools[action.kind]
            return name, {key: getattr(action, field) for key, field in arguments.items()}
    return call_of_codex(action, names)


# {kind: (tool, {its argument: a field of Action})}
CLAUDE = {
    "read": ("Read", {"file_path": "path"}),
    "edit": ("Edit", {"file_path": "path", "old_string": "old", "new_string": "new"}),
    "write": ("Write", {"file_path": "path", "content": "text"}),
    "shell": ("Bash", {"command": "text", "description": "kind"}),
}
GEMINI = {
    "read": ("read_file", {"file_path": "path"}),
    "edit": (
        "replace",
        {"file_path": "path", "old_string": "old", "new_string": "new", "instruction": "kind"},
    ),
    "write": ("write_file", {"file_path": "path", "content": "text"}),
    "shell": ("run_shell_command", {"command": "text", "description": "kind"}),
}
OPENCODE = {
    "read": ("read", {"filePath": "path"}),
    "edit": ("edit", {"filePath": "path", "oldString": "old", "newString": "new"}),
    "write": ("write", {"filePath": "path", "content": "text"}),
    "shell": ("bash", {"command": "text", "description": "kind"}),
}


def call_of_codex(action: Action, names: set[str]) -> tuple[str, dict]:
    """Codex has a shell, in which `apply_patch` edits files."""
    name = PurePosixPath(action.path).name
    command = f"cat {name}" if action.kind == "read" else action.text
    if action.kind in ("edit", "write"):
        added = "\n".join("+" + line for line in (action.new or action.text).splitlines())
        what = f"Update File: {name}\n@@\n-{action.old}" if action.old else f"Add File: {name}"
        patch = f"*** Begin Patch\n*** {what}\n{added}\n*** End Patch"
        command = f"apply_patch <<'EOF'\n{patch}\nEOF"
    for tool, argument in (("exec_command", "cmd"), ("shell_command", "command")):
        if tool in names:
            return tool, {argument: command}
    return "shell", {"command": ["bash", "-lc", command]}


# --------------------------------------------------------------------------------------------------
# Formats


class Messages:
    """Anthropic's Messages: claude."""

    name = "anthropic"

    @staticmethod
    def is_for(path: str) -> bool:
        return "/messages" in path

    @staticmethod
    def read(body: dict) -> Conversation:
        messages = body.get("messages", [])
        blocks = [block for each in messages for block in each["content"] if block]
        results = sum(isinstance(b, dict) and b.get("type") == "tool_result" for b in blocks)
        text = "\n".join(texts_in([body.get("system"), messages]))
        tools = tuple(tool.get("name", "") for tool in body.get("tools") or ())
        return Conversation(text, tools, results, find_folder(text))

    @staticmethod
    def write(body: dict, action: Action, said: Conversation) -> Response:
        if action.kind == "text":
            block, empty = {"type": "text", "text": action.text}, {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": action.text}
        else:
            name, arguments = call_of(action, {*said.tools})
            empty = {"type": "tool_use", "id": unique("toolu"), "name": name, "input": {}}
            block = empty | {"input": arguments}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
        usage = {
            "input_tokens": USAGE["input"] - USAGE["cached"],
            "cache_read_input_tokens": USAGE["cached"],
            "cache_creation_input_tokens": 0,
            "output_tokens": USAGE["output"],
        }
        stop = {
            "stop_reason": "end_turn" if action.kind == "text" else "tool_use",
            "stop_sequence": None,
        }
        start = {"id": unique("msg"), "type": "message", "role": "assistant", "usage": usage}
        start |= {"model": body.get("model"), "content": [], "stop_reason": None}
        events = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": empty},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": USAGE["output"]}},
            {"type": "message_stop"},
        ]
        return Response(
            start | stop | {"content": [block]}, [(event["type"], event) for event in events]
        )

    @staticmethod
    def write_error(status: int, kind: str, words: str) -> dict:
        return {"type": "error", "error": {"type": kind, "message": words}}


class Responses:
    """OpenAI's Responses: codex."""

    name = "responses"

    @staticmethod
    def is_for(path: str) -> bool:
        return path.endswith("/responses")

    @staticmethod
    def read(body: dict) -> Conversation:
        items = body.get("input") if isinstance(body.get("input"), list) else []
        results = sum(str(item.get("type")).endswith("_output") for item in items)
        text = "\n".join(texts_in([body.get("instructions"), items])).replace("\\n", "\n")
        tools = tuple(tool.get("name") or tool.get("type") for tool in body.get("tools") or ())
        return Conversation(text, tools, results, find_folder(text))

    @staticmethod
    def write(body: dict, action: Action, said: Conversation) -> Response:
        if action.kind == "text":
            content = [{"type": "output_text", "text": action.text, "annotations": []}]
            item = {"type": "message", "id": unique("msg"), "role": "assistant"}
            item |= {"content": content}
        else:
            name, arguments = call_of(action, {*said.tools})
            item = {"type": "function_call", "id": unique("fc"), "call_id": unique("call")}
            item |= {"name": name, "arguments": json.dumps(arguments)}
        item["status"] = "completed"
        usage = {
            "input_tokens": USAGE["input"],
            "input_tokens_details": {"cached_tokens": USAGE["cached"]},
            "output_tokens": USAGE["output"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": USAGE["input"] + USAGE["output"],
        }
        whole = {"id": unique("resp"), "object": "response", "status": "completed"}
        whole |= {"model": body.get("model"), "output": [item], "usage": usage}
        events = [
            {"type": "response.created", "response": whole | {"output": [], "usage": None}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": whole},
        ]
        numbered = [event | {"sequence_number": n} for n, event in enumerate(events)]
        return Response(whole, [(event["type"], event) for event in numbered])

    @staticmethod
    def write_error(status: int, kind: str, words: str) -> dict:
        return {"error": {"message": words, "type": kind, "code": kind, "param": None}}


class Chat:
    """OpenAI's chat completions, which servers of local models speak too: opencode, aider."""

    name = "chat"
    write_error = Responses.write_error

    @staticmethod
    def is_for(path: str) -> bool:
        return path.endswith("/chat/completions")

    @staticmethod
    def read(body: dict) -> Conversation:
        messages = body.get("messages", [])
        text = "\n".join(texts_in([message.get("content") for message in messages]))
        tools = tuple(tool["function"]["name"] for tool in body.get("tools") or ())
        results = sum(message.get("role") == "tool" for message in messages)
        return Conversation(text, tools, results, find_folder(text))

    @staticmethod
    def write(body: dict, action: Action, said: Conversation) -> Response:
        message, reason = {"role": "assistant", "content": action.text}, "stop"
        if action.kind != "text":
            name, arguments = call_of(action, {*said.tools})
            function = {"name": name, "arguments": json.dumps(arguments)}
            call = {"index": 0, "id": unique("call"), "type": "function", "function": function}
            message, reason = message | {"content": None, "tool_calls": [call]}, "tool_calls"
        usage = {
            "prompt_tokens": USAGE["input"],
            "prompt_tokens_details": {"cached_tokens": USAGE["cached"]},
            "completion_tokens": USAGE["output"],
            "total_tokens": USAGE["input"] + USAGE["output"],
        }
        base = {"id": unique("chat"), "created": int(time.time()), "model": body.get("model")}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        whole = base | {"object": "chat.completion", "choices": [choice], "usage": usage}
        base |= {"object": "chat.completion.chunk"}
        first = {"index": 0, "delta": message, "finish_reason": None}
        last = {"index": 0, "delta": {}, "finish_reason": reason}
        chunks = [base | {"choices": [each]} for each in (first, last)]
        chunks += [base | {"choices": [], "usage": usage}, "[DONE]"]
        return Response(whole, [(None, chunk) for chunk in chunks])


class GenerateContent:
    """Google's generateContent: gemini."""

    name = "gemini"

    @staticmethod
    def is_for(path: str) -> bool:
        return "generatecontent" in path.lower()

    @staticmethod
    def read(body: dict) -> Conversation:
        parts = [part for each in body.get("contents", []) for part in each.get("parts", [])]
        text = "\n".join(texts_in([body.get("systemInstruction"), parts])).replace("\\n", "\n")
        tools = tuple(
            each["name"]
            for tool in body.get("tools") or ()
            for each in tool.get("functionDeclarations", [])
        )
        results = sum("functionResponse" in part for part in parts)
        return Conversation(text, tools, results, find_folder(text))

    @staticmethod
    def write(body: dict, action: Action, said: Conversation) -> Response:
        part = {"text": action.text}
        wants_json = body.get("generationConfig", {}).get("responseMimeType") == "application/json"
        if wants_json:  # it asks a small model which model is to be asked
            part = {"text": json.dumps(CLASSIFIED)}
        elif action.kind != "text":
            name, arguments = call_of(action, {*said.tools})
            part = {"functionCall": {"name": name, "args": arguments}}
        content = {"role": "model", "parts": [part]}
        usage = {
            "promptTokenCount": USAGE["input"],
            "cachedContentTokenCount": USAGE["cached"],
            "candidatesTokenCount": USAGE["output"],
            "totalTokenCount": USAGE["input"] + USAGE["output"],
        }
        candidate = {"content": content, "finishReason": "STOP", "index": 0}
        whole = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "mock"}
        return Response(whole, [(None, whole)])

    @staticmethod
    def write_error(status: int, kind: str, words: str) -> dict:
        names = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}
        return {
            "error": {
                "code": status,
                "message": words,
                "status": names.get(status, "UNAVAILABLE"),
            }
        }


FORMATS = (Messages, Responses, Chat, GenerateContent)
