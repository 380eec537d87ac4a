"""Metrics for Prometheus, only where a port was asked for: the client library costs memory (about 14 MiB).

What there is to count is declared once, as data. A name, kind or label that was not declared is a bug and
raises, with metrics switched off as well as on.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, has_dualstack_ipv6
from socketserver import TCPServer
from typing import Protocol, assert_never


class Kind(Enum):
    """What a metric does."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A declaration. Names as in Prometheus: base units, counters end in `_total`. `buckets`: upper bounds."""

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind is Kind.HISTOGRAM) != bool(self.buckets):
            raise ValueError(f"{self.name}: buckets are for histograms, which need them")
        if self.kind is Kind.COUNTER and not self.name.endswith("_total"):
            raise ValueError(f"{self.name}: a counter's name ends in _total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to serve: an IP address (empty: all of them) and a port (0: any free one)."""

    host: str
    port: int


class Metrics(Protocol):
    """Where numbers go. Methods may be called from any thread."""

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Note a value in a histogram."""

    def close(self) -> None:
        """Stop serving."""


def open_metrics(declared: tuple[Metric, ...], listen: Listen | None) -> Metrics:
    """Serve the declared metrics at `listen`, or only check their use if None. OSError if the port can't be
    had.
    """
    return NoMetrics(declared) if listen is None else PrometheusMetrics(declared, listen)


def parse_listen(text: str) -> Listen:
    """Read `port`, `address:port` or `[address]:port`. ValueError says what is allowed."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    try:
        address = ip_address(bare) if bare else None
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError("port is not a number from 0 to 65535")
        if bracketed != (address is not None and address.version == 6):
            raise ValueError("IPv6 addresses, and only those, stand in brackets")
    except ValueError as error:
        raise ValueError(f"{text!r}: want PORT, ADDRESS:PORT or [IPV6]:PORT ({error})") from error
    return Listen(host=bare, port=int(port))


class _Declared:
    def __init__(self, declared: tuple[Metric, ...]) -> None:
        self._by_name = {metric.name: metric for metric in declared}
        if len(self._by_name) != len(declared):
            raise ValueError("two metrics have the same name")

    def check(self, name: str, kind: Kind, labels: Mapping[str, str]) -> None:
        metric = self._by_name.get(name)
        if metric is None or metric.kind is not kind:
            raise ValueError(f"{name} is not declared as a {kind.value}")
        if labels.keys() != set(metric.labels):
            raise ValueError(f"{name} has the labels {metric.labels}, not {tuple(sorted(labels))}")


class NoMetrics:
    """Checks names and labels and forgets the values."""

    def __init__(self, declared: tuple[Metric, ...]) -> None:
        self._declared = _Declared(declared)

    def count(self, name: str, _amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        self._declared.check(name, Kind.COUNTER, labels)

    def gauge(self, name: str, _value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._declared.check(name, Kind.GAUGE, labels)

    def observe(self, name: str, _value: float, /, **labels: str) -> None:
        """Note a value in a histogram."""
        self._declared.check(name, Kind.HISTOGRAM, labels)

    def close(self) -> None:
        """Nothing to stop."""


class PrometheusMetrics:
    """Serves metrics over HTTP from a thread of its own, together with those of the process (memory, CPU,
    files).
    """

    def __init__(self, declared: tuple[Metric, ...], listen: Listen) -> None:
        # Imported here and nowhere else, so that a process without metrics doesn't hold it in memory.
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            MetricsHandler,
            ProcessCollector,
        )

        self._declared = _Declared(declared)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in declared:
            name, about, labels = metric.name, metric.help, metric.labels
            match metric.kind:
                case Kind.COUNTER:
                    self._counters[name] = Counter(name, about, labels, registry=registry)
                case Kind.GAUGE:
                    self._gauges[name] = Gauge(name, about, labels, registry=registry)
                case Kind.HISTOGRAM:
                    self._histograms[name] = Histogram(
                        name, about, labels, registry=registry, buckets=metric.buckets
                    )
                case _:
                    assert_never(metric.kind)
        self._server = HttpServer(listen, MetricsHandler.factory(registry))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port served, also where any free one was asked for."""
        return int(self._server.server_address[1])

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        self._declared.check(name, Kind.COUNTER, labels)
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._declared.check(name, Kind.GAUGE, labels)
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Note a value in a histogram."""
        self._declared.check(name, Kind.HISTOGRAM, labels)
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class HttpServer(ThreadingHTTPServer):
    """Answers requests in threads. Raises OSError if the address or port can't be had."""

    def __init__(self, listen: Listen, handler: type[BaseHTTPRequestHandler]) -> None:
        # Read by the base class: without an address, one socket for both families where the system can do it.
        self._both = not listen.host and has_dualstack_ipv6()
        self.address_family = AF_INET6 if self._both or ":" in listen.host else AF_INET
        super().__init__((listen.host, listen.port), handler)

    def server_bind(self) -> None:
        """Bind without http.server's look-up of the own host name, which waits for DNS."""
        if self._both:
            self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
