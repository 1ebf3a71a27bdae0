#!/usr/bin/env python3
"""Writes token-relay/values.schema.json: the shape of the values, with the names of the settings as
docs/settings.md has them. `--check` only compares."""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE / "token-relay/values.schema.json"
# Set by the chart itself, or files in the pod that the chart mounts.
BY_THE_CHART = {"TLS_CERTIFICATE", "TLS_KEY"}


def names():
    """Settings of the table: plain ones, and those that may come from a file since they are secret."""
    rows = re.findall(r"^\| `([A-Z0-9_]+)`(?:`?(\[_FILE\])`)? \|", (HERE.parent.parent / "docs/settings.md").read_text(), re.M)
    plain = [name for name, file in rows if not file and name not in BY_THE_CHART]
    return plain, [name for name, file in rows if file]


def closed(properties, **more):
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


def schema():
    plain, secret = names()
    assert len(plain) > 40 and len(secret) >= 8, (plain, secret)
    text, flag, count = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 1}
    words = {"type": "object", "additionalProperties": text}
    anything, things = {"type": "object"}, {"type": "array", "items": {"type": "object"}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart token-relay",
        **closed(
            {
                "image": closed({"repository": text, "tag": text, "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
                                 "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]}}),
                "imagePullSecrets": things,
                "replicas": {"type": "integer", "minimum": 0},
                "redis": closed({"enabled": flag}),
                "settings": closed({name: {"type": ["string", "number", "boolean"]} for name in plain}),
                "clients": text,
                "existingSecret": text,
                "secretFiles": closed({"existingSecret": text, "names": {"type": "array", "items": {"enum": secret}, "uniqueItems": True}}),
                "tls": closed({"existingSecret": text}),
                "autoscaling": closed({"enabled": flag, "minReplicas": count, "maxReplicas": count, "streamsOpen": count}),
                "podDisruptionBudget": closed({"enabled": flag, "maxUnavailable": {"type": ["integer", "string"]}}),
                "service": closed({"port": {"type": "integer", "minimum": 1, "maximum": 65535}, "annotations": words}),
                "ingress": closed({"enabled": flag, "className": text, "host": text, "tlsSecret": text, "annotations": words}),
                "httpRoute": closed({"enabled": flag, "host": text, "parentRefs": things, "annotations": words}),
                "serviceAccount": closed({"create": flag, "name": text, "annotations": words}),
                "networkPolicy": closed({"enabled": flag, "from": things, "metricsFrom": things}),
                "podMonitor": closed({"enabled": flag, "labels": words}),
                "resources": anything,
                "terminationGracePeriodSeconds": count,
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
