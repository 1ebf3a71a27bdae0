"""Renders the chart with Helm's own engine over a matrix of values, validates what comes out against
Kubernetes' schemas, and prints environments of rendered Deployments for the caller."""

import itertools
import json
import pathlib
import sys

import helm_python
import kubernetes_validate
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[3] / "deploy"
CHART = DEPLOY / "helm/token-relay"
KUBERNETES = "1.30"
REQUIRED = {"PUBLIC_URL": "https://relay.example", "OIDC_ISSUER": "https://login.example", "OIDC_CLIENT_ID": "relay"}
BASE = {"settings": REQUIRED, "existingSecret": "relay"}
# Not part of Kubernetes, so its schemas are not here.
FOREIGN = {"HTTPRoute", "PodMonitor"}

chart = helm_python.Chart.load(CHART)


def merge(left, right):
    merged = dict(left)
    for key, value in right.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def render(values, name="demo"):
    objects = []
    for file, text in chart.render(merge(BASE, values), name=name, namespace="web").items():
        if file.endswith((".yaml", ".yml")):
            objects += [each for each in yaml.safe_load_all(text) if each]
    validate(objects)
    return objects


def validate(objects):
    for each in objects:
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def one(objects, kind):
    found = [each for each in objects if each["kind"] == kind]
    assert len(found) == 1, (kind, [each["kind"] for each in objects])
    return found[0]


def refused(values, word):
    try:
        render(values)
    except helm_python.HelmError as error:
        assert word in str(error), f"{word!r} is not in: {error}"
        return
    raise AssertionError(f"rendered: {values}")


def matrix():
    """Every combination of the parts that meet in one object."""
    parts = [
        [{}, {"replicas": 3, "redis": {"enabled": True}}, {"autoscaling": {"enabled": True}, "redis": {"enabled": True}}],
        [{}, {"secretFiles": {"existingSecret": "files", "names": ["OIDC_CLIENT_SECRET", "REDIS_URL"]}}],
        [{}, {"tls": {"existingSecret": "tls"}}],
        [{}, {"clients": '[clients.outlook]\nname = "Outlook"\norigins = ["https://pane.example"]\n'}],
        [{}, {"settings": {"LISTEN": "[::]:9000", "METRICS_LISTEN": "0.0.0.0:9090", "MAX_BODY": 1048576, "OTEL_TRACES_SAMPLER_ARG": 0.25}}],
        [{}, {"ingress": {"enabled": True, "host": "relay.example", "tlsSecret": "relay-tls"},
              "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}], "metricsFrom": [{"podSelector": {}}]},
              "podMonitor": {"enabled": True}}],
        [{}, {"httpRoute": {"enabled": True, "host": "relay.example", "parentRefs": [{"name": "gateway"}]},
              "serviceAccount": {"create": False}, "image": {"digest": "sha256:" + "0" * 64}}],
    ]
    count = 0
    for combination in itertools.product(*parts):
        values = {}
        for part in combination:
            values = merge(values, part)
        render(values)
        count += 1
    return count


def environment_of(objects):
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"]}


def beside_meet():
    """The values in deploy/meet, for this chart and for Meet's, fit each other. Meet's chart puts
    `customBackends` below `paths` of its ingress as they are."""
    relay = render(yaml.safe_load((DEPLOY / "meet/relay.yaml").read_text()), name="token-relay")
    service = one(relay, "Service")
    values = yaml.safe_load((DEPLOY / "meet/values.yaml").read_text())
    assert values.keys() == {"ingress"} and values["ingress"].keys() == {"customBackends"}, values
    paths = values["ingress"]["customBackends"]
    validate([{
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "meet"},
        "spec": {"rules": [{"host": "meet.example", "http": {"paths": paths}}]},
    }])
    [path] = paths
    assert (path["path"], path["pathType"]) == ("/api/v1.0/addons/sessions/", "Prefix"), path
    backend = path["backend"]["service"]
    assert backend["name"] == service["metadata"]["name"], (backend, service)
    assert backend["port"]["number"] in [port["port"] for port in service["spec"]["ports"]], (backend, service)
    return environment_of(relay)


def main():
    print(f"{matrix()} combinations of values rendered and valid for Kubernetes {KUBERNETES}")

    report = helm_python.lint(CHART, BASE, strict=True)
    assert not report.get("errors"), report

    moved = render({"settings": {"LISTEN": "0.0.0.0:9000", "METRICS_LISTEN": "0.0.0.0:9090", "MAX_BODY": 1048576, "REQUIRE_BOUND_SESSIONS": True},
                    "podMonitor": {"enabled": True}})
    container = one(moved, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    environment = environment_of(moved)
    assert environment["TOKEN_RELAY_MAX_BODY"] == "1048576", environment
    assert environment["TOKEN_RELAY_REQUIRE_BOUND_SESSIONS"] == "true", environment
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": 9000, "metrics": 9090}, ports
    assert all(container[probe]["httpGet"]["port"] == "http" for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert one(moved, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"

    refused({"settings": {"MAX_BODDY": 1}}, "MAX_BODDY")
    refused({"replica": 2}, "replica")
    refused({"ingress": {"hosts": "relay.example"}}, "hosts")
    refused({"replicas": 2}, "Redis")
    refused({"autoscaling": {"enabled": True}}, "Redis")
    refused({"settings": {"PUBLIC_URL": ""}}, "PUBLIC_URL")
    refused({"settings": {"LISTEN": "9000"}}, "9000")
    refused({"existingSecret": ""}, "existingSecret")
    refused({"ingress": {"enabled": True}}, "ingress.host")
    refused({"secretFiles": {"names": ["OIDC_CLIENT_SECRETS"]}}, "/secretFiles/names/0")
    refused({"existingSecret": "", "redis": {"enabled": True}, "secretFiles": {"existingSecret": "files"}}, "REDIS_URL")
    print("11 wrong sets of values refused")
    json.dump({"moved": environment, "meet": beside_meet()}, sys.stdout)
    print()


main()
