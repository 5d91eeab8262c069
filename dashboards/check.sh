#!/usr/bin/env bash
# Checks the dashboard, the alert rules and the scrape configuration: with promtool (syntax, unit tests of the alerts), then with a
# server and a Prometheus under a scripted load, where every panel must have data (dashboards/live.py; about a minute).
# Debian: apt-get install prometheus jq python3. SPAR names the server's binary; `dashboards/check.sh static` starts nothing.
set -euo pipefail
cd "$(dirname "$0")"
for tool in promtool jq python3; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed; nothing was checked" >&2; exit 2; }
done
./make.py --check
rules=$(mktemp --suffix .yml)
trap 'rm -f "$rules"' EXIT
# A recording rule for each query; variables are Grafana's to fill in. JSON is YAML.
jq '{groups: [{name: "dashboard", rules: [
        [.panels[].targets[]?.expr] + [.annotations.list[].expr] | to_entries[]
        | {record: "query:\(.key)", expr: (.value | gsub("\\$__(rate_interval|range)"; "5m"))}]}]}' spar.json >"$rules"
promtool check rules "$rules"
promtool check rules alerts.yml
promtool check config prometheus.yml
promtool test rules alerts_test.yml
[ "${1:-all}" = static ] || ./live.py
