#!/usr/bin/env python3
"""One method of one package, for bench/peers.py: runs in the package's environment, reads prompts, and writes answers.

    peers_worker.py SETTINGS    SETTINGS is JSON: package, method, url, model, max_tokens, n, temperature

A line of JSON on standard input has a prompt, a line on standard output its response or an error. The packages are called as their
documentation shows. What they print goes to standard error.
"""

import asyncio
import json
import os
import sys

CRITERION = {
    "Instructions": "Does the response follow every instruction of the task: its length, its format, the words and letters that it must "
    "or must not have, its language, its case and its punctuation?"
}


class Optillm:
    """Its own HTTP server, called in this process."""

    def __init__(self, settings):
        os.environ["OPENAI_API_KEY"] = "none"
        os.environ.pop("OPTILLM_API_KEY", None)
        from optillm import server

        server.server_config.update(base_url=f"{settings['url']}/v1", best_of_n=settings["n"])
        if settings["method"] not in server.known_approaches:
            server.load_plugins()
        self.client, self.settings = server.app.test_client(), settings

    def answer(self, prompt):
        body = {
            "model": self.settings["model"],
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.settings["max_tokens"],
            "optillm_approach": self.settings["method"],
        }
        reply = self.client.post("/v1/chat/completions", json=body)
        if reply.status_code != 200:
            raise RuntimeError(reply.get_data(as_text=True))
        return reply.get_json()["choices"][0]["message"]["content"]


class ItsHub:
    """Its algorithms over its client for OpenAI's API."""

    def __init__(self, settings):
        import its_hub

        def model(temperature):
            return its_hub.OpenAICompatibleLanguageModel(
                endpoint=f"{settings['url']}/v1", api_key="none", model_name=settings["model"], temperature=temperature,
                max_completion_tokens=settings["max_tokens"],
            )

        self.model, self.n = model(settings["temperature"]), settings["n"]
        self.algorithm = {
            "best_of_n": lambda: its_hub.BestOfN(its_hub.LLMJudge(model(0.0))),
            "self_consistency": its_hub.SelfConsistency,
        }[settings["method"]]()
        self.loop = asyncio.new_event_loop()

    def answer(self, prompt):
        return self.loop.run_until_complete(self.algorithm.ainfer(self.model, prompt, self.n))["content"]


class LlmVerifier:
    """LLM-as-a-Verifier selects among given candidates, which are drawn here."""

    def __init__(self, settings):
        import llm_verifier
        from openai import OpenAI

        self.select, self.settings = llm_verifier.select, settings
        self.client = OpenAI(base_url=f"{settings['url']}/v1", api_key="none", max_retries=0)

    def answer(self, prompt):
        drawn = self.client.chat.completions.create(
            model=self.settings["model"], messages=[{"role": "user", "content": prompt}], n=self.settings["n"],
            max_tokens=self.settings["max_tokens"], temperature=self.settings["temperature"],
        )
        candidates = [choice.message.content or "" for choice in drawn.choices]
        # One evaluation for each comparison instead of four, and one pivot instead of two, which are a fifth of the calls of the
        # defaults. An error is raised instead of counted as a tie.
        chosen = self.select(
            prompt, candidates, criteria=CRITERION, n_evaluations=1, pivots=1, model=self.settings["model"], client=self.client, on_error="raise",
        )
        return chosen.best


class ThinkBooster:
    """The handler of its service for OpenAI's API. It reads log-probabilities only from models whose names it knows, so the model is
    called by such a name."""

    def __init__(self, settings):
        from service_app.api.models.openai_compat import ChatCompletionRequest
        from service_app.api.routes.chat import create_chat_completion

        self.request, self.handler, self.settings = ChatCompletionRequest, create_chat_completion, settings
        self.loop = asyncio.new_event_loop()

    def answer(self, prompt):
        request = self.request(
            model="gpt-4o", messages=[{"role": "user", "content": prompt}], temperature=self.settings["temperature"],
            max_tokens=self.settings["max_tokens"], model_base_url=f"{self.settings['url']}/v1", tts_api_key="none",
            tts_strategy=self.settings["method"], tts_scorer="entropy", tts_num_trajectories=self.settings["n"],
            num_paths=self.settings["n"], tts_candidates_per_step=self.settings["n"], tts_beam_size=2, tts_max_steps=8,
            tts_score_aggregation="mean",
        )
        return self.loop.run_until_complete(self.handler(request)).choices[0].message.content


PACKAGES = {"optillm": Optillm, "its_hub": ItsHub, "llm_verifier": LlmVerifier, "thinkbooster": ThinkBooster}


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    adapter = PACKAGES[settings["package"]](settings)
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        try:
            said = {"response": str(adapter.answer(json.loads(line)["prompt"]) or "")}
        # Whatever a package raises is its answer to this prompt; the next prompt is tried.
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {getattr(error, 'detail', error)}"[:400]}
        answers.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
