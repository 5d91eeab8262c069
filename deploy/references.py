#!/usr/bin/env python3
"""Checks what schemas cannot: that the deployment files name variables, ports, paths, files and metrics that exist.

    deploy/references.py          # needs PyYAML, which deploy/check.sh installs

Variables are compared with the flags' own names in src/config, metrics with their names in src/telemetry/metrics, files with the repository.
"""

import re
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Read by the program without being a flag's variable.
OTHERS = {"SPAR_API_KEYS", "SPAR_ADMIN_KEY", "SPAR_UPSTREAM_KEY"}
# Of compose.yaml itself.
COMPOSE = {"SPAR_IMAGE", "SPAR_FEATURES", "SPAR_PUBLISHED_PORT", "SPAR_MODELS"}


def source(folder):
    return "\n".join(path.read_text("utf-8") for path in sorted((ROOT / folder).rglob("*.rs")))


def objects(path):
    return [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each]


def main():
    problems = []

    def require(holds, message):
        if not holds:
            problems.append(message)

    variables = set(re.findall(r'env = "(SPAR_\w+)"', source("src/config"))) | OTHERS
    metrics = set(re.findall(r'"((?:spar|vllm)[_:]\w+)"', source("src/telemetry/metrics")))
    for path in sorted(HERE.rglob("*")):
        if path.suffix in (".yaml", ".yml", ".env", ".service"):
            text = path.read_text("utf-8")
            for name in set(re.findall(r"\bSPAR_[A-Z_]+\b", text)) - (COMPOSE if path.name == "compose.yaml" else set()):
                require(name in variables, f"{path.name}: no setting has the variable {name}")
            for name in re.findall(r"\b(?:spar_requests_\w+|spar_kv_\w+|vllm:[a-z_]+)", text):
                require(name in metrics, f"{path.name}: no metric is called {name}")

    compose = objects(HERE / "compose.yaml")[0]
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            place = volume.split(":")[0]
            if place.startswith("."):
                require((HERE / place).exists(), f"compose.yaml: {name} mounts {place}, which does not exist")
            elif not place.startswith("$"):
                require(place in compose["volumes"], f"compose.yaml: {name} mounts the volume {place}, which is not declared")

    manifests = {path.name: objects(path) for path in (HERE / "kubernetes").glob("*.yaml")}
    listed = manifests["kustomization.yaml"][0]["resources"]
    for name in listed:
        require(name in manifests, f"kustomization.yaml lists {name}, which does not exist")
    known = set(listed) | {"kustomization.yaml", "autoscaling-keda.yaml"}
    require(set(manifests) <= known, f"files that kustomization.yaml does not list: {sorted(set(manifests) - known)}")
    deployment = manifests["deployment.yaml"][0]
    template = deployment["spec"]["template"]
    container = template["spec"]["containers"][0]
    labels, ports = template["metadata"]["labels"], {port["name"]: port["containerPort"] for port in container["ports"]}
    selectors = [
        ("deployment.yaml", deployment["spec"]["selector"]["matchLabels"]),
        ("service.yaml", manifests["service.yaml"][0]["spec"]["selector"]),
        ("disruption.yaml", manifests["disruption.yaml"][0]["spec"]["selector"]["matchLabels"]),
        ("network.yaml", manifests["network.yaml"][0]["spec"]["podSelector"]["matchLabels"]),
    ]
    for name, selector in selectors:
        require(selector.items() <= labels.items(), f"{name} selects {selector}, and the pods have {labels}")
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        get = container[probe]["httpGet"]
        require(get["port"] in ports, f"deployment.yaml: {probe} names the port {get['port']}")
        require(f'path = "{get["path"]}"' in source("src/http"), f"deployment.yaml: {probe} asks for {get['path']}, which is no route")
    for port in manifests["service.yaml"][0]["spec"]["ports"]:
        require(port["targetPort"] in ports, f"service.yaml names the port {port['targetPort']}")
    environment = {each["name"]: each.get("value") for each in container["env"]}
    for name, variable in [("http", "SPAR_PORT"), ("health", "SPAR_HEALTH_PORT")]:
        require(str(ports[name]) == environment[variable], f"deployment.yaml: {variable} is not the port {name}")
    mounts, volumes = {each["name"] for each in container["volumeMounts"]}, {each["name"] for each in template["spec"]["volumes"]}
    require(mounts == volumes, f"deployment.yaml: mounts {mounts} and volumes {volumes} differ")
    # An old pod must live until its requests have ended.
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = int(environment["SPAR_SHUTDOWN_GRACE"].removesuffix("s"))
    require(template["spec"]["terminationGracePeriodSeconds"] >= wait + grace + 2, "deployment.yaml: pods are killed before they drain")
    for name in ["autoscaling.yaml", "autoscaling-keda.yaml"]:
        target = manifests[name][0]["spec"]["scaleTargetRef"]["name"]
        require(target == deployment["metadata"]["name"], f"{name} scales {target}, which is no deployment")

    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
