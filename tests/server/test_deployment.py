"""The files of `examples/deployment` name metrics, routes and flags that the server has."""

import json
import re
import shlex
from pathlib import Path

import httpx
import pytest
import yaml

from mossvl.cli.options import ServerFlags
from mossvl.server.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "examples" / "deployment"
OF_ENGINE = {"requests_running", "requests_waiting", "pages", "pages_free", "preemptions", "media_bytes"}
"""Gauges that `Metrics.watch` adds."""
FLAGS = {"--host", "--port", *(name for flag in ServerFlags.flags.values() for name in flag.names or ())} | {
    f"--{name.replace('_', '-')}" for name, flag in ServerFlags.flags.items() if not flag.names
}
BESIDE = {"-c", "--data-parallel-size"}
"""Flags that are no option of `ServerConfig`."""


def metrics() -> set[str]:
    families = list(Metrics().registry.collect())
    counters = {f"{one.name}_total" for one in families if one.type == "counter"}
    buckets = {f"{one.name}_bucket" for one in families if one.type == "histogram"}
    return {one.name for one in families} | counters | buckets | {f"mossvl_{name}" for name in OF_ENGINE}


def names(expression: str) -> set[str]:
    return set(re.findall(r"\bmossvl_\w+", expression))


def test_dashboards_show_metrics_that_there_are():
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    for panel in panels:
        named = {name for target in panel["targets"] for name in names(target["expr"])}
        assert named and named <= metrics(), panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_alerts_watch_metrics_that_there_are():
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        used = names(rule["expr"])
        assert used <= metrics(), rule
        assert set(re.findall(r"mossvl:[\w:]+", rule["expr"])) <= recorded
        assert used or "mossvl:" in rule["expr"] or rule["expr"].startswith("up")


@pytest.mark.parametrize("file", ["compose.yaml", "kubernetes.yaml", "mossvl.service"])
def test_commands_have_flags_that_the_server_takes(file):
    text = (FOLDER / file).read_text()
    if file.endswith(".service"):
        (command,) = re.findall(r"^ExecStart=\S+ serve (.*)$", text, re.MULTILINE)
        given = shlex.split(command)
    elif file == "compose.yaml":
        given = yaml.safe_load(text)["services"]["mossvl"]["command"]
    else:
        deployment = next(yaml.safe_load_all(text))
        given = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {one for one in given if one.startswith("-")} <= FLAGS | BESIDE


def test_probes_ask_routes_that_answer(server):
    (container,) = next(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))["spec"]["template"]["spec"][
        "containers"
    ]
    paths = {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert paths == {"/ready", "/health"}
    assert {httpx.get(f"{server.url}{path}").status_code for path in paths} == {200}
