#!/usr/bin/env bash
# Checks the dashboard's queries, the alert rules and the scrape configuration with promtool (Debian: apt-get install prometheus jq).
set -euo pipefail
cd "$(dirname "$0")"
for tool in promtool jq; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed; nothing was checked" >&2; exit 2; }
done
rules=$(mktemp --suffix .yml)
trap 'rm -f "$rules"' EXIT
# A recording rule for each query; the interval is Grafana's to fill in. JSON is YAML.
jq '{groups: [{name: "dashboard", rules: [
        [.panels[].targets[]?.expr] | to_entries[]
        | {record: "query:\(.key)", expr: (.value | gsub("\\$__rate_interval"; "5m"))}]}]}' spar.json >"$rules"
promtool check rules "$rules"
promtool check rules alerts.yml
promtool check config prometheus.yml
