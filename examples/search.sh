#!/usr/bin/env bash
# One answer plainly and one searched, with curl.
set -euo pipefail
url=${SPAR_URL:-http://127.0.0.1:8080}
prompt='Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere.'

ask() { # more fields of the body, as JSON with a comma at its end
    curl --silent --show-error --fail-with-body "$url/v1/chat/completions" \
        -H 'content-type: application/json' -H "authorization: Bearer ${SPAR_API_KEY:-none}" \
        -d "{$1 \"model\": \"spar-tiny\", \"seed\": 2, \"messages\": [{\"role\": \"user\", \"content\": \"$prompt\"}]}"
}
# Python reads the JSON, since jq is not everywhere.
field() { python3 -c "import json, sys; answer = json.load(sys.stdin); print($1)"; }

echo "plain:    $(ask '' | field "answer['choices'][0]['message']['content']")"
searched=$(ask '"search_budget": 8,')
echo "searched: $(field "answer['choices'][0]['message']['content']" <<<"$searched")"
echo "search:   $(field "{name: answer['search'][name] for name in ('stop_reason', 'root_value', 'value', 'nodes', 'elapsed_ms')}" <<<"$searched")"
