"""What is counted of live sessions."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mossvl.live.events import Decision, Dropped, Evicted, Limit, LiveEvent, RolledOver, Seen
from mossvl.live.usage import Usage

LAGS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)


class LiveMetrics:
    """Metrics of all live sessions of a server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"mossvl_live_{name}", help, labels, registry=registry)

        self.active = Gauge("mossvl_live_sessions", "Live sessions.", registry=registry)
        self.begun = counter("sessions_begun", "Live sessions that were begun, by protocol.", "protocol")
        self.refused = counter("sessions_refused", "Clients that there was no room for.")
        self.ended = counter("sessions_ended", "Connections of live sessions by how they ended.", "how")
        lag = "Time from the push of a frame to the decision after it."
        self.lag = Histogram("mossvl_live_frame_lag_seconds", lag, buckets=LAGS, registry=registry)
        self.decisions = counter("decisions", "Decisions after frames and prompts: silent or speaking.", "kind")
        self.dropped = counter("frames_dropped", "Frames that the model has not seen, by reason.", "reason")
        self.evicted = counter("frames_evicted", "Frames that have left their session's window.")
        self.rolled_over = counter("roll_overs", "Sessions that went on in a new context, by reason.", "reason")
        self.limits = counter("limits", "Replies that were stopped by a limit, by its name.", "kind")
        self.tokens = counter("tokens", "Tokens of live sessions by kind: text, vision and new.", "kind")

    def told(self, event: LiveEvent) -> None:
        """Count an event of a session; its tokens are counted at its end (`used`)."""
        match event:
            case Seen():
                self.lag.observe(event.lag)
            case Decision():
                self.decisions.labels("silent" if event.silent else "speaking").inc()
            case Dropped():
                self.dropped.labels(event.reason).inc(len(event.times))
            case Evicted():
                self.evicted.inc(len(event.times))
            case RolledOver():
                self.rolled_over.labels(event.reason).inc()
            case Limit():
                self.limits.labels(event.kind).inc()

    def used(self, usage: Usage) -> None:
        """Count the tokens of a session that has ended."""
        for kind, count in (("text", usage.text_input), ("vision", usage.vision), ("new", usage.text_output)):
            self.tokens.labels(kind).inc(count)
