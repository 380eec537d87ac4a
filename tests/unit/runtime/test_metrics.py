"""Metrics as a scraper sees them, and the checks that hold with metrics off."""

import subprocess
import sys
import threading
import urllib.request
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.metrics import (
    Kind,
    Listen,
    Metric,
    Metrics,
    NoMetrics,
    PrometheusMetrics,
    open_metrics,
    parse_listen,
)

DECLARED = (
    Metric(name="x_actions_total", help="Actions.", kind=Kind.COUNTER, labels=("kind", "result")),
    Metric(name="x_passes_total", help="Passes.", kind=Kind.COUNTER),
    Metric(name="x_claims", help="Claims.", kind=Kind.GAUGE, labels=("phase",)),
    Metric(name="x_pass_seconds", help="A pass.", kind=Kind.HISTOGRAM, buckets=(0.1, 1.0)),
)
LOCAL = Listen(host="127.0.0.1", port=0)


def scrape(port: int, host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def test_a_scraper_sees_what_was_counted() -> None:
    metrics = PrometheusMetrics(DECLARED, LOCAL)
    try:
        metrics.count("x_actions_total", kind="SetNumVfs", result="ok")
        metrics.count("x_actions_total", 2, kind="SetNumVfs", result="ok")
        metrics.count("x_passes_total")
        metrics.gauge("x_claims", 7, phase="Ready")
        metrics.observe("x_pass_seconds", 0.5)
        text = scrape(metrics.port).splitlines()
    finally:
        metrics.close()
    for line in (
        'x_actions_total{kind="SetNumVfs",result="ok"} 3.0',
        "x_passes_total 1.0",
        'x_claims{phase="Ready"} 7.0',
        'x_pass_seconds_bucket{le="0.1"} 0.0',
        'x_pass_seconds_bucket{le="1.0"} 1.0',
        "# HELP x_pass_seconds A pass.",
    ):
        assert line in text
    assert any(line.startswith("process_resident_memory_bytes ") for line in text)


def test_closing_frees_the_port_and_the_thread() -> None:
    first = PrometheusMetrics(DECLARED, LOCAL)
    port = first.port
    with pytest.raises(OSError, match="in use"):
        PrometheusMetrics(DECLARED, Listen(host="127.0.0.1", port=port))
    first.close()
    second = PrometheusMetrics(DECLARED, Listen(host="127.0.0.1", port=port))
    assert "x_passes_total 0.0" in scrape(port)
    second.close()
    assert "metrics" not in {thread.name for thread in threading.enumerate()}


def test_without_an_address_all_are_served() -> None:
    metrics = PrometheusMetrics(DECLARED, Listen(host="", port=0))
    try:
        assert "x_passes_total" in scrape(metrics.port)
    finally:
        metrics.close()


@pytest.mark.parametrize("served", [False, True])
def test_what_was_not_declared_is_a_mistake_on_and_off(served: bool) -> None:
    metrics: Metrics = open_metrics(DECLARED, LOCAL if served else None)
    try:
        with pytest.raises(ValueError, match="x_other_total is not declared as a counter"):
            metrics.count("x_other_total")
        with pytest.raises(ValueError, match="x_claims is not declared as a counter"):
            metrics.count("x_claims", phase="Ready")
        with pytest.raises(ValueError, match="not declared as a gauge"):
            metrics.gauge("x_passes_total", 1)
        with pytest.raises(ValueError, match="not declared as a histogram"):
            metrics.observe("x_claims", 1, phase="Ready")
        with pytest.raises(ValueError, match=r"has the labels \('kind', 'result'\), not \('kind',\)"):
            metrics.count("x_actions_total", kind="SetNumVfs")
        metrics.count("x_passes_total")
        metrics.gauge("x_claims", 1, phase="Ready")
        metrics.observe("x_pass_seconds", 1)
    finally:
        metrics.close()


def test_declarations_are_checked() -> None:
    with pytest.raises(ValueError, match="same name"):
        NoMetrics((DECLARED[0], DECLARED[0]))
    with pytest.raises(ValueError, match="ends in _total"):
        Metric(name="x", help="", kind=Kind.COUNTER)
    with pytest.raises(ValueError, match="buckets"):
        Metric(name="x", help="", kind=Kind.HISTOGRAM)
    with pytest.raises(ValueError, match="buckets"):
        Metric(name="x", help="", kind=Kind.GAUGE, buckets=(1,))


def test_the_library_is_loaded_only_for_a_port() -> None:
    code = (
        "import sys; from reconciler.runtime.metrics import *;"
        "open_metrics((), None); print('prometheus_client' in sys.modules);"
        "open_metrics((), Listen(host='127.0.0.1', port=0)).close(); print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9090", "", 9090),
        (":9090", "", 9090),
        ("0", "", 0),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
    ],
)
def test_where_to_listen(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == Listen(host=host, port=port)


@pytest.mark.parametrize(
    "text", ["", ":", "x", "65536", "-1", "localhost:80", "::1:80", "[127.0.0.1]:80", "[::1]", "[]:80", "1.2.3.4"]
)
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(ValueError, match="want PORT, ADDRESS:PORT"):
        parse_listen(text)


@given(text=st.text(alphabet="[]:0123456789.af٣ "))
def test_reading_an_address_is_total(text: str) -> None:
    try:
        listen = parse_listen(text)
    except ValueError:
        return
    assert 0 <= listen.port <= 65535
    assert not listen.host or ip_address(listen.host).version == (6 if "[" in text else 4)
