#!/usr/bin/env python3
"""Writes token-relay/values.schema.json: the shape of the values, with the names of the settings as
docs/settings.md has them. `--check` only compares."""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE / "token-relay/values.schema.json"
# Files in the pod: the chart mounts these two, and the third would go with the pod, on a file system that
# nothing can write to.
NOT_SETTABLE = {"TLS_CERTIFICATE", "TLS_KEY", "STATE_FILE"}
# The log filter, which is no setting.
FILTER = "LOG"
# Truth values without a default.
FLAGS = {"REQUIRE_BOUND_SESSIONS": "`false`"}


def settings():
    """Settings of the table with their defaults: plain ones, and those that may come from a file since they are secret."""
    rows = re.findall(r"^\| `([A-Z0-9_]+)`(?:`?(\[_FILE\])`)? \| (.*?) \|", (HERE.parent.parent / "docs/settings.md").read_text(), re.M)
    plain = {name: default for name, file, default in rows if not file and name not in NOT_SETTABLE}
    return plain | FLAGS | {FILTER: ""}, [name for name, file, _ in rows if file]


def kind(name, default):
    """What a setting takes, by its default; the relay knows the rest. Text must be text: of a client ID in digits, as a
    number, Helm would keep the first sixteen, and of `off` the truth value."""
    value = re.match("`([^`]*)`", default)
    value = value[1] if value else None
    if value in ("true", "false"):
        return {"type": ["boolean", "string"], "pattern": "^(true|false|1|0|yes|no|on|off|)$"}
    if value and re.fullmatch("[0-9]+", value):
        return {"type": ["number", "string"], "pattern": "^[0-9.]*$"}
    if value and re.fullmatch("[0-9]+(s|m|h|days)", value):
        # Those that a Django service has too are seconds there.
        if name.startswith("ADDONS_"):
            return {"type": ["integer", "string"], "pattern": "^([0-9]+ *(ms|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?|w|weeks?)? *)*$"}
        return {"type": "string", "pattern": "^([0-9]+ *(ms|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?|w|weeks?) *)*$"}
    return {"type": "string"}


def closed(properties, **more):
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


def whole(properties):
    """All of them have a default, so that only `null` leaves one out."""
    return closed(properties, required=[name for name in properties if name != "global"])


def schema():
    plain, secret = settings()
    assert len(plain) > 40 and len(secret) >= 8, (plain, secret)
    text, flag, count = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 1}
    words = {"type": "object", "additionalProperties": text}
    anything, things = {"type": "object"}, {"type": "array", "items": {"type": "object"}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart token-relay",
        **whole(
            {
                "image": whole({"repository": text, "tag": text, "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
                                 "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]}}),
                "imagePullSecrets": things,
                "replicas": {"type": "integer", "minimum": 0},
                "redis": whole({"enabled": flag}),
                "settings": closed({name: kind(name, default) for name, default in plain.items()}),
                "clients": {"type": "string", "description": "TOML"},
                "existingSecret": text,
                "secretFiles": whole({"existingSecret": text, "names": {"type": "array", "items": {"enum": secret}, "uniqueItems": True}}),
                "tls": whole({"existingSecret": text}),
                "autoscaling": whole({"enabled": flag, "minReplicas": count, "maxReplicas": count, "streamsOpen": count}),
                "podDisruptionBudget": whole({"enabled": flag, "maxUnavailable": {"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]+%$"}}),
                "service": whole({"port": {"type": "integer", "minimum": 1, "maximum": 65535}, "annotations": words}),
                "ingress": whole({"enabled": flag, "className": text, "host": text, "tlsSecret": text, "annotations": words}),
                "httpRoute": whole({"enabled": flag, "host": text, "parentRefs": things, "annotations": words}),
                "serviceAccount": whole({"create": flag, "name": text, "annotations": words}),
                "networkPolicy": whole({"enabled": flag, "from": things, "metricsFrom": things}),
                "podMonitor": whole({"enabled": flag, "labels": words}),
                "resources": anything,
                "terminationGracePeriodSeconds": count,
                "extraEnv": things,
                "extraVolumes": things,
                "extraVolumeMounts": things,
                "podAnnotations": words,
                "nodeSelector": words,
                "tolerations": things,
                "affinity": anything,
                # Helm's own, for charts that contain this one.
                "global": anything,
            }
        ),
    }


def main():
    wanted = json.dumps(schema(), indent=2) + "\n"
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != wanted:
            sys.exit(f"{TARGET.name} is not what deploy/helm/schema.py makes: run it")
    else:
        TARGET.write_text(wanted)


main()
