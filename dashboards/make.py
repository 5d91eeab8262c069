#!/usr/bin/env python3
"""Writes the Grafana dashboard, so that its panels can be read and changed as a list.

    dashboards/make.py            # writes dashboards/spar.json
    dashboards/make.py --check    # ends with 1 if spar.json is not what this script would write
"""

import json
import sys
from pathlib import Path

FILE = Path(__file__).with_name("spar.json")

# Every query is limited to the chosen instances; the list of instances follows the chosen models.
CHOSEN = 'instance=~"$instance"'
RATE = "[$__rate_interval]"


def rate(name, labels="", by=""):
    """The rate of a counter, added up over instances and by labels."""
    grouping = f" by ({by})" if by else ""
    matchers = ",".join(filter(None, [CHOSEN, labels]))
    return f"sum{grouping} (rate({name}{{{matchers}}}{RATE}))"


def quantile(q, name, by):
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({name}_bucket{{{CHOSEN}}}{RATE})))"


def quantiles(name, by="mode"):
    return [(quantile(q, name, by), f"{word} {{{{{by}}}}}") for q, word in [(0.5, "median"), (0.95, "95 %")]]


def mean(name, by):
    return f"{rate(name + '_sum', by=by)} / {rate(name + '_count', by=by)}"


def gauge(name, labels="", by=""):
    grouping = f" by ({by})" if by else ""
    matchers = ",".join(filter(None, [CHOSEN, labels]))
    return f"sum{grouping} ({name}{{{matchers}}})"


SEARCHES = "spar_search_requests_total"

