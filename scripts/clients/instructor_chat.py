#!/usr/bin/env python3
"""instructor on top of the `openai` package: typed answers by a schema and by a function.

usage: instructor_chat.py [URL]      (default http://127.0.0.1:8080; needs `pip install instructor`)
Exits with 1 at the first broken promise.
"""

from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel

from suite import CITIES, WHERE, attempt, server

openai = OpenAI(base_url=f"{server()}/v1", api_key="none", max_retries=0)
model = openai.models.list().data[0].id


class Place(BaseModel):
    """A place and its weather."""

    city: Literal["Rome", "Oslo"]
    sunny: bool


def typed(mode):
    client = instructor.from_openai(openai, mode=mode)
    place = client.chat.completions.create(model=model, messages=WHERE, response_model=Place, max_tokens=200, max_retries=0)
    assert place.city in CITIES
    return place


def by_schema():
    return typed(instructor.Mode.JSON_SCHEMA)


def by_function():
    return typed(instructor.Mode.TOOLS)


if __name__ == "__main__":
    attempt(f"instructor, {model}", [by_schema, by_function])
