#!/usr/bin/env bash
# Checks the deployment files: Kubernetes manifests against the schemas of Kubernetes, compose.yaml against the Compose specification's,
# Prometheus's configuration with promtool, the unit with systemd-analyze, and that what they name exists.
# Needs python3 with venv; the validators (kubernetes-validate, check-jsonschema) are installed into a folder of their own:
# SPAR_DEPLOY_VENV, or ~/.cache/spar/deploy-venv. promtool and systemd-analyze are used where they are installed.
set -euo pipefail
cd "$(dirname "$0")"
venv=${SPAR_DEPLOY_VENV:-$HOME/.cache/spar/deploy-venv}
kubernetes=${KUBERNETES_VERSION:-1.31}
if ! [ -x "$venv/bin/kubernetes-validate" ] || ! [ -x "$venv/bin/check-jsonschema" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'kubernetes-validate==1.31.*' 'check-jsonschema>=0.29,<1'
fi

echo "Kubernetes $kubernetes"
manifests=()
for file in kubernetes/*.yaml; do
    case $file in
        # Kinds that Kubernetes itself does not have: references.py looks at these.
        */kustomization.yaml | */autoscaling-keda.yaml) ;;
        *) manifests+=("$file") ;;
    esac
done
"$venv/bin/kubernetes-validate" --strict -k "$kubernetes" "${manifests[@]}"
echo "compose"
"$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec compose.yaml
echo "references"
"$venv/bin/python" references.py
if command -v promtool >/dev/null; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cp prometheus/prometheus.yml ../dashboards/alerts.yml "$folder"
    promtool check config "$folder/prometheus.yml"
else
    echo "skipped: promtool is not installed"
fi
if command -v systemd-analyze >/dev/null; then
    # The program need not be installed here.
    unit=$(mktemp -d)
    trap 'rm -rf "${folder:-}" "$unit"' EXIT
    sed 's|^ExecStart=/usr/bin/spar|ExecStart=/bin/true|' systemd/spar.service >"$unit/spar.service"
    found=$(systemd-analyze verify --man=no "$unit/spar.service" 2>&1 | grep -F "spar.service" || true)
    [ -z "$found" ] || { echo "$found"; exit 1; }
    exposure=$(systemd-analyze security --offline=true --threshold=25 --no-pager "$unit/spar.service" | tail -1) || { echo "$exposure"; exit 1; }
    echo "$exposure"
else
    echo "skipped: systemd-analyze is not installed"
fi
echo "the deployment files are valid"