# Rows of (type, title, unit, queries with their legends, width, description).
ROWS = {
    "Healthy?": [
        ("stat", "Reachable", "short", [(f'sum(up{{job="spar",{CHOSEN}}})', "servers")], 3, "Servers whose metrics can be read."),
        ("stat", "Live weights", "short", [(f"spar_generation_info{{{CHOSEN}}} == 1", "{{model}} {{role}} {{generation}}")], 9,
         "The generation of each role. A swap changes it."),
        ("stat", "Uptime", "s", [(f"time() - process_start_time_seconds{{{CHOSEN}}}", "{{instance}}")], 4, "Time since the start."),
        ("stat", "Judge", "short", [(f"spar_judge_state{{{CHOSEN}}} == 1", "{{state}}")], 4,
         "What the trial of the judge at the start found: able, indifferent or unreadable."),
        ("stat", "Build", "short", [(f"spar_build_info{{{CHOSEN}}}", "{{version}} {{features}}")], 4, "The running build."),
        ("timeseries", "Responses by status", "reqps", [(rate("spar_http_requests_total", by="status"), "{{status}}")], 8,
         "499 is a client that disconnected."),
        ("timeseries", "Failed calls and restarts", "cps", [
            (rate("spar_engine_errors_total", by="kind"), "error {{kind}}"),
            (rate("spar_engine_restarts_total", by="kind"), "restart {{kind}}")], 8, "Model calls that failed, by the kind of error."),
        ("timeseries", "Refused before they ran", "reqps", [(rate("spar_requests_rejected_total", by="reason"), "{{reason}}")], 8,
         "Full queues, spent tokens, passed deadlines."),
        ("timeseries", "Memory", "bytes", [(f"process_resident_memory_bytes{{{CHOSEN}}}", "{{instance}}")], 8, "Resident memory."),
        ("timeseries", "Processors", "short", [(f"rate(process_cpu_seconds_total{{{CHOSEN}}}{RATE})", "{{instance}}")], 8,
         "Processors in use."),
        ("timeseries", "Open files and threads", "short", [
            (f"process_open_fds{{{CHOSEN}}}", "files {{instance}}"), (f"process_threads{{{CHOSEN}}}", "threads {{instance}}")], 8,
         "Connections are files, too."),
    ],
    "Load": [
        ("timeseries", "Requests inside", "short", [
            (gauge("spar_requests_running"), "running"), (gauge("spar_requests_waiting"), "waiting")], 8,
         "Scale out when requests wait."),
        ("timeseries", "KV cache in use", "percentunit", [(f"max by (state) (spar_kv_usage_ratio{{{CHOSEN}}})", "{{state}}")], 8,
         "Blocks of keys and values: of running replies, and kept for later prompts."),
        ("timeseries", "Prompt tokens found in the cache", "percentunit", [
            (f"{rate('spar_prefix_tokens_reused_total')} / ({rate('spar_prefix_tokens_reused_total')}"
             f" + {rate('spar_prompt_tokens_computed_total')})", "found")], 8, "The rest was computed."),
        ("timeseries", "Generated tokens by purpose", "short", [(rate("spar_generation_tokens_total", by="purpose"), "{{purpose}}")], 8,
         "Tokens per second: answers, critiques, refinements."),
        ("timeseries", "Prompt tokens by purpose", "short", [(rate("spar_prompt_tokens_total", by="purpose"), "{{purpose}}")], 8,
         "Tokens per second."),
        ("timeseries", "Copied tokens", "short", [(rate("spar_speculated_tokens_total", by="result"), "{{result}}")], 8,
         "Tokens per second that were proposed from the prompt, by whether they were right."),
        ("timeseries", "Prompt length", "short", quantiles("spar_request_prompt_tokens"), 8, "Tokens of a request's prompts."),
        ("timeseries", "Generated length", "short", quantiles("spar_request_generation_tokens"), 8,
         "Tokens generated for a request; a search's critiques are part of them."),
        ("timeseries", "Why answers end", "short", [(rate("spar_answers_total", by="reason"), "{{reason}}")], 8,
         "Answers per second: abort is a client that disconnected."),
        ("timeseries", "Connections", "short", [(gauge("spar_connections"), "open")], 8, "Open connections."),
        ("timeseries", "Connections refused or too slow", "cps", [
            (rate("spar_connections_refused_total"), "refused"), (rate("spar_connection_timeouts_total", by="at"), "slow {{at}}")], 8,
         "Connections beyond the limit, and clients that were too slow."),
        ("timeseries", "Memory of grammars", "bytes", [(gauge("spar_grammar_bytes", by="state"), "{{state}}")], 8,
         "Compiled constraints of running replies, and those kept for later."),
    ],
    "Latency": [
        ("timeseries", "Time to first token", "s", quantiles("spar_time_to_first_token_seconds"), 8, "From the request."),
        ("timeseries", "Between tokens", "s", quantiles("spar_inter_token_latency_seconds"), 8, "What a reader of a stream feels."),
        ("timeseries", "Whole request", "s", quantiles("spar_e2e_request_latency_seconds"), 8, "From the request to its last token."),
        ("timeseries", "Time in the queue", "s", quantiles("spar_queue_time_seconds"), 8, "From the request to its turn."),
        ("timeseries", "Prefill and decode", "s", [
            (mean("spar_prefill_seconds", "instance"), "prefill {{instance}}"),
            (mean("spar_decode_seconds", "instance"), "decode {{instance}}")], 8, "Means of plain requests."),
        ("timeseries", "Model calls", "s", quantiles("spar_engine_call_duration_seconds", "purpose"), 8, "One reply, by its purpose."),
        ("timeseries", "Duration by route", "s", [(quantile(0.95, "spar_http_request_duration_seconds", "route"), "{{route}}")], 24,
         "95 % of the responses are faster."),
    ],
    "Search": [
        ("timeseries", "Searches by stop reason", "reqps", [(rate(SEARCHES, by="stop_reason"), "{{stop_reason}}")], 8,
         "Why they ended."),
        ("timeseries", "Share of searches by stop reason", "percentunit", [
            (f"{rate(SEARCHES, by='stop_reason')} / ignoring (stop_reason) group_left {rate(SEARCHES)}", "{{stop_reason}}")], 8,
         "Deadlines and spent budgets mean that searches want more than they may have."),
        ("timeseries", "Accepted", "percentunit", [
            (rate(SEARCHES, 'stop_reason="accepted"', "strategy") + " / " + rate(SEARCHES, by="strategy"), "{{strategy}}")], 8,
         "Share of the searches whose answer was accepted."),
        ("timeseries", "Gain", "short", [
            (mean("spar_search_gain", "strategy"), "gain {{strategy}}"), (mean("spar_search_value", "strategy"), "value {{strategy}}")], 8,
         "Mean value of the answer, and how much more that is than the draft's."),
        ("timeseries", "Search duration", "s", quantiles("spar_search_duration_seconds", "strategy"), 8, "From the draft to the answer."),
        ("timeseries", "Tokens per search", "short", quantiles("spar_search_tokens", "strategy"), 8, "Generated tokens."),
        ("timeseries", "Nodes per search", "short", quantiles("spar_search_nodes", "strategy"), 8, "Judged refinements."),
        ("timeseries", "Model calls per search", "short", quantiles("spar_search_calls", "strategy"), 8, "Calls of all purposes."),
        ("timeseries", "Mean refinement depth", "short", [(mean("spar_search_depth", "strategy"), "{{strategy}}")], 8,
         "Refinements from the draft to the answer."),
        ("heatmap", "Refinement depth of the answer", "short", [
            (f"sum by (le) (rate(spar_search_depth_bucket{{{CHOSEN}}}{RATE}))", "{{le}}")], 24, "How deep answers lie."),
    ],
    "Judge": [
        ("timeseries", "Judge calls by kind", "cps", [
            (rate("spar_judge_calls_total", by="judging"), "{{judging}}"), (rate("spar_scored_items_total"), "verdicts read")], 8,
         "Critiques by votes, and verdicts that were read as probabilities."),
        ("timeseries", "Votes by verdict", "cps", [(rate("spar_judge_votes_total", by="verdict"), "{{verdict}}")], 8,
         "An invalid vote has no readable verdict."),
        ("timeseries", "Agreement", "percentunit", [
            (f"sum(rate(spar_judge_agreement_sum{{{CHOSEN}}}{RATE})) / sum(rate(spar_judge_agreement_count{{{CHOSEN}}}{RATE}))", "mean")], 8,
         "Share of the valid votes that agree with the majority."),
        ("timeseries", "Votes saved by early stops", "percentunit", [
            (f"{rate('spar_votes_saved_total')} / ({rate('spar_votes_saved_total')} + {rate('spar_judge_votes_total')})", "saved")], 8,
         "Votes that were not needed, since the majority was certain."),
        ("timeseries", "Rules found", "cps", [(rate("spar_checks_found_total", by="kind") + " > 0", "{{kind}}")], 8,
         "Rules that searches found in conversations."),
        ("timeseries", "Rules kept by answers", "cps", [(rate("spar_checks_held_total", by="kind") + " > 0", "{{kind}}")], 8,
         "Rules that the answers of searches keep."),
    ],
    "Weights": [
        ("timeseries", "Swaps by result", "short", [
            (f"sum by (role, result) (increase(spar_swaps_total{{{CHOSEN}}}{RATE}))", "{{role}} {{result}}")], 12,
         "Swaps and rollbacks; refused ones left the old weights in place."),
        ("timeseries", "Duration of swaps", "s", [
            (f"sum by (result) (rate(spar_swap_duration_seconds_sum{{{CHOSEN}}}{RATE}))"
             f" / sum by (result) (rate(spar_swap_duration_seconds_count{{{CHOSEN}}}{RATE}))", "mean {{result}}")], 12,
         "From the order to its end."),
        ("timeseries", "Prefix cache", "bytes", [
            (gauge("spar_prefix_cache_bytes", by="role"), "{{role}}"), (gauge("spar_prefix_cache_limit_bytes", by="role"), "limit {{role}}")],
         12, "Bytes of keys and values kept for later prompts. New weights begin with an empty cache."),
        ("timeseries", "Blocks of keys and values", "short", [(gauge("spar_kv_blocks", by="state"), "{{state}}")], 12,
         "Blocks by what holds them."),
    ],
    "Fleet": [
        ("timeseries", "Upstreams by state", "short", [
            (f"sum by (state) (spar_upstream_state{{{CHOSEN}}}) > 0", "{{state}}")], 6,
         "Only ready ones take calls. Empty where no fleet answers."),
        ("timeseries", "Replies in flight", "short", [(gauge("spar_upstream_in_flight", by="upstream"), "{{upstream}}")], 6,
         "Replies that each upstream has at present."),
        ("timeseries", "Failed calls of upstreams", "cps", [
            (rate("spar_upstream_errors_total", by="upstream, kind") + " > 0", "{{upstream}} {{kind}}"),
            (rate("spar_upstream_retries_total"), "sent again")], 6,
         "What went wrong, and how many of these calls were sent again."),
        ("timeseries", "First token of upstreams", "s", [
            (quantile(0.95, "spar_upstream_first_token_seconds", "upstream"), "95 % {{upstream}}")], 6,
         "From a call of an upstream to its first token."),
    ],
    "Cost by key": [
        ("timeseries", "Tokens by key", "short", [(rate("spar_key_tokens_total", by="key, kind"), "{{key}} {{kind}}")], 8,
         "Tokens per second, by the names in --api-keys-file."),
        ("timeseries", "Requests by key", "short", [
            (gauge("spar_key_requests_running", by="key"), "running {{key}}"),
            (gauge("spar_key_requests_waiting", by="key"), "waiting {{key}}")], 8, "Requests inside."),
        ("bargauge", "Tokens by key, whole range", "short", [
            (f"sum by (key) (increase(spar_key_tokens_total{{{CHOSEN}}}[$__range]))", "{{key}}")], 8,
         "What each key used in the time that is shown."),
    ],
}


