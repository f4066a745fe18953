"""Metrics of the front, and of all replicas on one page, with the label `replica`."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

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
        together = CollectorRegistry()
        together.register(_Together(pages))
        return generate_latest(self.registry) + generate_latest(together)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"mossvl_front_{name}", help, labels, registry=self.registry)


class _Together(Collector):
    """The families of several pages as one, each sample with the number of its replica."""

    def __init__(self, pages: Mapping[int, str]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, page in self._pages.items():
            for family in text_string_to_metric_families(page):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for one in family.samples:
                    labels = {**one.labels, LABEL: str(replica)}
                    whole.add_sample(one.name, labels, one.value, one.timestamp, one.exemplar)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        return ()
