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
# The oldest that the chart takes, and a current one.
KUBERNETES = ["1.30", "1.35"]
REQUIRED = {"PUBLIC_URL": "https://relay.example", "OIDC_ISSUER": "https://login.example", "OIDC_CLIENT_ID": "relay"}
BASE = {"settings": REQUIRED, "existingSecret": "relay"}
# Not part of Kubernetes, so its schemas are not here.
FOREIGN = {"HTTPRoute", "PodMonitor"}

# Objects that were validated before.
valid = set()
chart = helm_python.Chart.load(CHART)


def merge(left, right):
    merged = dict(left)
    for key, value in right.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def files(values, name="demo"):
    return chart.render(merge(BASE, values), name=name, namespace="web")


def render(values, name="demo"):
    objects = []
    for file, text in files(values, name).items():
        if file.endswith((".yaml", ".yml")):
            objects += [each for each in yaml.safe_load_all(text) if each]
    validate(objects)
    return objects


def notes(values):
    [text] = [text for file, text in files(values).items() if file.endswith("NOTES.txt")]
    return text


def validate(objects):
    for each in objects:
        text = json.dumps(each)
        if each["kind"] not in FOREIGN and text not in valid:
            for version in KUBERNETES:
                kubernetes_validate.validate(each, version, strict=True)
            valid.add(text)


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
        [{}, {"secretFiles": {"existingSecret": "files", "names": ["OIDC_CLIENT_SECRET", "OPERATOR_TOKEN"]}},
         {"existingSecret": "", "secretFiles": {"existingSecret": "files", "names": [
             "OIDC_CLIENT_SECRET", "COOKIE_KEYS", "SEALING_KEYS", "SIGNING_KEY", "REDIS_URL"]}, "redis": {"enabled": True}}],
        [{}, {"tls": {"existingSecret": "tls"}}],
        [{}, {"clients": '[clients.outlook]\nname = "Outlook"\norigins = ["https://pane.example"]\n'}],
        [{}, {"settings": {"LISTEN": "[::]:9000", "METRICS_LISTEN": "0.0.0.0:9090", "MAX_BODY": 1048576, "OTEL_TRACES_SAMPLER_ARG": 0.25}}],
        [{}, {"ingress": {"enabled": True, "host": "relay.example", "tlsSecret": "relay-tls"},
              "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}], "metricsFrom": [{"podSelector": {}}]},
              "podMonitor": {"enabled": True}}],
        [{}, {"httpRoute": {"enabled": True, "host": "relay.example", "parentRefs": [{"name": "gateway"}]},
              "serviceAccount": {"create": False}, "image": {"digest": "sha256:" + "0" * 64},
              "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/ca/ca.crt"}],
              "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
              "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}]}],
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


