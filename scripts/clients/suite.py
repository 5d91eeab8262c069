"""What the scripts of this folder share: where the server is, and how their promises are tried."""

import sys
import time

DEFAULT = "http://127.0.0.1:8080"
QUESTION = [{"role": "user", "content": "Write about the river. Use at least 12 words. Do not use any commas. Include the word lantern."}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WHERE = [{"role": "user", "content": "How is the weather in Rome?"}]
CITIES = {"Rome", "Oslo"}


def server():
    """The address of the server, without a path."""
    return (sys.argv[1] if len(sys.argv) > 1 else DEFAULT).rstrip("/").removesuffix("/v1")


def attempt(about, promises):
    """Tries every promise, a function without arguments; the first that is broken ends the script with its error."""
    print(about)
    for promise in promises:
        started = time.monotonic()
        shown = promise()
        print(f"ok {promise.__name__} ({time.monotonic() - started:.2f} s): {str(shown)[:200]}")
