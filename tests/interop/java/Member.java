// A member of a group with Apache Kafka's Java client: see tests/interop/members/__init__.py for what it says and hears.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Member {
    static final ObjectMapper JSON = new ObjectMapper();
    static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    static final Map<TopicPartition, OffsetAndMetadata> TAKEN = new HashMap<>();
    static final ConcurrentLinkedQueue<String> HEARD = new ConcurrentLinkedQueue<>();
    static KafkaConsumer<String, String> consumer;
    static Set<String> owned = null;

    static double now() {
        return System.nanoTime() / 1e9;
    }

    static ObjectNode event(String name) {
        return JSON.createObjectNode().put("event", name).put("t", now());
    }

    static synchronized void say(ObjectNode event) {
        OUT.println(event);
    }

    static ArrayNode partitions(Collection<TopicPartition> some) {
        ArrayNode all = JSON.createArrayNode();
        for (TopicPartition each : some) {
            all.add(JSON.createArrayNode().add(each.topic()).add(each.partition()));
        }
        return all;
    }

    static void sayOwned() {
        Set<String> seen = new TreeSet<>();
        for (TopicPartition each : consumer.assignment()) {
            seen.add(each.toString());
        }
        if (!seen.equals(owned)) {
            owned = seen;
            ObjectNode event = event("owns");
            event.set("partitions", partitions(consumer.assignment()));
            say(event);
        }
    }

    static void commit(boolean always) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>(TAKEN);
        offsets.keySet().retainAll(consumer.assignment());
        TAKEN.clear();
        if (offsets.isEmpty() && !always) {
            return;
        }
        double asked = now();
        String cause = "";
        try {
            if (!offsets.isEmpty()) {
                consumer.commitSync(offsets);
            }
        } catch (KafkaException error) {
            cause = error.toString();
        }
        ObjectNode event = event("commit").put("t", asked).put("until", now());
        event.put("generation", consumer.groupMetadata().generationId()).put("ok", cause.isEmpty()).put("cause", cause);
        ArrayNode rows = event.putArray("offsets");
        offsets.forEach((where, position) ->
            rows.add(JSON.createArrayNode().add(where.topic()).add(where.partition()).add(position.offset())));
        say(event);
    }

    public static void main(String[] arguments) throws Exception {
        JsonNode wanted = JSON.readTree(arguments[0]);
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", wanted.get("bootstrap").asText());
        settings.put("group.id", wanted.get("group").asText());
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("key.deserializer", StringDeserializer.class.getName());
        settings.put("value.deserializer", StringDeserializer.class.getName());
        String protocol = wanted.path("protocol").asText("classic");
        String strategy = wanted.path("strategy").asText("");
        settings.put("group.protocol", protocol);
        if (protocol.equals("classic")) {
            if (wanted.path("heartbeat_ms").asInt(300) > 0) {
                settings.put("heartbeat.interval.ms", wanted.path("heartbeat_ms").asInt(300));
            }
            if (strategy.equals("cooperative-sticky")) {
                settings.put("partition.assignment.strategy",
                    "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
            }
            if (wanted.path("session_ms").asInt(0) > 0) {
                settings.put("session.timeout.ms", wanted.path("session_ms").asInt());
            }
        } else if (!strategy.isEmpty()) {
            settings.put("group.remote.assignor", strategy);
        }
        if (!wanted.path("instance").asText("").isEmpty()) {
            settings.put("group.instance.id", wanted.path("instance").asText());
        }
        boolean commits = wanted.path("commits").asBoolean(false);
        boolean quiet = wanted.path("quiet").asBoolean(false);
        String pattern = wanted.path("pattern").asText("");
        if (!pattern.isEmpty()) {
            settings.put("metadata.max.age.ms", "1000");
        }
        consumer = new KafkaConsumer<>(settings);
        ConsumerRebalanceListener listener = new ConsumerRebalanceListener() {
            public void onPartitionsRevoked(Collection<TopicPartition> some) {
                commit(false);
            }

            public void onPartitionsAssigned(Collection<TopicPartition> some) {
                ObjectNode event = event("assigning");
                event.set("partitions", partitions(some));
                say(event);
            }
        };
        // A cold JVM loads classes for most of a second; what is measured begins after that.
        consumer.listTopics();
        say(event("subscribing"));
        if (pattern.isEmpty()) {
            List<String> topics = JSON.convertValue(wanted.get("topics"), JSON.getTypeFactory()
                .constructCollectionType(List.class, String.class));
            consumer.subscribe(topics, listener);
        } else if (protocol.equals("consumer")) {
            consumer.subscribe(new SubscriptionPattern(pattern + ".*"), listener);
        } else {
            consumer.subscribe(Pattern.compile(pattern + ".*"), listener);
        }
        Thread ear = new Thread(() -> {
            try (var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
                lines.lines().forEach(HEARD::add);
            } catch (Exception error) {
                System.err.println(error);
            }
            HEARD.add("close");
        });
        ear.setDaemon(true);
        ear.start();
        while (true) {
            String command = HEARD.poll();
            if ("commit".equals(command)) {
                commit(true);
            } else if ("close".equals(command)) {
                consumer.close();
                say(event("closed"));
                System.exit(0);
            }
            var records = consumer.poll(Duration.ofMillis(50));
            sayOwned();
            for (var each : records) {
                TopicPartition where = new TopicPartition(each.topic(), each.partition());
                TAKEN.put(where, new OffsetAndMetadata(each.offset() + 1));
                if (!quiet) {
                    say(event("record").put("topic", each.topic()).put("partition", each.partition())
                        .put("offset", each.offset()).put("value", each.value()));
                }
            }
            if (!records.isEmpty() && commits) {
                commit(false);
            }
        }
    }
}