# What a person writes by mistake, and a word of the answer.
WRONG = [
    # Names and types.
    ({"settings": {"MAX_BODDY": 1}}, "MAX_BODDY"),
    ({"settings": {"max_body": 1}}, "max_body"),
    ({"settings": {"TOKEN_RELAY_MAX_BODY": 1}}, "TOKEN_RELAY_MAX_BODY"),
    ({"settings": {"COOKIE_KEYS": "in the open"}}, "COOKIE_KEYS"),
    ({"settings": {"STATE_FILE": "/data/state"}}, "STATE_FILE"),
    ({"settings": {"TLS_KEY": "/tls.key"}}, "TLS_KEY"),
    ({"settings": {"MAX_BODY": "a lot"}}, "MAX_BODY"),
    ({"settings": {"MAX_BODY": [1]}}, "MAX_BODY"),
    ({"settings": {"MEET_COMPATIBLE": "ture"}}, "MEET_COMPATIBLE"),
    ({"settings": {"LEGACY_SESSIONS": 0}}, "LEGACY_SESSIONS"),
    ({"settings": {"DRAIN_TIMEOUT": 30}}, "DRAIN_TIMEOUT"),
    ({"settings": {"DRAIN_TIMEOUT": "30 ticks"}}, "DRAIN_TIMEOUT"),
    ({"settings": {"OIDC_CLIENT_ID": 104752394857239847523}}, "OIDC_CLIENT_ID"),
    ({"settings": {"REFRESH_TOKEN_TTL": False}}, "REFRESH_TOKEN_TTL"),
    ({"settings": {"TRUSTED_PROXIES": ["10.0.0.0/8"]}}, "TRUSTED_PROXIES"),
    ({"replica": 2}, "replica"),
    ({"settings": None}, "settings"),
    ({"image": {"repository": None}}, "repository"),
    ({"networkPolicy": None}, "networkPolicy"),
    ({"terminationGracePeriodSeconds": None}, "terminationGracePeriodSeconds"),
    ({"replicas": "2"}, "replicas"),
    ({"replicas": -1}, "replicas"),
    ({"ingress": {"hosts": "relay.example"}}, "hosts"),
    ({"ingress": {"annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": 75}}}, "annotations"),
    ({"podAnnotations": {"prometheus.io/port": 9090}}, "podAnnotations"),
    ({"service": {"port": 70000}}, "port"),
    ({"service": {"port": "http"}}, "port"),
    ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "maxUnavailable"),
    ({"image": {"tag": 0.2}}, "tag"),
    ({"image": {"digest": "0123"}}, "digest"),
    ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
    ({"secretFiles": {"names": ["OIDC_CLIENT_SECRETS"]}}, "/secretFiles/names/0"),
    ({"secretFiles": {"names": "REDIS_URL"}}, "/secretFiles/names"),
    ({"clients": {"outlook": {"name": "Outlook"}}}, "clients"),
    ({"extraEnv": {"SSL_CERT_FILE": "/ca.crt"}}, "extraEnv"),
    # What is required.
    ({"settings": {"PUBLIC_URL": ""}}, "PUBLIC_URL"),
    ({"settings": {"OIDC_ISSUER": None}}, "OIDC_ISSUER"),
    ({"settings": {"OIDC_CLIENT_ID": ""}}, "OIDC_CLIENT_ID"),
    ({"existingSecret": ""}, "existingSecret"),
    ({"existingSecret": "", "redis": {"enabled": True}, "secretFiles": {"existingSecret": "files"}}, "REDIS_URL"),
    ({"existingSecret": "", "redis": {"enabled": True}, "secretFiles": {"existingSecret": "files", "names": ["REDIS_URL", "COOKIE_KEYS", "SEALING_KEYS"]}}, "SIGNING_KEY"),
    ({"existingSecret": "", "settings": {"MEET_COMPATIBLE": True}, "secretFiles": {"existingSecret": "files"}}, "ADDONS_CSRF_SECRET"),
    ({"existingSecret": "", "settings": {"CLAIMS_HOOK_URL": "https://hook.example"}, "secretFiles": {"existingSecret": "files"}}, "CLAIMS_HOOK_SECRET"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
    ({"networkPolicy": {"enabled": True}}, "networkPolicy.from"),
    # Values that contradict each other.
    ({"replicas": 2}, "Redis"),
    ({"autoscaling": {"enabled": True}}, "Redis"),
    ({"secretFiles": {"existingSecret": "files", "names": ["REDIS_URL"]}}, "redis.enabled"),
    ({"autoscaling": {"enabled": True, "minReplicas": 20}, "redis": {"enabled": True}}, "minReplicas"),
    ({"autoscaling": {"enabled": True}, "redis": {"enabled": True}, "settings": {"MAX_STREAMS": 5000}}, "MAX_STREAMS"),
    ({"settings": {"LISTEN": "9000"}}, "9000"),
    ({"settings": {"LISTEN": ":99999"}}, "99999"),
    ({"settings": {"LISTEN": "127.0.0.1:8080"}}, "inside the pod"),
    ({"settings": {"LISTEN": "[::1]:8080"}}, "inside the pod"),
    ({"settings": {"METRICS_LISTEN": "localhost:9090"}}, "inside the pod"),
    ({"settings": {"METRICS_LISTEN": "0.0.0.0:8080"}}, "METRICS_LISTEN"),
    ({"settings": {"DRAIN_TIMEOUT": "1m"}}, "terminationGracePeriodSeconds"),
    ({"settings": {"DRAIN_TIMEOUT": "1h 5min"}, "terminationGracePeriodSeconds": 3904}, "3905"),
    ({"networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]}, "podMonitor": {"enabled": True}}, "metricsFrom"),
    ({"ingress": {"enabled": True}, "settings": {"PUBLIC_URL": "https://example.org/relay"}}, "/relay"),
    ({"clients": "[clients.portal]\nsecret = \"in a ConfigMap\"\n"}, "secret_file"),
    ({"clients": "[clients.portal]\n  \"secret\"=\"in a ConfigMap\"\n"}, "secret_file"),
]


def container_of(objects):
    [container] = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def paths_of(objects):
    [rule] = one(objects, "Ingress")["spec"]["rules"]
    return [path["path"] for path in rule["http"]["paths"]]


def one_setting_moves_all_that_depends_on_it():
    moved = render({"settings": {"LISTEN": "0.0.0.0:9000", "METRICS_LISTEN": "0.0.0.0:9090", "MAX_BODY": 1048576, "REQUIRE_BOUND_SESSIONS": True},
                    "podMonitor": {"enabled": True}})
    container, environment = container_of(moved), environment_of(moved)
    assert environment["TOKEN_RELAY_MAX_BODY"] == "1048576", environment
    assert environment["TOKEN_RELAY_REQUIRE_BOUND_SESSIONS"] == "true", environment
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": 9000, "metrics": 9090}, ports
    assert all(container[probe]["httpGet"]["port"] == "http" for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert one(moved, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    # Large numbers of every kind, as settings and as the chart's own values.
    large = render({"settings": {"MEMORY_STORE_MAX": 2147483648, "MAX_STREAMS": 3000000}, "terminationGracePeriodSeconds": 2000000,
                    "redis": {"enabled": True}, "autoscaling": {"enabled": True, "streamsOpen": 2500000}})
    assert environment_of(large)["TOKEN_RELAY_MEMORY_STORE_MAX"] == "2147483648"
    assert one(large, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 2000000
    assert one(large, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == "2500000"
    # Two ways to write a truth value.
    for word, count in [(True, 8), ("true", 8), ("on", 8), (False, 3), ("false", 3), ("off", 3)]:
        paths = paths_of(render({"settings": {"MEET_COMPATIBLE": word}, "ingress": {"enabled": True}}))
        assert len(paths) == count, (word, paths)
    # Seconds, as Django has them.
    assert environment_of(render({"settings": {"ADDONS_TOKEN_TTL": 2000000}}))["TOKEN_RELAY_ADDONS_TOKEN_TTL"] == "2000000"
    return environment


def clients_stay_as_they_are_written():
    for text in ["\n  [clients.outlook]\nname = \"Outlook\"\n", "[clients.a]\r\nname = \"{{ A }}\"\r\n", "# é\t'quoted'\n\n\n"]:
        objects = render({"clients": text})
        assert one(objects, "ConfigMap")["data"]["clients.toml"] == text, objects
        assert container_of(objects)["args"] == ["serve", "--config", "/etc/token-relay/clients.toml"]


def the_public_host_is_routed():
    for url, host in [("https://relay.example", "relay.example"), ("https://relay.example:8443/", "relay.example")]:
        objects = render({"settings": {"PUBLIC_URL": url}, "ingress": {"enabled": True}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}})
        assert one(objects, "Ingress")["spec"]["rules"][0]["host"] == host
        route = one(objects, "HTTPRoute")["spec"]
        assert route["hostnames"] == [host] and route["parentRefs"] == [{"name": "gateway"}], route
        [rule] = route["rules"]
        assert [match["path"]["value"] for match in rule["matches"]] == paths_of(objects) == ["/.well-known", "/addons", "/callback"], rule
        assert rule["backendRefs"] == [{"name": "demo-token-relay", "port": 80}], rule


def the_test_pod_reaches_the_service_and_is_none_of_it():
    objects = render({"networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]}, "imagePullSecrets": [{"name": "registry"}]})
    pod, service = one(objects, "Pod"), one(objects, "Service")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    labels = pod["metadata"]["labels"]
    assert not service["spec"]["selector"].items() <= labels.items(), "the Service would choose the pod of the test"
    peers = one(objects, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert any(peer.get("podSelector", {}).get("matchLabels", {"no": "label"}).items() <= labels.items() for peer in peers), peers
    [container] = pod["spec"]["containers"]
    assert container["image"] == container_of(objects)["image"]
    return container["args"]


def the_notes_say_what_to_do():
    plain = notes({})
    for words in ["https://relay.example/callback", "helm test demo -n web", "memory of one pod", "ingress and httpRoute", "TRUSTED_PROXIES is empty"]:
        assert words in plain, plain
    assert "/operator/" not in plain, plain
    full = notes({"replicas": 2, "redis": {"enabled": True}, "ingress": {"enabled": True, "host": "other.example"},
                  "settings": {"TRUSTED_PROXIES": "10.0.0.0/8", "METRICS_LISTEN": "0.0.0.0:9090"}})
    for words in ["ingress.host is other.example", "http://localhost:9090/operator/"]:
        assert words in full, full
    for words in ["memory", "Nothing outside", "is empty"]:
        assert words not in full, full
    token = notes({"secretFiles": {"existingSecret": "files", "names": ["OPERATOR_TOKEN"]}, "tls": {"existingSecret": "tls"}})
    assert "https://localhost:8080/operator/" in token, token


def main():
    print(f"{matrix()} combinations of values rendered and valid for Kubernetes {' and '.join(KUBERNETES)}")

    report = helm_python.lint(CHART, BASE, strict=True)
    assert not report.get("errors"), report

    for values, word in WRONG:
        refused(values, word)
    print(f"{len(WRONG)} wrong sets of values refused")
    environment = one_setting_moves_all_that_depends_on_it()
    clients_stay_as_they_are_written()
    the_public_host_is_routed()
    healthcheck = the_test_pod_reaches_the_service_and_is_none_of_it()
    the_notes_say_what_to_do()
    # The longest name that Helm takes.
    render({"clients": "# none"}, name="r" * 53)
    json.dump({"environments": {"moved": environment, "meet": beside_meet()}, "healthcheck": healthcheck}, sys.stdout)
    print()


main()
