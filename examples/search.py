"""One answer plainly and one searched, with the openai package."""

import os

from openai import OpenAI

PROMPT = (
    "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere."
)

client = OpenAI(
    base_url=os.environ.get("SPAR_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("SPAR_API_KEY", "none"),
)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": PROMPT}]

plain = client.chat.completions.create(model=model, messages=messages, seed=2)
print("plain:   ", plain.choices[0].message.content)

# Fields that the package does not know go into the body by `extra_body`; the report comes back in `model_extra`.
searched = client.chat.completions.create(model=model, messages=messages, seed=2, extra_body={"search_budget": 8})
print("searched:", searched.choices[0].message.content)
report = searched.model_extra["search"]
print("search:  ", {name: report[name] for name in ("stop_reason", "root_value", "value", "nodes", "elapsed_ms")})