def panel(number, kind, title, unit, queries, width, description, x, y, height):
    source = {"type": "prometheus", "uid": "${datasource}"}
    stat = kind in ("stat", "bargauge")
    targets = [
        {"refId": chr(ord("A") + index), "datasource": source, "expr": expr, "legendFormat": legend,
         **({"instant": True, "range": False} if stat else {"range": True}),
         **({"format": "heatmap"} if kind == "heatmap" else {})}
        for index, (expr, legend) in enumerate(queries)
    ]
    options = {
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none",
                 "textMode": "name" if title in ("Live weights", "Judge", "Build") else "value_and_name"},
        "bargauge": {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal", "displayMode": "basic"},
        "heatmap": {"calculate": False, "yAxis": {"unit": "short"}, "color": {"scheme": "Blues", "mode": "scheme"}},
    }[kind]
    defaults = {"unit": unit, "min": 0} if title != "Gain" else {"unit": unit}
    if kind == "timeseries":
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
    return {"id": number, "type": kind, "title": title, "description": description, "datasource": source, "targets": targets,
            "gridPos": {"h": height, "w": width, "x": x, "y": y}, "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options}


def panels():
    found, y = [], 0
    for title, row in ROWS.items():
        found.append({"id": len(found) + 1, "type": "row", "title": title, "collapsed": False,
                      "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        x, y, height = 0, y + 1, 0
        for kind, name, unit, queries, width, description in row:
            own = 4 if kind == "stat" else 8
            if x + width > 24:
                x, y, height = 0, y + height, 0
            found.append(panel(len(found) + 1, kind, name, unit, queries, width, description, x, y, own))
            x, height = x + width, max(height, own)
        y += height
    return found


def variable(name, label, query):
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {"name": name, "type": "query", "label": label, "datasource": source, "query": {"query": query, "refId": name},
            "definition": query, "refresh": 2, "includeAll": True, "allValue": ".*", "multi": True, "sort": 1, "hide": 0,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [], "regex": ""}


def annotation(name, colour, results, title):
    expr = f'sum by (instance, role, result) (increase(spar_swaps_total{{{CHOSEN},result=~"{results}"}}[1m])) > 0'
    return {"name": name, "datasource": {"type": "prometheus", "uid": "${datasource}"}, "enable": True, "hide": False,
            "iconColor": colour, "expr": expr, "step": "60s", "titleFormat": title, "textFormat": "{{role}} on {{instance}}: {{result}}"}


def dashboard():
    datasource = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "current": {}, "hide": 0,
                  "refresh": 1, "regex": "", "options": []}
    return {
        "title": "spar", "uid": "spar", "tags": ["spar", "llm"], "timezone": "browser", "schemaVersion": 39, "version": 2,
        "editable": True, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "links": [],
        "description": "Health, load, latency, search, judge, weights and cost of spar servers. Choose a Prometheus that scrapes /metrics.",
        "templating": {"list": [
            datasource,
            variable("model", "Model", "label_values(spar_generation_info, model)"),
            variable("instance", "Instance", 'label_values(spar_generation_info{model=~"$model"}, instance)'),
        ]},
        "annotations": {"list": [
            annotation("Swaps", "blue", "live", "Other weights are live"),
            annotation("Refused swaps", "red", "refused|conflict", "A swap was refused"),
        ]},
        "panels": panels(),
    }


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text("utf-8") != text:
            sys.exit(f"{FILE} is not what {sys.argv[0]} writes; run it without --check")
    else:
        FILE.write_text(text, "utf-8")
