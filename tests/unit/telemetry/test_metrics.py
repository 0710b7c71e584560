"""Metrics: what is added comes out in Prometheus text."""

import pytest

from angarium.errors import Misconfigured
from angarium.telemetry.metrics import LABEL_VALUES_MAX, Metrics


def test_every_kind_is_rendered_with_its_help_and_type() -> None:
    metrics = Metrics()
    metrics.counter("sends_total", "Sends.").add(2)
    metrics.labelled("errors_total", "Errors by code.", "code").add('a"b')
    metrics.gauge("connections", "Open now.", lambda: 7)
    histogram = metrics.histogram("ack_s", "Send to ok.", [0.1, 1])
    for seconds in (0.05, 0.1, 0.5, 3):
        histogram.observe(seconds)

    assert metrics.render().splitlines() == [
        "# HELP angarium_ack_s Send to ok.",
        "# TYPE angarium_ack_s histogram",
        'angarium_ack_s_bucket{le="0.1"} 2',
        'angarium_ack_s_bucket{le="1"} 3',
        'angarium_ack_s_bucket{le="+Inf"} 4',
        "angarium_ack_s_sum 3.65",
        "angarium_ack_s_count 4",
        "# HELP angarium_connections Open now.",
        "# TYPE angarium_connections gauge",
        "angarium_connections 7",
        "# HELP angarium_errors_total Errors by code.",
        "# TYPE angarium_errors_total counter",
        'angarium_errors_total{code="a\\"b"} 1',
        "# HELP angarium_sends_total Sends.",
        "# TYPE angarium_sends_total counter",
        "angarium_sends_total 2",
    ]


def test_label_values_are_bounded() -> None:
    counter = Metrics().labelled("errors_total", "", "code")
    for n in range(LABEL_VALUES_MAX + 50):
        counter.add(f"value{n}")

    assert len(counter.values) == LABEL_VALUES_MAX + 1
    assert counter.values["other"] == 50


def test_a_broken_gauge_leaves_the_others_on_the_page() -> None:
    metrics = Metrics()
    metrics.gauge("broken", "", lambda: 1 / 0)
    metrics.gauge("sound", "", lambda: 1)

    assert "angarium_sound 1" in metrics.render()


@pytest.mark.parametrize("name", ["taken", "Bad", "white space"])
def test_a_name_is_free_and_well_formed(name: str) -> None:
    metrics = Metrics()
    metrics.counter("taken", "")

    with pytest.raises(Misconfigured):
        metrics.counter(name, "")
