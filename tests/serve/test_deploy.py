"""The deployment examples: each can be parsed, and names what the code has."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

import nearfar_command
from offload.config.settings import ServeSettings
from offload.messages import EngineLoad
from serve.app import build_app
from serve.metrics import Metrics
from tests.offload.scripted import ScriptedEngine

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

FOLDER = Path(__file__).parents[2] / "examples" / "deploy"
DOCKERFILES = sorted(FOLDER.glob("Dockerfile.*"))
METRIC = re.compile(r"nearfar:(\w+)")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def accepts(words: list[str]) -> bool:
    """Whether the command knows these words and options."""
    at = words.index("nearfar")
    command, options = [], []
    for word in words[at + 1 :]:
        (options if word.startswith("--") else command).append(word)
    command = [word for word in command if word.isalpha()][: 2 if command[0] == "cloud" else 1]
    done = CliRunner().invoke(nearfar_command.whole_app(), [*command, "--help"], terminal_width=200)
    return done.exit_code == 0 and all(option in done.output for option in options)


class LoadReporting(ScriptedEngine):
    """An engine that tells its load, as that of `nearfar cloud serve` does."""

    def report(self) -> EngineLoad:
        return EngineLoad()

    def replica_counts(self) -> dict[str, int]:
        return {"ready": 1}


def metric_names() -> set[str]:
    metrics = Metrics(LoadReporting())
    page = metrics.page().decode()
    families = list(text_string_to_metric_families(page))
    names = {family.name for family in families}
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    full = {f.name + end for f in families for end in kinds.get(f.type, ("",))}
    assert names, "the page can be parsed"
    return {name.removeprefix("nearfar:") for name in full}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_a_dockerfile_runs_a_command_that_there_is_and_not_as_root(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "CMD"}
    assert {word for word, _ in steps} <= known | {"HEALTHCHECK"} and steps[0][0] == "FROM"
    assert [rest for word, rest in steps if word == "USER"] == ["nearfar"]
    (command,) = [json.loads(rest) for word, rest in steps if word == "CMD"]
    assert accepts(command)


def test_the_dockerfiles_are_those_of_cpu_cuda_and_jetson() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".cpu", ".cuda", ".jetson"]


def test_the_unit_starts_a_command_that_there_is() -> None:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / "nearfar-cloud.service", encoding="utf-8")
    words = shlex.split(parser["Service"]["ExecStart"])
    assert accepts([Path(words[0]).name, *words[1:]])
    assert parser["Service"]["User"] == "nearfar" and parser["Install"]["WantedBy"]


def test_the_compose_file_names_files_and_settings_that_there_are() -> None:
    (compose,) = documents("compose.yaml")
    build = compose["services"]["cloud"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
    for name in compose["services"]["cloud"]["environment"]:
        assert hasattr(ServeSettings(), name.removeprefix("NEARFAR_SERVE_").lower())
    for service in compose["services"].values():
        mounts = [each.split(":")[0] for each in service["volumes"] if each.startswith("./")]
        assert all((FOLDER / mount).is_file() for mount in mounts)


def test_the_kubernetes_objects_fit_together() -> None:
    deployment, volume, service = documents("kubernetes/base/deployment.yaml")
    (scaled,) = documents("kubernetes/overlays/keda/keda.yaml")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert accepts(container["args"])
    routes = {getattr(route, "path", "") for route in build_app(ScriptedEngine()).routes}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in routes
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert labels == pod["metadata"]["labels"] == service["spec"]["selector"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert volumes.keys() == mounts.keys() and mounts["data"] == "/data"
    claim = volumes["data"]["persistentVolumeClaim"]["claimName"]
    assert claim == volume["metadata"]["name"], "what a pod keeps outlives it"
    settings = {each["name"]: each.get("value", "") for each in container["env"]}
    assert all(hasattr(ServeSettings(), n.split("_", 2)[2].lower()) for n in settings)
    (item,) = volumes["keys"]["secret"]["items"]
    assert settings["NEARFAR_SERVE_LINK_KEYS"] == f"{mounts['keys']}/{item['path']}"
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert set(METRIC.findall(query)) <= metric_names()


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for expression in asked for name in METRIC.findall(expression)}
    assert len(names) >= 8 and names <= metric_names()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize("folder", ["base", "overlays/keda"])
def test_a_kustomization_names_resources_that_there_are(folder: str) -> None:
    (custom,) = documents(f"kubernetes/{folder}/kustomization.yaml")
    found = [FOLDER / "kubernetes" / folder / each for each in custom["resources"]]
    assert found and all(each.exists() for each in found)
    # kustomize refuses a file above the folder, and takes a folder there.
    above = [path for path in found if FOLDER / "kubernetes" / folder not in path.parents]
    assert all(path.is_dir() for path in above if ".." in path.parts)


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    (rules,) = documents("rules.yaml")
    all_rules = [rule for group in rules["groups"] for rule in group["rules"]]
    alerts = [rule for rule in all_rules if "alert" in rule]
    asked = {name for rule in all_rules for name in METRIC.findall(rule["expr"])}
    assert len(alerts) >= 5 and asked <= metric_names()
    assert all(rule["annotations"]["summary"] and rule["for"] for rule in alerts)


def test_prometheus_scrapes_with_a_key() -> None:
    (config,) = documents("prometheus.yaml")
    (compose,) = documents("compose.yaml")
    mounts = [each.split(":") for each in compose["services"]["prometheus"]["volumes"]]
    assert config["rule_files"] == [where for what, where, *_ in mounts if what == "./rules.yaml"]
    (job,) = config["scrape_configs"]
    assert job["authorization"]["type"] == "Bearer"
