#!/usr/bin/env python3
"""litellm in front of the server: chats by OpenAI's API, whole, streamed, searched and with functions.

usage: litellm_chat.py [URL]      (default http://127.0.0.1:8080; needs `pip install litellm`)
Exits with 1 at the first broken promise.
"""

import json
import os
import urllib.request

# Its table of prices is in the package; it need not be fetched.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

from suite import CITIES, QUESTION, WEATHER, WHERE, attempt, server  # noqa: E402

with urllib.request.urlopen(f"{server()}/v1/models") as response:
    model = json.load(response)["data"][0]["id"]
where = {"model": f"openai/{model}", "api_base": f"{server()}/v1", "api_key": "none", "num_retries": 0}
tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


def whole():
    answer = litellm.completion(messages=QUESTION, max_tokens=32, **where)
    assert answer.choices[0].finish_reason in ("stop", "length") and answer.usage.completion_tokens > 0, answer
    return answer.choices[0].message.content


def streamed():
    stream = litellm.completion(messages=QUESTION, max_tokens=32, stream=True, **where)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text
    return text


def searched():
    answer = litellm.completion(messages=QUESTION, max_tokens=32, extra_body={"search_budget": 2}, **where)
    assert answer.search["calls"]["answer"] >= 1, answer
    return answer.search["stop_reason"]


def called():
    answer = litellm.completion(messages=WHERE, tools=[tool], tool_choice="required", max_tokens=300, temperature=0, parallel_tool_calls=False, **where)
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "weather" and json.loads(call.arguments)["city"] in CITIES, answer
    return call.arguments


if __name__ == "__main__":
    attempt(f"litellm, {model}", [whole, streamed, searched, called])
