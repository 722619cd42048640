"""Puts a stage into an artifact, beside the others that are there; or takes them out."""

import argparse
import hashlib
import json
from pathlib import Path

# In the order in which they came, and the manifest schema that each needs.
SCHEMA_VERSIONS = {"cascade": 3, "query_cascade": 4, "early_exit": 6}


def of_artifact(description: str) -> argparse.ArgumentParser:
    """The options of a step that judges or changes an artifact by what `prepare.py` made of the data."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--artifact", type=Path, default=Path("models/artifacts/minilm-l6-v6"))
    parser.add_argument("--prepared", type=Path, default=Path("models/training/runs/prepared"))
    parser.add_argument("--binary", default="target/release/catalog-labels")
    return parser


def base(manifest: dict) -> str:
    """The model's own name, without any stage."""
    stages = [manifest[stage] for stage in SCHEMA_VERSIONS if stage in manifest]
    return stages[0]["of"] if stages else manifest["model_id"]


def named(of: str, choices) -> str:
    """The name `of` another one's model that now depends on `choices` as well."""
    digest = hashlib.sha256(json.dumps([of, choices], sort_keys=True).encode()).hexdigest()
    return f"{of.rsplit('-', 1)[0]}-{digest[:8]}"


def put(artifact: Path, manifest: dict, stage: str, entry: dict, content: dict):
    """Writes `STAGE.json` with `content`, and `entry` into the manifest; the manifest last, since it
    vouches for the rest. Its name stands for all that a label depends on: the model's own name, and
    file and threshold of each stage."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    of = base(manifest)
    manifest[stage] = {**entry, "of": of}
    manifest["files"][f"{stage}.json"] = {"sha256": digest, "bytes": len(text.encode())}
    manifest["schema_version"] = max(manifest["schema_version"], SCHEMA_VERSIONS[stage])
    manifest["model_id"] = named_with_stages(of, manifest)
    (artifact / f"{stage}.json").write_text(text, encoding="utf-8")
    write_manifest(artifact, manifest)


def named_with_stages(of: str, manifest: dict) -> str:
    """The name of the model `of` with the manifest's stages, which it has some of."""
    stages = [[name, manifest[name], manifest["files"][f"{name}.json"]["sha256"]]
              for name in SCHEMA_VERSIONS if name in manifest]
    return named(of, stages)


def choose(artifact: Path, manifest: dict, choices: dict):
    """Puts `choices` into the manifest under a name of their own. The stages stay: whoever calls has judged them by
    these choices."""
    of = named(base(manifest), choices)
    stages = [stage for stage in SCHEMA_VERSIONS if stage in manifest]
    for stage in stages:
        manifest[stage]["of"] = of
    manifest.update(choices)
    manifest["model_id"] = named_with_stages(of, manifest) if stages else of
    write_manifest(artifact, manifest)


def start_over(artifact: Path, manifest: dict, of: str, choices: dict):
    """Puts `choices` into the manifest under a name of their own, and takes all stages out: they were judged by what
    the model `of` decided."""
    for stage in SCHEMA_VERSIONS:
        manifest.pop(stage, None)
        manifest["files"].pop(f"{stage}.json", None)
    manifest.update(choices)
    manifest["model_id"] = named(of, choices)
    write_manifest(artifact, manifest)
    for stage in SCHEMA_VERSIONS:
        (artifact / f"{stage}.json").unlink(missing_ok=True)


def write_manifest(artifact: Path, manifest: dict):
    part = artifact / "manifest.json.part"
    part.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.rename(artifact / "manifest.json")
