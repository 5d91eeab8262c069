#!/usr/bin/env python3
"""Functions, structured output, log-probabilities, models and text completions with the unmodified `openai` package.

usage: openai_chat.py [URL]      (default http://127.0.0.1:8080; needs `pip install openai`)
Exits with 1 at the first broken promise.
"""

import json
from typing import Literal

import openai
from openai import OpenAI
from pydantic import BaseModel

from suite import CITIES, QUESTION, WEATHER, WHERE, attempt, server

client = OpenAI(base_url=f"{server()}/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id
# The embedded model does not know when to stop calling.
ONE_CALL = {"parallel_tool_calls": False, "temperature": 0}
tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}


class Place(BaseModel):
    city: Literal["Rome", "Oslo"]
    sunny: bool


def models():
    listed = [card.id for card in client.models.list()]
    assert listed == [model, f"{model}:search"], listed
    assert client.models.retrieve(model).id == model
    return listed


def called():
    answer = client.chat.completions.create(
        model=model, messages=WHERE, tools=[tool], tool_choice="required", max_tokens=200, **ONE_CALL
    )
    choice = answer.choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and call.function.name == "weather", choice
    assert json.loads(call.function.arguments)["city"] in CITIES, call
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    turns = [*WHERE, choice.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(model=model, messages=turns, tools=[tool], tool_choice="none", max_tokens=16)
    assert answer.choices[0].message.content is not None
    return call.function


def called_in_a_stream():
    stream = client.chat.completions.create(
        model=model, messages=WHERE, tools=[tool], tool_choice="required", max_tokens=200, stream=True, **ONE_CALL
    )
    calls, finish = {}, None
    for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for delta in choice.delta.tool_calls or []:
                name, arguments = calls.get(delta.index, ("", ""))
                calls[delta.index] = (name + (delta.function.name or ""), arguments + (delta.function.arguments or ""))
    assert finish == "tool_calls" and calls[0][0] == "weather", (finish, calls)
    assert json.loads(calls[0][1])["city"] in CITIES, calls
    return calls


def parsed():
    answer = client.chat.completions.parse(model=model, messages=WHERE, response_format=Place, max_tokens=300)
    assert answer.choices[0].message.parsed.city in CITIES
    return answer.choices[0].message.parsed


def searched_and_parsed():
    answer = client.chat.completions.parse(
        model=model, messages=WHERE, response_format=Place, max_tokens=300, extra_body={"search_budget": 2}
    )
    assert answer.choices[0].message.parsed.city in CITIES
    return answer.model_extra["search"]["stop_reason"]


def any_object():
    answer = client.chat.completions.create(
        model=model, messages=WHERE, response_format={"type": "json_object"}, max_tokens=40, temperature=0
    )
    choice = answer.choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    return choice.message.content


def with_logprobs():
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=4, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    assert entries and all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in entries)
    return [entry.token for entry in entries]


def completed():
    answer = client.completions.create(model=model, prompt=["The river", "The teacher"], max_tokens=8, logprobs=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.text.startswith("The ") and choice.logprobs.tokens for choice in answer.choices)
    stream = client.completions.create(model=model, prompt="The river", max_tokens=8, stream=True, temperature=0)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices)
    return answer.choices[0].text


def refused():
    try:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    except openai.NotFoundError as error:
        return error.body["message"]
    raise AssertionError("a model that is not served was answered")


if __name__ == "__main__":
    promises = [models, called, called_in_a_stream, parsed, searched_and_parsed, any_object, with_logprobs, completed, refused]
    attempt(f"openai {openai.__version__}, chat and text completions of {model}", promises)
