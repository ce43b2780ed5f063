"""The schemas of KubeRay's kinds, made strict: a misspelt key is an error, where the API drops it.

`python tests/support/k8s_crds.py FOLDER` makes tests/k8s/crds anew from a folder of KubeRay's
ray.io_*.yaml: version v1 without its descriptions, which are nine tenths of the files.

Limits: rules in CEL are not JSON Schema; tests/support/k8s_operator.py restates them.
"""

import functools
import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[1] / "k8s" / "crds"
KINDS = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
# Where somebody has KubeRay's own files at hand: the copies here are held against them.
ORIGINALS = Path(os.environ.get("KUBERAY_CRDS") or FOLDER.parents[2] / "../shared/kuberay-crds")

Schema = dict[str, Any]


def reduced(path: Path) -> Schema:
    """The schema of version v1 of a CRD file, without descriptions."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(path.read_text(), Loader=loader)
    (version,) = [one for one in crd["spec"]["versions"] if one["name"] == "v1"]
    return _without_descriptions(version["schema"]["openAPIV3Schema"])


def _without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _without_descriptions(value)
            for key, value in node.items()
            if not (key == "description" and isinstance(value, str))
        }
    return [_without_descriptions(one) for one in node] if isinstance(node, list) else node


def shipped(kind: str) -> Schema:
    """The copy in this repository."""
    return json.loads(gzip.decompress((FOLDER / f"{kind}.json.gz").read_bytes()))


@functools.cache
def validator(kind: str) -> Draft202012Validator:
    """Refuses unknown keys wherever the schema lists the known ones."""
    return Draft202012Validator(_strict(shipped(kind)))


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items()}
    if node.get("x-kubernetes-int-or-string") is True:
        return {
            "type": ["integer", "string"],
            **{k: v for k, v in strict.items() if k == "pattern"},
        }
    is_object = isinstance(node.get("properties"), dict) and node.get("type") == "object"
    if is_object and not node.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    if is_object and "apiVersion" in node["properties"] and "metadata" in node["properties"]:
        strict["properties"]["metadata"] = _metadata()  # the CRD leaves it to the API server
    if node.get("format") == "int32":
        strict |= {"minimum": max(node.get("minimum", -(2**31)), -(2**31)), "maximum": 2**31 - 1}
    return strict


def _metadata() -> Schema:
    words = {"type": "object", "additionalProperties": {"type": "string"}}
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": words,
            "annotations": words,
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def schema_errors(manifest: dict[str, Any]) -> list[str]:
    """What the schema of its kind says of a RayCluster or RayJob."""
    errors = validator(manifest["kind"]).iter_errors(manifest)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


def write(folder: Path) -> None:
    for kind, name in KINDS.items():
        text = json.dumps(reduced(folder / name), separators=(",", ":"), sort_keys=True)
        (FOLDER / f"{kind}.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
