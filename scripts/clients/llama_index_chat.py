#!/usr/bin/env python3
"""LlamaIndex's `OpenAILike`: whole, streamed, searched, with tools in both turns, structured output, text completions and embeddings.

usage: llama_index_chat.py [URL]      (default http://127.0.0.1:8080; needs `pip install llama-index-llms-openai-like
llama-index-embeddings-openai-like`)
Exits with 1 at the first broken promise.
"""

import json
import math
import urllib.request
from typing import Literal

from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, ConfigDict

from suite import CITIES, QUESTION, WHERE, attempt, server

with urllib.request.urlopen(f"{server()}/v1/models") as response:
    card = json.load(response)["data"][0]
model = card["id"]
question = [ChatMessage(role=MessageRole.USER, content=QUESTION[0]["content"])]
where = [ChatMessage(role=MessageRole.USER, content=WHERE[0]["content"])]


class Place(BaseModel):
    """A place and its weather."""

    # Without this a schema allows more fields, and the embedded model adds them until its tokens are used up.
    model_config = ConfigDict(extra="forbid")

    city: Literal["Rome", "Oslo"]
    sunny: bool


def weather(city: Literal["Rome", "Oslo"]) -> str:
    """Tells the weather of a city."""
    return f"Sunny in {city}."


def chat(**more):
    return OpenAILike(
        **{
            "model": model,
            "api_base": f"{server()}/v1",
            "api_key": "none",
            "is_chat_model": True,
            "is_function_calling_model": True,
            "context_window": card["max_model_len"],
            "max_tokens": 200,
            "max_retries": 0,
            "temperature": 0,
            **more,
        }
    )


def whole():
    answer = chat(max_tokens=32).chat(question)
    assert answer.message.role == MessageRole.ASSISTANT and answer.message.content, answer
    assert answer.additional_kwargs["completion_tokens"] > 0, answer.additional_kwargs
    return answer.message.content


def streamed():
    pieces = list(chat(max_tokens=32).stream_chat(question))
    text = "".join(piece.delta or "" for piece in pieces)
    assert text and text == pieces[-1].message.content
    return text


def searched():
    report = chat(max_tokens=32, additional_kwargs={"extra_body": {"search_budget": 2}}).chat(question).raw.search
    assert report["calls"]["answer"] >= 1, report
    return report["stop_reason"]


def called():
    client = chat()
    tool = FunctionTool.from_defaults(weather)
    answer = client.chat_with_tools([tool], chat_history=where, tool_required=True, allow_parallel_tool_calls=False)
    [call] = client.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather" and call.tool_kwargs["city"] in CITIES, call
    result = ChatMessage(
        role=MessageRole.TOOL,
        content=tool(**call.tool_kwargs).content,
        additional_kwargs={"tool_call_id": call.tool_id, "name": call.tool_name},
    )
    said = chat(max_tokens=16).chat([*where, answer.message, result])
    assert said.message.content, said
    return call.tool_kwargs


def called_in_a_stream():
    client = chat()
    tool = FunctionTool.from_defaults(weather)
    pieces = list(
        client.stream_chat_with_tools([tool], chat_history=where, tool_required=True, allow_parallel_tool_calls=False)
    )
    [call] = client.get_tool_calls_from_response(pieces[-1])
    assert call.tool_name == "weather" and call.tool_kwargs["city"] in CITIES, call
    return call.tool_kwargs


def structured_by_a_schema():
    place = chat(should_use_structured_outputs=True).structured_predict(Place, PromptTemplate(WHERE[0]["content"]))
    assert place.city in CITIES
    return place


def structured_by_a_function():
    place = chat().structured_predict(
        Place, PromptTemplate(WHERE[0]["content"]), llm_kwargs={"parallel_tool_calls": False}
    )
    assert place.city in CITIES
    return place


def completed():
    client = chat(is_chat_model=False, is_function_calling_model=False, max_tokens=16)
    text = client.complete("The river").text
    streamed = "".join(piece.delta or "" for piece in client.stream_complete("The river"))
    assert text and streamed == text, (text, streamed)
    return text


def embedded():
    client = OpenAILikeEmbedding(model_name=model, api_base=f"{server()}/v1", api_key="none", max_retries=0)
    vectors = client.get_text_embedding_batch(["The river waits.", "A teacher whispers."])
    assert len(vectors) == 2 and all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-3) for vector in vectors)
    return len(vectors[0])


if __name__ == "__main__":
    promises = [whole, streamed, searched, called, called_in_a_stream, structured_by_a_schema, structured_by_a_function]
    attempt(f"llama-index, {model}", [*promises, completed, embedded])
