#!/usr/bin/env python3
"""LangChain's `ChatOpenAI`: whole, streamed, searched, with tools and structured output, by chat completions and by responses.

usage: langchain_chat.py [URL]      (default http://127.0.0.1:8080; needs `pip install langchain-openai`)
Exits with 1 at the first broken promise.
"""

import json
import urllib.request
from typing import Literal

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict

from suite import CITIES, QUESTION, WHERE, attempt, server

with urllib.request.urlopen(f"{server()}/v1/models") as response:
    model = json.load(response)["data"][0]["id"]


class Place(BaseModel):
    """A place and its weather."""

    # Without this a schema allows more fields, and the embedded model adds them until its tokens are used up.
    model_config = ConfigDict(extra="forbid")

    city: Literal["Rome", "Oslo"]
    sunny: bool


def chat(**more):
    return ChatOpenAI(model=model, base_url=f"{server()}/v1", api_key="none", max_retries=0, max_tokens=300, temperature=0, **more)


question, where = QUESTION[0]["content"], WHERE[0]["content"]


def whole():
    answer = chat().invoke(question)
    assert answer.content and answer.usage_metadata["output_tokens"] > 0, answer
    return answer.content


def streamed():
    text = "".join(chunk.content for chunk in chat().stream(question))
    assert text
    return text


def searched():
    return chat(extra_body={"search_budget": 2}).invoke(question).content


def called():
    bound = chat().bind_tools([Place], tool_choice="any", parallel_tool_calls=False)
    call = bound.invoke(where).tool_calls[0]
    assert call["name"] == "Place" and call["args"]["city"] in CITIES, call
    return call


def structured():
    place = chat().with_structured_output(Place, method="json_schema").invoke(where)
    assert place.city in CITIES
    return place


def by_responses():
    answer = chat(use_responses_api=True).invoke(question)
    assert answer.text if isinstance(answer.text, str) else answer.text(), answer
    return answer.content


if __name__ == "__main__":
    attempt(f"langchain-openai, {model}", [whole, streamed, searched, called, structured, by_responses])
