"""Subscribes to InferTrace's insights and trace summaries and prints each as a line of JSON.

    python insights.py --bootstrap HOST:PORT --registry http://HOST:PORT    # ids that a registry gave
    python insights.py --bootstrap HOST:PORT --schemas schemas/avro         # the .avsc files of the release

A value is 0x00, a 4-byte big-endian schema id, the Avro body (Confluent's wire format). An id with its top bit set
is InferTrace's own, for topics written without a registry: read such a value with the .avsc file of its topic.
"""

import argparse
import io
import json
import pathlib
import urllib.request

import confluent_kafka
import fastavro

FILES = {
    "infertrace.insights.v1": "insight.v1.avsc",
    "infertrace.traces.v1": "trace_summary.v1.avsc",
}
OWN_ID = 0x8000_0000


class Schemas:
    """Schemas by id; each is fetched once."""

    def __init__(self, registry, folder):
        self.registry, self.folder, self.known = registry, folder, {}

    def of(self, schema_id, topic):
        key = (schema_id, topic)
        if key not in self.known:
            self.known[key] = fastavro.parse_schema(json.loads(self.fetch(schema_id, topic)))
        return self.known[key]

    def fetch(self, schema_id, topic):
        if schema_id & OWN_ID:
            if not self.folder:
                raise LookupError(f"schema id {schema_id:#010x} is InferTrace's own: give --schemas")
            return (pathlib.Path(self.folder) / FILES[topic]).read_text()
        if not self.registry:
            raise LookupError(f"schema id {schema_id} is a registry's: give --registry")
        with urllib.request.urlopen(f"{self.registry}/schemas/ids/{schema_id}", timeout=10) as answer:
            return json.load(answer)["schema"]


def decode(message, schemas):
    value = message.value() or b""
    if len(value) < 5 or value[0] != 0:
        raise ValueError("not in Confluent's wire format")
    schema_id = int.from_bytes(value[1:5], "big")
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), schemas.of(schema_id, message.topic()), None)


def line(topic, record):
    if topic == "infertrace.traces.v1":
        names = ["trace_id", "version", "root_service", "duration_nanos", "span_count", "output_tokens"]
        return {name: record[name] for name in names}
    names = ["id", "revision", "state", "severity", "model", "title"]
    causes, advice = record["causes"], record["recommendation"]
    return {name: record[name] for name in names} | {
        "cause": causes[0]["cause"] if causes else "",
        "recommendation": advice["text"] if advice else "",
    }


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("--bootstrap", required=True)
    flags.add_argument("--registry")
    flags.add_argument("--schemas")
    flags.add_argument("--count", type=int, default=0, help="stop after so many records; 0 for never")
    flags = flags.parse_args()
    schemas = Schemas(flags.registry, flags.schemas)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": flags.bootstrap,
            "group.id": "insights-python",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe(list(FILES))
    seen = 0
    while not flags.count or seen < flags.count:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise confluent_kafka.KafkaException(message.error())
        seen += 1
        try:
            shown = line(message.topic(), decode(message, schemas))
        except Exception as error:  # One bad record must not stop the stream: say which, go on.
            shown = {"partition": message.partition(), "offset": message.offset(), "error": str(error)}
        print(json.dumps({"topic": message.topic()} | shown), flush=True)
    consumer.close()


main()
