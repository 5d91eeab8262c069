#!/usr/bin/env python3
"""Talks to a running server with the unmodified `openai` package: whole, streamed, searched, with events, hanging up.

usage: openai_smoke.py [URL]      (default http://127.0.0.1:8080; needs `pip install openai`)
Exits with 1 at the first broken promise.
"""

import json
import sys
import time
import urllib.request

import openai
from openai import OpenAI

EVENTS = {"drafted", "judging", "root_judged", "node_added", "accepted", "stopped"}
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
    assert events[0] == "drafted" and events[-1] == "stopped", events
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


# A search that lasts for many seconds: 8 choices of 64 nodes with 15 votes each.
LONG = {"search_budget": 64, "n": 8, "search": {"votes": 15, "mode": "paper", "branch": 8, "keep": 8, "depth": 16}}


def get(base_url, path):
    with urllib.request.urlopen(base_url.removesuffix("/v1") + path) as response:
        return response.read().decode()


def beats(base_url, model):
    """Signs of life as a proxy sees them: the SDK passes over comments."""
    body = json.dumps({"model": model, "messages": QUESTION, "stream": True, **LONG}).encode()
    request = urllib.request.Request(f"{base_url}/chat/completions", body, {"content-type": "application/json"})
    started = last = time.monotonic()
    gaps = []
    with urllib.request.urlopen(request) as response:
        for line in response:
            now = time.monotonic()
            if line.strip():
                gaps.append(now - last)
                last = now
            if now - started > 5:
                break
    assert len(gaps) > 5 and max(gaps) <= 1, gaps
    return f"{len(gaps)} lines, longest gap {max(gaps):.2f} s"


def disconnected(base_url, client, model):
    """After a second the client hangs up; a moment later nothing is generated any more."""
    generated = lambda: sum(
        float(line.rsplit(" ", 1)[1])
        for line in get(base_url, "/metrics").splitlines()
        if line.startswith("spar_generation_tokens_total")
    )
    start = generated()
    stream = client.chat.completions.create(model=model, messages=QUESTION, stream=True, extra_body=LONG)
    time.sleep(1)
    before = generated() - start
    stream.close()
    time.sleep(0.1)
    stopped = generated() - start
    time.sleep(1)
    later = generated() - start
    assert before > 0 and later == stopped, f"{later - stopped} tokens after the disconnect"
    assert "\nspar_requests_running 0\n" in get(base_url, "/metrics")
    return f"{before:.0f} tokens before the disconnect, {stopped - before:.0f} until 0.1 s after it, then none"


def main():
    base_url = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080").rstrip("/").removesuffix("/v1") + "/v1"
    client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    print(f"openai {openai.__version__}, model {model}")
    promises = [whole, streamed, searched, searched_with_events, alias, refused]
    promises = [(promise, (client, model)) for promise in promises]
    promises += [(beats, (base_url, model)), (disconnected, (base_url, client, model))]
    for promise, arguments in promises:
        started = time.monotonic()
        shown = promise(*arguments)
        print(f"ok {promise.__name__} ({time.monotonic() - started:.2f} s): {shown}")


if __name__ == "__main__":
    main()
