#!/usr/bin/env python3
"""Talks to a running server with the unmodified `openai` package: whole, streamed, searched, with events.

usage: openai_smoke.py [BASE_URL]      (default http://127.0.0.1:8080/v1; needs `pip install openai`)
Exits with 1 at the first broken promise.
"""

import sys
import time

import openai
from openai import OpenAI

EVENTS = {"root_judged", "node_added", "accepted", "stopped"}
QUESTION = [{"role": "user", "content": "Write about the river. Use at least 12 words. Do not use any commas. Include the word lantern."}]


def whole(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=32, seed=1)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return answer.choices[0].message.content


def streamed(client, model):
    stream = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=32, seed=1, stream=True, stream_options={"include_usage": True}
    )
    text, finish, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert finish in ("stop", "length") and usage is not None
    return text


def searched(client, model):
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=32, seed=1, extra_body={"search_budget": 2, "search": {"votes": 1}}
    )
    search = answer.model_extra["search"]
    assert search["nodes"] <= 2 and search["calls"]["answer"] == 1, search
    assert answer.usage.completion_tokens == sum(search["tokens"].values()), answer.usage
    return search


def searched_with_events(client, model):
    stream = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=32,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"search_budget": 2, "search": {"votes": 1, "events": True}},
    )
    text, events, search = "", [], None
    for chunk in stream:
        extra = chunk.model_extra or {}
        if "search_event" in extra:
            assert extra["search_event"] in EVENTS and not chunk.choices, extra
            events.append(extra["search_event"])
        search = extra.get("search", search)
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert events[0] == "root_judged" and events[-1] == "stopped", events
    assert search is not None
    return {"text": text, "events": events}


def alias(client, model):
    answer = client.chat.completions.create(model=f"{model}:search", messages=QUESTION, max_tokens=32)
    return answer.model_extra["search"]["stop_reason"]


def refused(client, model):
    try:
        client.chat.completions.create(model=model, messages=QUESTION, extra_body={"search": {"branch": 99}})
    except openai.BadRequestError as error:
        assert error.body["param"] == "search.branch", error.body
        return error.body["message"]
    raise AssertionError("a branch of 99 was accepted")


def main():
    base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
    client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    print(f"openai {openai.__version__}, model {model}")
    for promise in (whole, streamed, searched, searched_with_events, alias, refused):
        started = time.monotonic()
        shown = promise(client, model)
        print(f"ok {promise.__name__} ({time.monotonic() - started:.2f} s): {shown}")


if __name__ == "__main__":
    main()
