// Subscribes to InferTrace's insights and trace summaries and prints each as a line of JSON.
//
//   mvn dependency:copy-dependencies -DoutputDirectory=lib
//   java -cp 'lib/*' Insights.java --bootstrap HOST:PORT --registry http://HOST:PORT   # ids that a registry gave
//   java -cp 'lib/*' Insights.java --bootstrap HOST:PORT --schemas schemas/avro        # the release's .avsc files
//
// A value is 0x00, a 4-byte big-endian schema id, the Avro body (Confluent's wire format). An id with its top bit set
// is InferTrace's own, for topics written without a registry: read such a value with the .avsc file of its topic.

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class Insights {
    static final String TRACES = "infertrace.traces.v1";
    static final Map<String, String> FILES =
            Map.of("infertrace.insights.v1", "insight.v1.avsc", TRACES, "trace_summary.v1.avsc");
    static final ObjectMapper JSON = new ObjectMapper();
    static final HttpClient HTTP = HttpClient.newHttpClient();

    static Map<String, String> flags = new HashMap<>();
    static Map<String, Schema> known = new HashMap<>();

    public static void main(String[] args) throws Exception {
        for (int i = 0; i + 1 < args.length; i += 2) {
            flags.put(args[i], args[i + 1]);
        }
        Properties config = new Properties();
        config.put("bootstrap.servers", flags.get("--bootstrap"));
        config.put("group.id", "insights-java");
        config.put("auto.offset.reset", "earliest");
        config.put("isolation.level", "read_committed");
        int count = Integer.parseInt(flags.getOrDefault("--count", "0"));
        try (var consumer =
                new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(FILES.keySet());
            for (int seen = 0; count == 0 || seen < count; ) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    seen++;
                    show(record);
                }
            }
        }
    }

    static void show(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode line = JSON.createObjectNode().put("topic", record.topic());
        try {
            GenericRecord value = decode(record);
            if (record.topic().equals(TRACES)) {
                copy(value, line, "trace_id", "version", "root_service", "duration_nanos", "span_count", "output_tokens");
            } else {
                copy(value, line, "id", "revision", "state", "severity", "model", "title");
                List<?> causes = (List<?>) value.get("causes");
                line.put("cause", causes.isEmpty() ? "" : text((GenericRecord) causes.get(0), "cause"));
                GenericRecord advice = (GenericRecord) value.get("recommendation");
                line.put("recommendation", advice == null ? "" : text(advice, "text"));
            }
        } catch (Exception error) { // One bad record must not stop the stream: say which, go on.
            line.put("partition", record.partition()).put("offset", record.offset()).put("error", error.toString());
        }
        System.out.println(line);
    }

    static GenericRecord decode(ConsumerRecord<byte[], byte[]> record) throws Exception {
        byte[] value = record.value();
        if (value == null || value.length < 5 || value[0] != 0) {
            throw new IllegalArgumentException("not in Confluent's wire format");
        }
        int id = ByteBuffer.wrap(value, 1, 4).getInt();
        String key = id + " " + record.topic();
        if (!known.containsKey(key)) {
            known.put(key, new Schema.Parser().parse(fetch(id, record.topic())));
        }
        var body = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null);
        return new GenericDatumReader<GenericRecord>(known.get(key)).read(null, body);
    }

    static String fetch(int id, String topic) throws Exception {
        if (id < 0) { // The top bit.
            if (!flags.containsKey("--schemas")) {
                throw new IllegalStateException("schema id " + Integer.toHexString(id) + " is InferTrace's own: give --schemas");
            }
            return Files.readString(Path.of(flags.get("--schemas"), FILES.get(topic)));
        }
        if (!flags.containsKey("--registry")) {
            throw new IllegalStateException("schema id " + id + " is a registry's: give --registry");
        }
        URI uri = URI.create(flags.get("--registry") + "/schemas/ids/" + id);
        var request = HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(10)).build();
        var answer = HTTP.send(request, BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IllegalStateException("the registry has no schema " + id + ": " + answer.statusCode());
        }
        return JSON.readTree(answer.body()).get("schema").asText();
    }

    static void copy(GenericRecord from, ObjectNode to, String... names) {
        for (String name : names) {
            Object value = from.get(name);
            if (value instanceof Long number) {
                to.put(name, number);
            } else if (value instanceof Integer number) {
                to.put(name, number);
            } else {
                to.put(name, value == null ? null : value.toString());
            }
        }
    }

    static String text(GenericRecord record, String name) {
        return record.get(name).toString();
    }
}
