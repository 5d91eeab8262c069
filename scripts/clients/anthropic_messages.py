#!/usr/bin/env python3
"""The Messages API with the unmodified `anthropic` package: whole, streamed, tools, counted tokens, thinking, searches, errors.

usage: anthropic_messages.py [URL]      (default http://127.0.0.1:8080; needs `pip install anthropic`)
Exits with 1 at the first broken promise.
"""

import anthropic
from anthropic import Anthropic

from suite import CITIES, QUESTION, WEATHER, WHERE, attempt, server

client = Anthropic(base_url=server(), api_key="none", max_retries=0)
# Its answers name the model; an absent one is the served model.
model = client.messages.create(max_tokens=1, messages=WHERE, model=None).model
tool = {"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER}
# The package has no parameter for the temperature any more.
COOL = {"extra_body": {"temperature": 0}}
required = {"type": "any", "disable_parallel_tool_use": True}


def whole():
    answer = client.messages.create(model=model, max_tokens=32, system="Be brief.", messages=QUESTION, **COOL)
    assert answer.type == "message" and answer.role == "assistant", answer
    assert answer.stop_reason in ("end_turn", "max_tokens") and answer.content[0].text
    assert answer.usage.output_tokens > 0
    return answer.content[0].text


def counted():
    count = client.messages.count_tokens(model=model, system="Be brief.", messages=QUESTION, tools=[tool]).input_tokens
    usage = client.messages.create(model=model, max_tokens=1, system="Be brief.", messages=QUESTION, tools=[tool]).usage
    assert count == usage.input_tokens + usage.cache_read_input_tokens, (count, usage)
    return count


def streamed():
    with client.messages.stream(model=model, max_tokens=32, messages=QUESTION) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert text == answer.content[0].text and answer.stop_reason in ("end_turn", "max_tokens"), answer
    assert answer.usage.output_tokens > 0 and answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 0
    raw = client.messages.create(model=model, max_tokens=8, messages=QUESTION, stream=True)
    kinds = list(dict.fromkeys(event.type for event in raw))
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ], kinds
    return text


def called():
    answer = client.messages.create(model=model, max_tokens=200, messages=WHERE, tools=[tool], tool_choice=required, **COOL)
    call = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use" and call.name == "weather" and call.input["city"] in CITIES, answer
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}
    turns = [*WHERE, answer.to_param(), {"role": "user", "content": [result]}]
    client.messages.create(model=model, max_tokens=16, messages=turns, tools=[tool], tool_choice={"type": "none"})
    return call.input


def called_in_a_stream():
    with client.messages.stream(
        model=model,
        max_tokens=200,
        messages=WHERE,
        tools=[tool],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        **COOL,
    ) as stream:
        answer = stream.get_final_message()
    call = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use" and call.input["city"] in CITIES, answer
    return call.input


def stopped():
    answer = client.messages.create(model=model, max_tokens=64, messages=QUESTION, stop_sequences=[" "], **COOL)
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == " ", answer
    return answer.content


def thinking_is_taken():
    turns = [
        *WHERE,
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "It is July.", "signature": ""},
            {"type": "text", "text": "It is sunny."},
        ]},
        {"role": "user", "content": "Why?"},
    ]
    answer = client.messages.create(
        model=model, max_tokens=16, messages=turns, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    assert answer.stop_reason in ("end_turn", "max_tokens"), answer
    return [block.type for block in answer.content]


def searched():
    reports = [
        client.messages.create(model=name, max_tokens=32, messages=QUESTION, **more).model_extra["search"]
        for name, more in [
            (model, {"extra_body": {"search_budget": 2}}),
            (model, {"metadata": {"user_id": "me", "search_budget": "2"}}),
            (f"{model}:search", {}),
        ]
    ]
    assert all(report["calls"]["answer"] >= 1 for report in reports), reports
    with client.messages.stream(model=f"{model}:search", max_tokens=32, messages=QUESTION) as stream:
        assert stream.get_final_message().content[0].text
    return [report["stop_reason"] for report in reports]


def refused():
    try:
        client.messages.create(model="claude", max_tokens=8, messages=QUESTION)
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error", error.body
    else:
        raise AssertionError("a model that is not served was answered")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    try:
        client.messages.create(model=model, max_tokens=8, messages=[{"role": "user", "content": [image]}])
    except anthropic.BadRequestError as error:
        return error.body["error"]["message"]
    raise AssertionError("an image was accepted")


if __name__ == "__main__":
    promises = [whole, counted, streamed, called, called_in_a_stream, stopped, thinking_is_taken, searched, refused]
    attempt(f"anthropic {anthropic.__version__}, messages of {model}", promises)
