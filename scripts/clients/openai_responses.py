#!/usr/bin/env python3
"""The Responses API with the unmodified `openai` package: whole, streamed, functions, structured output, searches, refusals.

usage: openai_responses.py [URL]      (default http://127.0.0.1:8080; needs `pip install openai`)
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
tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
question = QUESTION[0]["content"]


class Place(BaseModel):
    city: Literal["Rome", "Oslo"]
    sunny: bool


def whole():
    answer = client.responses.create(model=model, input=question, instructions="Be brief.", max_output_tokens=32)
    assert answer.object == "response" and answer.status in ("completed", "incomplete"), answer
    assert answer.output_text and answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.store is False and answer.instructions == "Be brief."
    return answer.output_text


def continued():
    first = client.responses.create(model=model, input=QUESTION, max_output_tokens=16)
    items = [*QUESTION, *(item.model_dump() for item in first.output), {"role": "user", "content": "Once more."}]
    return client.responses.create(model=model, input=items, max_output_tokens=16).output_text


def streamed():
    with client.responses.stream(model=model, input=question, max_output_tokens=32) as stream:
        events = list(stream)
        answer = stream.get_final_response() if events[-1].type == "response.completed" else events[-1].response
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        events[-1].type,
    ], kinds
    assert [event.sequence_number for event in events] == sorted(event.sequence_number for event in events)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == answer.output_text, (text, answer)
    return text


def called():
    answer = client.responses.create(
        model=model, input=WHERE, tools=[tool], tool_choice="required", max_output_tokens=200, **ONE_CALL
    )
    call = next(item for item in answer.output if item.type == "function_call")
    assert call.name == "weather" and json.loads(call.arguments)["city"] in CITIES, call
    items = [*WHERE, *answer.output, {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}]
    client.responses.create(model=model, input=items, tools=[tool], tool_choice="none", max_output_tokens=16)
    return call.arguments


def called_in_a_stream():
    with client.responses.stream(
        model=model, input=WHERE, tools=[tool], tool_choice="required", max_output_tokens=200, **ONE_CALL
    ) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds, kinds
    assert json.loads(answer.output[0].arguments)["city"] in CITIES, answer
    return answer.output[0].arguments


def parsed():
    answer = client.responses.parse(model=model, input=WHERE, text_format=Place, max_output_tokens=300)
    assert answer.output_parsed.city in CITIES, answer
    return answer.output_parsed


def with_logprobs():
    answer = client.responses.create(
        model=model, input=question, max_output_tokens=4, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    entries = answer.output[0].content[0].logprobs
    assert entries and all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries), answer
    return [entry.token for entry in entries]


def searched():
    reports = [
        client.responses.create(model=name, input=question, max_output_tokens=32, **more).model_extra["search"]
        for name, more in [
            (model, {"extra_body": {"search_budget": 2}}),
            (model, {"metadata": {"search_budget": "2"}}),
            (f"{model}:search", {}),
        ]
    ]
    assert all(report["calls"]["answer"] >= 1 for report in reports), reports
    return [report["stop_reason"] for report in reports]


def refused():
    for arguments, param in [({"store": True}, "store"), ({"previous_response_id": "resp_1"}, "previous_response_id")]:
        try:
            client.responses.create(model=model, input=question, **arguments)
        except openai.BadRequestError as error:
            assert error.body["param"] == param, error.body
        else:
            raise AssertionError(f"{arguments} was accepted")
    return "store, previous_response_id"


if __name__ == "__main__":
    promises = [whole, continued, streamed, called, called_in_a_stream, parsed, with_logprobs, searched, refused]
    attempt(f"openai {openai.__version__}, responses of {model}", promises)
