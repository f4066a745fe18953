"""Metrics of the front, and of all replicas on one page, with the label `replica`."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0)
LABEL = "replica"


class FrontMetrics:
    """What the front counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests that a replica was chosen for.", LABEL)
        self.refused = self._counter("refused", "Requests that the front has refused, by error code.", "code")
        self.failed = self._counter("failed", "Requests whose replica has left them unfinished.", LABEL)
        self.deaths = self._counter("replica_deaths", "Processes of replicas that have died.", LABEL)
        self.chosen = Histogram(
            "mossvl_front_choice_seconds",
            "Time from a request's last byte to its replica.",
            buckets=SECONDS,
            registry=self.registry,
        )

    def watch(self, name: str, help: str, values: Mapping[int, Callable[[], float]]) -> None:
        """Add a gauge that is read of each replica at every scrape."""
        gauge = Gauge(f"mossvl_front_{name}", help, [LABEL], registry=self.registry)
        for replica, value in values.items():
            gauge.labels(str(replica)).set_function(value)

    def page(self, pages: Mapping[int, str]) -> bytes:
        """Return the front's metrics and those of the replicas' pages, in Prometheus' text format."""
        return generate_latest(self.registry) + _together(pages).encode()

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"mossvl_front_{name}", help, labels, registry=self.registry)


def _together(pages: Mapping[int, str]) -> str:
    """The families of several pages as one page, each sample with the number of its replica.

    Lines are kept as they are: parsing them would hold up all streams for tens of milliseconds.
    """
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, page in pages.items():
        family, label = "", f'{LABEL}="{replica}"'
        for line in page.split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                _, kind, family, _ = line.split(" ", 3)
                heads.setdefault(family, {}).setdefault(kind, line)
            elif line and not line.startswith("#"):
                name, brace, labels = line.partition("{")
                if brace and " " not in name:
                    labelled = f"{name}{{{label}{'' if labels.startswith('}') else ','}{labels}"
                else:
                    labelled = line.replace(" ", f"{{{label}}} ", 1)
                samples.setdefault(family, []).append(labelled)
    return "".join(f"{line}\n" for family, head in heads.items() for line in (*head.values(), *samples.get(family, ())))
