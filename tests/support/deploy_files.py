"""Checks the files of the sample deployment and of the image with their own tools: `compose.yaml` by the
schema of the Compose specification, and that it declares one image; the Dockerfile by hadolint."""

import pathlib
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = pathlib.Path(sys.executable).parent


def checked(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def compose():
    checked(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")
    project = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    services = project["services"]
    ours = {name: service for name, service in services.items() if service["image"] == "token-relay"}
    assert set(ours) == {"relay1", "relay2", "provider"}, set(ours)
    [builder] = [name for name, service in services.items() if "build" in service]
    assert services[builder]["build"] == ".." and (ROOT / "Dockerfile").exists()
    for name, service in ours.items():
        # Nothing is fetched from a registry under that name, and nothing built twice.
        assert service["pull_policy"] == ("build" if name == builder else "never"), name
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name, service in services.items():
        assert set(service.get("secrets", [])) <= set(project["secrets"]), name
        assert set(service["networks"]) <= set(project["networks"]), name
        assert set(service.get("depends_on", [])) <= set(services), name


compose()
checked(TOOLS / "hadolint", "--failure-threshold", "style", "Dockerfile")
print("compose.yaml: one image for three services; Dockerfile: hadolint has nothing to say")
