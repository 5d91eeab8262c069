"""One answer plainly and one searched, with LangChain. It drops the report from the body, so the header has it."""

import os

from langchain_openai import ChatOpenAI

PROMPT = (
    "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere."
)


def model(**more):
    return ChatOpenAI(
        model="spar-tiny",
        base_url=os.environ.get("SPAR_URL", "http://127.0.0.1:8080") + "/v1",
        api_key=os.environ.get("SPAR_API_KEY", "none"),
        seed=2,
        **more,
    )


print("plain:   ", model().invoke(PROMPT).content)
searched = model(extra_body={"search_budget": 8}, include_response_headers=True).invoke(PROMPT)
print("searched:", searched.content)
print("search:  ", searched.response_metadata["headers"]["x-spar-search"])
