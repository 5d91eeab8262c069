#!/usr/bin/env python3
"""simonw's `llm`, by its command and as a library: whole, streamed, searched, with tools in both turns, schemas and embeddings.

usage: llm_chat.py [URL]      (default http://127.0.0.1:8080; needs `pip install llm`)
Exits with 1 at the first broken promise.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

from suite import CITIES, QUESTION, WHERE, attempt, server

base = f"{server()}/v1"
home = tempfile.mkdtemp()
# Its embedding models have no address of their own; the `openai` package below them takes this one.
os.environ.update(LLM_USER_PATH=home, OPENAI_BASE_URL=base, OPENAI_API_KEY="none")

import llm  # noqa: E402
from llm.default_plugins.openai_models import Chat, OpenAIEmbeddingModel  # noqa: E402

with urllib.request.urlopen(f"{base}/models") as response:
    model = json.load(response)["data"][0]["id"]
question, where = QUESTION[0]["content"], WHERE[0]["content"]
entry = {"api_base": base, "supports_schema": True, "supports_tools": True}
known = [
    {"model_id": "plain", "model_name": model, **entry},
    {"model_id": "searched", "model_name": f"{model}:search", **entry},
    {"model_id": "responses", "model_name": model, "responses": True, **entry},
    {"model_id": "text", "model_name": model, "api_base": base, "completion": True},
]
# JSON is YAML.
(Path(home) / "extra-openai-models.yaml").write_text(json.dumps(known))
# Without the last line a schema allows more fields, and the embedded model adds them until its tokens are used up.
PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "sunny": {"type": "boolean"}},
    "required": ["city", "sunny"],
    "additionalProperties": False,
}


def command(*words):
    run = subprocess.run([str(Path(sys.executable).parent / "llm"), *words], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def by_its_command():
    whole = command("-m", "plain", "--no-stream", "-o", "max_tokens", "32", "-o", "seed", "1", question)
    streamed = command("-m", "plain", "-o", "max_tokens", "32", "-o", "seed", "1", question)
    assert whole and whole == streamed, (whole, streamed)
    return whole


def by_an_address():
    listed = command("openai", "endpoint", base, "--models")
    assert model in listed, listed
    said = command("openai", "endpoint", base, "-m", model, "-o", "max_tokens", "32", question)
    assert said
    return said


def whole():
    answer = llm.get_model("plain").prompt(question, system="Be brief.", stream=False, max_tokens=32)
    text = answer.text()
    assert text and answer.usage().output > 0, answer.usage()
    return text


def streamed():
    pieces = list(llm.get_model("plain").prompt(question, max_tokens=32))
    assert len(pieces) > 1, pieces
    return "".join(pieces)


def searched_by_the_alias():
    answer = llm.get_model("searched").prompt(question, stream=False, max_tokens=32)
    assert answer.text() and answer.response_json["model"] == f"{model}:search", answer.response_json
    return answer.text()


class Plugin(Chat):
    """What its plugins are: its own model with more fields in the body, such as those that it has no option for."""

    needs_key = None

    def build_kwargs(self, prompt, stream):
        kwargs = super().build_kwargs(prompt, stream)
        if prompt.tools:
            # The embedded model calls only where it has to, and then as often as it may.
            kwargs["tool_choice"] = "none" if prompt.tool_results else "required"
            kwargs["parallel_tool_calls"] = False
        else:
            kwargs["extra_body"] = {"search_budget": 2}
        return kwargs


plugin = Plugin("plugin", model_name=model, api_base=base, supports_tools=True)


def searched_by_a_field():
    answer = plugin.prompt(question, stream=False, max_tokens=32)
    assert answer.text() and answer.usage().output > 32, answer.usage()
    return answer.usage()


def remembered():
    conversation = llm.get_model("plain").conversation()
    conversation.prompt(question, max_tokens=16).text()
    return conversation.prompt("Once more.", max_tokens=16).text()


def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"Sunny in {city}."


def called(stream):
    tool = llm.Tool.function(weather)
    tool.input_schema["properties"]["city"]["enum"] = sorted(CITIES)
    tool.input_schema["additionalProperties"] = False
    # A chain gives the function's results back to the model until it answers.
    chain = plugin.chain(where, tools=[tool], stream=stream, options={"max_tokens": 200, "temperature": 0})
    said = chain.text()
    [call], [] = [answer.tool_calls() for answer in chain.responses()]
    assert call.name == "weather" and call.arguments["city"] in CITIES and said, (call, said)
    return call.arguments, said


def called_whole():
    return called(stream=False)


def called_in_a_stream():
    return called(stream=True)


def by_schema():
    place = json.loads(llm.get_model("plain").prompt(where, schema=PLACE, max_tokens=200, stream=False).text())
    assert place["city"] in CITIES, place
    return place


def by_responses():
    text = llm.get_model("responses").prompt(question, stream=False, max_tokens=32).text()
    assert text
    return text


def completed():
    text = llm.get_model("text").prompt("The river", max_tokens=16, temperature=0).text()
    assert text
    return text


def embedded():
    vectors = list(OpenAIEmbeddingModel("spar", model).embed_multi(["The river waits.", "A teacher whispers."]))
    assert len(vectors) == 2 and all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-3) for vector in vectors)
    return len(vectors[0])


if __name__ == "__main__":
    try:
        promises = [by_its_command, by_an_address, whole, streamed, searched_by_the_alias, searched_by_a_field, remembered]
        promises += [called_whole, called_in_a_stream, by_schema, by_responses, completed, embedded]
        attempt(f"llm {version('llm')}, {model}", promises)
    finally:
        shutil.rmtree(home)
