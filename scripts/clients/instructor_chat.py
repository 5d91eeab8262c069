#!/usr/bin/env python3
"""instructor on top of the `openai` package: typed answers by a schema and by a function.

usage: instructor_chat.py [URL]      (default http://127.0.0.1:8080; needs `pip install instructor`)
Exits with 1 at the first broken promise.
"""

from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

from suite import CITIES, WHERE, attempt, server

openai = OpenAI(base_url=f"{server()}/v1", api_key="none", max_retries=0)
model = openai.models.list().data[0].id


class Place(BaseModel):
    """A place and its weather."""

    # Without this a schema allows more fields, and the embedded model adds them until its tokens are used up.
    model_config = ConfigDict(extra="forbid")

    city: Literal["Rome", "Oslo"]
    sunny: bool


def typed(mode, **more):
    client = instructor.from_openai(openai, mode=mode)
    place = client.chat.completions.create(
        model=model, messages=WHERE, response_model=Place, max_tokens=300, max_retries=0, temperature=0, **more
    )
    assert place.city in CITIES
    return place


def by_schema():
    return typed(instructor.Mode.JSON_SCHEMA)


def by_function():
    return typed(instructor.Mode.TOOLS, parallel_tool_calls=False)


if __name__ == "__main__":
    attempt(f"instructor, {model}", [by_schema, by_function])
