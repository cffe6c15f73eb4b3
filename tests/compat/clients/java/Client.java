// The Java side of the compatibility suite, on Apache Kafka's own clients: a line of JSON in, a line of JSON out, for each
// operation of tests/compat/clients/base.py. Run as a single source file.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Future;
import java.util.function.Consumer;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Client {
    static final ObjectMapper JSON = new ObjectMapper();
    static final Duration POLL = Duration.ofMillis(200);
    static final int BIG = 4 << 20;

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                run(JSON.readTree(line), answer);
            } catch (Exception error) {
                Throwable cause = error.getCause() == null ? error : error.getCause();
                answer.put("error", cause.toString());
            }
            System.out.println(answer);
        }
    }

    static void run(JsonNode request, ObjectNode answer) throws Exception {
        switch (request.get("op").asText()) {
            case "produce" -> produce(request, answer);
            case "produce_file" -> produceFile(request, answer);
            case "consume" -> consume(request, answer);
            case "digest" -> digest(request, answer);
            case "begin_transactions" -> beginTransactions(request);
            default -> {
                try (Admin admin = Admin.create(Map.of("bootstrap.servers", request.get("bootstrap").asText()))) {
                    administer(admin, request, answer);
                }
            }
        }
    }

    static byte[] bytes(JsonNode text) {
        return text == null || text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    static String text(byte[] data) {
        return data == null ? null : Base64.getEncoder().encodeToString(data);
    }

    static KafkaProducer<byte[], byte[]> producer(JsonNode request, Map<String, Object> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", request.get("bootstrap").asText());
        settings.put("compression.type", request.get("codec").asText());
        settings.put("max.request.size", BIG);
        settings.put("delivery.timeout.ms", 30_000);
        settings.put("request.timeout.ms", 10_000);
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static void produce(JsonNode request, ObjectNode answer) throws Exception {
        ArrayNode offsets = answer.putArray("offsets");
        try (KafkaProducer<byte[], byte[]> producer = producer(request, Map.of("linger.ms", 0))) {
            for (JsonNode one : request.get("records")) {
                long time = one.get("timestamp").asLong();
                ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(
                        request.get("topic").asText(), one.get("partition").asInt(), time > 0 ? time : null,
                        bytes(one.get("key")), bytes(one.get("value")));
                for (JsonNode header : one.get("headers")) {
                    record.headers().add(header.get(0).asText(), bytes(header.get(1)));
                }
                offsets.add(producer.send(record).get().offset());
            }
        }
    }

    static void beginTransactions(JsonNode request) {
        try (KafkaProducer<byte[], byte[]> producer = producer(request, Map.of("transactional.id", "tx"))) {
            producer.initTransactions();
        }
    }

    static void produceFile(JsonNode request, ObjectNode answer) throws Exception {
        int count = 0;
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = producer(request, Map.of("linger.ms", 20));
                BufferedReader lines = Files.newBufferedReader(Path.of(request.get("path").asText()))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] parts = line.split("\t", 3);
                sent.add(producer.send(new ProducerRecord<>(request.get("topic").asText(), null,
                        Long.parseLong(parts[1]), parts[0].getBytes(StandardCharsets.UTF_8),
                        parts[2].getBytes(StandardCharsets.UTF_8))));
            }
            producer.flush();
            for (Future<RecordMetadata> one : sent) {
                one.get();
                count++;
            }
        }
        answer.put("count", count);
    }

    static void read(JsonNode request, Consumer<ConsumerRecord<byte[], byte[]>> each) {
        String group = request.hasNonNull("group") ? request.get("group").asText() : "";
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", request.get("bootstrap").asText());
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", "earliest");
        settings.put("max.partition.fetch.bytes", BIG);
        int left = request.get("count").asInt();
        settings.put("max.poll.records", Math.min(left, 10_000));
        if (!group.isEmpty()) {
            settings.put("group.id", group);
        }
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            String topic = request.get("topic").asText();
            if (group.isEmpty()) {
                TopicPartition place = new TopicPartition(topic, request.get("partition").asInt());
                consumer.assign(List.of(place));
                consumer.seek(place, request.get("from").asLong());
            } else {
                consumer.subscribe(List.of(topic));
            }
            long until = System.currentTimeMillis() + 60_000;
            while (left > 0) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(POLL)) {
                    if (left-- > 0) {
                        each.accept(record);
                    }
                }
                if (System.currentTimeMillis() > until) {
                    throw new IllegalStateException(left + " records missing after 60 s");
                }
            }
            if (!group.isEmpty()) {
                consumer.commitSync();
            }
        }
    }

    static void consume(JsonNode request, ObjectNode answer) {
        ArrayNode records = answer.putArray("records");
        read(request, record -> {
            ObjectNode one = records.addObject();
            one.put("partition", record.partition()).put("offset", record.offset()).put("timestamp", record.timestamp());
            one.put("key", text(record.key())).put("value", text(record.value()));
            ArrayNode headers = one.putArray("headers");
            record.headers().forEach(header -> headers.addArray().add(header.key()).add(text(header.value())));
        });
    }

    static void digest(JsonNode request, ObjectNode answer) throws Exception {
        MessageDigest sum = MessageDigest.getInstance("SHA-256");
        read(request, record -> {
            sum.update(record.key());
            sum.update(("\t" + record.timestamp() + "\t").getBytes(StandardCharsets.UTF_8));
            sum.update(record.value());
            sum.update((byte) '\n');
        });
        answer.put("digest", HexFormat.of().formatHex(sum.digest()));
    }

    static void administer(Admin admin, JsonNode request, ObjectNode answer) throws Exception {
        String topic = request.path("topic").asText();
        String group = request.path("group").asText();
        TopicPartition place = new TopicPartition(topic, request.path("partition").asInt());
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Map<String, String> configs = new HashMap<>();
        request.path("configs").fields().forEachRemaining(one -> configs.put(one.getKey(), one.getValue().asText()));
        switch (request.get("op").asText()) {
            case "list_offset" -> {
                long time = request.get("timestamp").asLong();
                OffsetSpec spec = time == -1 ? OffsetSpec.latest() : time == -2 ? OffsetSpec.earliest()
                        : time == -3 ? OffsetSpec.maxTimestamp() : OffsetSpec.forTimestamp(time);
                answer.put("offset", admin.listOffsets(Map.of(place, spec)).partitionResult(place).get().offset());
            }
            case "create_topic" -> {
                NewTopic wanted = new NewTopic(topic, Optional.of(request.get("partitions").asInt()), Optional.empty());
                admin.createTopics(List.of(wanted.configs(configs))).all().get();
            }
            case "partition_count" -> answer.put("count",
                    admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size());
            case "add_partitions" -> admin.createPartitions(
                    Map.of(topic, NewPartitions.increaseTo(request.get("partitions").asInt()))).all().get();
            case "alter_config" -> {
                Collection<AlterConfigOp> changes = configs.entrySet().stream()
                        .map(one -> new AlterConfigOp(
                                new ConfigEntry(one.getKey(), one.getValue()), AlterConfigOp.OpType.SET))
                        .toList();
                admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get();
            }
            case "describe_config" -> {
                ObjectNode found = answer.putObject("configs");
                admin.describeConfigs(List.of(resource)).all().get().get(resource).entries()
                        .forEach(one -> found.put(one.name(), one.value()));
            }
            case "delete_records" -> admin.deleteRecords(
                    Map.of(place, RecordsToDelete.beforeOffset(request.get("offset").asLong()))).all().get();
            case "list_groups" -> {
                ArrayNode found = answer.putArray("groups");
                admin.listGroups().all().get().forEach(one -> found.add(one.groupId()));
            }
            case "describe_group" -> answer.put("state", admin.describeConsumerGroups(List.of(group)).all().get()
                    .get(group).groupState().toString());
            case "committed" -> answer.put("total", admin.listConsumerGroupOffsets(group)
                    .partitionsToOffsetAndMetadata().get().values().stream().mapToLong(one -> one.offset()).sum());
            case "delete_group" -> admin.deleteConsumerGroups(List.of(group)).all().get();
            case "delete_topic" -> admin.deleteTopics(List.of(topic)).all().get();
            default -> throw new IllegalArgumentException("no operation " + request.get("op"));
        }
    }
}
