"""Reads what an exporter renders."""

from prometheus_client.parser import text_string_to_metric_families


def read(body: bytes) -> dict[str, float]:
    return {
        sample.name + "".join(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
