// Answers tests/interop/clients/bridge.py with Apache Kafka's Java client: one JSON request a line in, one answer out.
// Run from source: java -cp "libs/*" Bridge.java BOOTSTRAP

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Bridge {
    static final ObjectMapper JSON = new ObjectMapper();
    static final Map<Long, KafkaConsumer<byte[], byte[]>> READERS = new HashMap<>();
    static final Map<Long, List<ConsumerRecord<byte[], byte[]>>> PENDING = new HashMap<>();
    static String bootstrap;

    static byte[] bytes(JsonNode node) throws Exception {
        return node == null || node.isNull() ? null : node.binaryValue();
    }

    static Map<String, Object> settings(Object... more) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", bootstrap));
        for (int i = 0; i < more.length; i += 2) {
            all.put((String) more[i], more[i + 1]);
        }
        return all;
    }

    static void send(JsonNode request, Iterable<JsonNode> records, Map<String, Object> settings) throws Exception {
        String topic = request.get("topic").asText();
        int partition = request.get("partition").asInt();
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<?>> sent = new ArrayList<>();
            for (JsonNode each : records) {
                if (!each.isObject()) {
                    sent.add(producer.send(new ProducerRecord<>(topic, partition, null, each.binaryValue())));
                    continue;
                }
                JsonNode time = each.get("timestamp");
                Long timestamp = time == null || time.isNull() ? null : time.asLong();
                var record = new ProducerRecord<>(topic, partition, timestamp, bytes(each.get("key")), bytes(each.get("value")));
                for (JsonNode header : each.get("headers")) {
                    record.headers().add(header.get(0).asText(), header.get(1).binaryValue());
                }
                sent.add(producer.send(record));
            }
            for (Future<?> each : sent) {
                each.get();
            }
        }
    }

    static Object produce(JsonNode request) throws Exception {
        Map<String, Object> settings = settings("compression.type", request.get("codec").asText());
        JsonNode limit = request.get("max_bytes");
        if (limit != null && !limit.isNull()) {
            settings.put("max.request.size", limit.asInt());
        }
        send(request, request.get("records"), settings);
        return null;
    }

    static Object produceInFlight(JsonNode request) throws Exception {
        send(request, request.get("values"), settings("batch.size", 200));
        return null;
    }

    static Object create(JsonNode request) throws Exception {
        Map<String, String> configs = new HashMap<>();
        request.get("configs").fields().forEachRemaining(each -> configs.put(each.getKey(), each.getValue().asText()));
        var topic = new NewTopic(
                request.get("topic").asText(), Optional.of(request.get("partitions").asInt()), Optional.empty());
        try (Admin admin = Admin.create(settings())) {
            admin.createTopics(List.of(topic.configs(configs))).all().get();
        }
        return null;
    }

    static Object delete(JsonNode request) throws Exception {
        try (Admin admin = Admin.create(settings())) {
            admin.deleteTopics(List.of(request.get("topic").asText())).all().get();
        }
        return null;
    }

    static Object partitions(JsonNode request) throws Exception {
        String topic = request.get("topic").asText();
        try (Admin admin = Admin.create(settings())) {
            return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
        } catch (ExecutionException error) {
            if (error.getCause() instanceof UnknownTopicOrPartitionException) {
                return 0;
            }
            throw error;
        }
    }

    static Object read(JsonNode request) {
        var consumer = new KafkaConsumer<>(settings(), new ByteArrayDeserializer(), new ByteArrayDeserializer());
        var where = new TopicPartition(request.get("topic").asText(), request.get("partition").asInt());
        String at = request.get("at").asText();
        consumer.assign(List.of(where));
        if (at.equals("start")) {
            consumer.seekToBeginning(List.of(where));
        } else if (at.equals("end")) {
            consumer.seekToEnd(List.of(where));
        } else if (at.startsWith("@")) {
            var found = consumer.offsetsForTimes(Map.of(where, Long.parseLong(at.substring(1))));
            consumer.seek(where, found.get(where).offset());
        } else {
            consumer.seek(where, Long.parseLong(at));
        }
        consumer.position(where);
        READERS.put(request.get("reader").asLong(), consumer);
        PENDING.put(request.get("reader").asLong(), new ArrayList<>());
        return null;
    }

    static Object take(JsonNode request) {
        long reader = request.get("reader").asLong();
        int count = request.get("count").asInt();
        var pending = PENDING.get(reader);
        long deadline = System.nanoTime() + request.get("timeout_ms").asLong() * 1_000_000;
        while (pending.size() < count) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException(pending.size() + " of " + count + " records in time");
            }
            READERS.get(reader).poll(Duration.ofMillis(200)).forEach(pending::add);
        }
        ArrayNode shown = JSON.createArrayNode();
        for (var each : pending.subList(0, count)) {
            ObjectNode record = shown.addObject();
            record.put("key", each.key());
            record.put("value", each.value());
            record.put("timestamp", each.timestamp());
            record.put("offset", each.offset());
            ArrayNode headers = record.putArray("headers");
            for (Header header : each.headers()) {
                headers.addArray().add(header.key()).add(header.value());
            }
        }
        pending.subList(0, count).clear();
        return shown;
    }

    static Object close(JsonNode request) {
        PENDING.remove(request.get("reader").asLong());
        READERS.remove(request.get("reader").asLong()).close();
        return null;
    }

    static Object handle(JsonNode request) throws Exception {
        return switch (request.get("do").asText()) {
            case "create" -> create(request);
            case "delete" -> delete(request);
            case "partitions" -> partitions(request);
            case "produce" -> produce(request);
            case "produce_in_flight" -> produceInFlight(request);
            case "read" -> read(request);
            case "take" -> take(request);
            case "close" -> close(request);
            default -> throw new IllegalArgumentException("no such request: " + request);
        };
    }

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream output = System.out;
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                answer.set("ok", JSON.valueToTree(handle(JSON.readTree(line))));
            } catch (Exception error) {
                Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
                answer.put("error", cause.toString());
                if (cause instanceof ApiException) {
                    answer.put("code", Errors.forException(cause).code());
                }
            }
            output.println(answer);
            output.flush();
        }
    }
}
