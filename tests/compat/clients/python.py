"""Clients with a Python binding: librdkafka, aiokafka, kafka-python. They run inside the suite."""

import asyncio
import functools
import time

import aiokafka
import aiokafka.admin
import confluent_kafka
import kafka
from confluent_kafka.admin import AdminClient

from harness.batch import Record

from .base import Client, Refused, lines_of

LIMIT_S = 60
BIG = 4 << 20


class LibRdKafka(Client):
    """librdkafka by the confluent-kafka wheel."""

    name = "librdkafka"

    def _producer(self, codec, **options):
        settings = {"bootstrap.servers": self.bootstrap, "compression.type": codec, "message.max.bytes": BIG}
        return confluent_kafka.Producer(settings | {"enable.idempotence": True, "message.timeout.ms": 20_000} | options)

    def produce(self, topic, records, codec="none"):
        producer, offsets, errors = self._producer(codec), [], []

        def delivered(error, message):
            (errors if error else offsets).append(error or message.offset())

        for record in records:
            times = {"timestamp": record.timestamp} if record.timestamp > 0 else {}
            headers = list(record.headers)
            producer.produce(
                topic, record.value, record.key, 0, headers=headers, on_delivery=delivered, **times
            )
            producer.flush(LIMIT_S)
        if errors:
            raise Refused(str(errors[0]))
        return offsets

    def produce_file(self, topic, path, codec):
        producer, errors, count = self._producer(codec, **{"linger.ms": 20}), [], 0
        delivered = lambda error, _: errors.append(error) if error else None
        for key, timestamp, value in lines_of(path):
            count += 1
            while True:
                try:
                    producer.produce(topic, value, key, timestamp=timestamp, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
        if producer.flush(LIMIT_S) or errors:
            raise Refused(f"not all delivered: {errors[:1]}")
        return count

    def consume(self, topic, partition, start, count):
        consumer = self._consumer("unused")
        consumer.assign([confluent_kafka.TopicPartition(topic, partition, start)])
        return self._read(consumer, count)

    def consume_group(self, topic, group, count):
        consumer = self._consumer(group)
        consumer.subscribe([topic])
        records = self._read(consumer, count, close=False)
        ends = {}
        for record in records:
            ends[record.partition] = record.offset + 1
        offsets = [confluent_kafka.TopicPartition(topic, partition, end) for partition, end in ends.items()]
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()
        return records

    def _consumer(self, group, **options):
        settings = {"bootstrap.servers": self.bootstrap, "group.id": group, "enable.auto.commit": False}
        settings |= {"auto.offset.reset": "earliest", "message.max.bytes": BIG, "fetch.wait.max.ms": 100}
        return confluent_kafka.Consumer(settings | {name.replace("_", "."): value for name, value in options.items()})

    def _read(self, consumer, count, close=True):
        records, until = [], time.monotonic() + LIMIT_S
        while len(records) < count:
            for message in consumer.consume(min(10_000, count - len(records)), 0.2):
                if message.error():
                    raise Refused(str(message.error()))
                headers = [(key, value) for key, value in message.headers() or []]
                record = Record(message.value(), message.key(), headers, message.timestamp()[1], message.offset())
                record.partition = message.partition()
                records.append(record)
            if time.monotonic() > until:
                raise Refused(f"{len(records)} of {count} records within {LIMIT_S} s")
        if close:
            consumer.close()
        return records

    def list_offset(self, topic, partition, timestamp):
        specs = {
            -1: confluent_kafka.admin.OffsetSpec.latest(),
            -2: confluent_kafka.admin.OffsetSpec.earliest(),
            -3: confluent_kafka.admin.OffsetSpec.max_timestamp(),
        }
        spec = specs.get(timestamp) or confluent_kafka.admin.OffsetSpec.for_timestamp(timestamp)
        place = confluent_kafka.TopicPartition(topic, partition)
        return self._admin.list_offsets({place: spec})[place].result(LIMIT_S).offset

    @functools.cached_property
    def _admin(self):
        # Kept: what it promised is never fulfilled once it is gone.
        return AdminClient({"bootstrap.servers": self.bootstrap})

    @staticmethod
    def _done(futures):
        try:
            return [future.result(LIMIT_S) for future in futures.values()]
        except confluent_kafka.KafkaException as error:
            raise Refused(str(error)) from error

    def create_topic(self, topic, partitions, configs):
        self._done(self._admin.create_topics([confluent_kafka.admin.NewTopic(topic, partitions, 1, config=configs)]))

    def partition_count(self, topic):
        found = self._admin.list_topics(topic, timeout=LIMIT_S).topics[topic]
        if found.error:
            raise Refused(str(found.error))
        return len(found.partitions)

    def add_partitions(self, topic, partitions):
        self._done(self._admin.create_partitions([confluent_kafka.admin.NewPartitions(topic, partitions)]))

    def alter_config(self, topic, configs):
        operation = confluent_kafka.admin.AlterConfigOpType.SET
        entries = [
            confluent_kafka.admin.ConfigEntry(key, value, incremental_operation=operation)
            for key, value in configs.items()
        ]
        resource = confluent_kafka.admin.ConfigResource("topic", topic, incremental_configs=entries)
        self._done(self._admin.incremental_alter_configs([resource]))

    def describe_config(self, topic):
        found = self._done(self._admin.describe_configs([confluent_kafka.admin.ConfigResource("topic", topic)]))
        return {name: entry.value for name, entry in found[0].items()}

    def delete_records(self, topic, partition, offset):
        self._done(self._admin.delete_records([confluent_kafka.TopicPartition(topic, partition, offset)]))

    def list_groups(self):
        return [group.group_id for group in self._admin.list_consumer_groups().result(LIMIT_S).valid]

    def describe_group(self, group):
        found = self._done(self._admin.describe_consumer_groups([group]))[0]
        return found.state.name.title()

    def committed(self, group):
        wanted = [confluent_kafka.ConsumerGroupTopicPartitions(group)]
        found = self._done(self._admin.list_consumer_group_offsets(wanted))[0]
        return sum(place.offset for place in found.topic_partitions)

    def delete_group(self, group):
        self._done(self._admin.delete_consumer_groups([group]))

    def delete_topic(self, topic):
        self._done(self._admin.delete_topics([topic]))


class AioKafka(Client):
    """aiokafka. Its coroutines run to their end in each call."""

    name = "aiokafka"

    def _run(self, operation):
        try:
            return asyncio.run(asyncio.wait_for(operation, 2 * LIMIT_S))
        except aiokafka.errors.KafkaError as error:
            raise Refused(repr(error)) from error

    async def _producing(self, codec, send, **options):
        codec = None if codec == "none" else codec
        settings = {"bootstrap_servers": self.bootstrap, "compression_type": codec, "max_request_size": BIG}
        producer = aiokafka.AIOKafkaProducer(enable_idempotence=True, **settings, **options)
        await producer.start()
        try:
            return await send(producer)
        finally:
            await producer.stop()

    def produce(self, topic, records, codec="none"):
        async def send(producer):
            offsets = []
            for record in records:
                stamp = record.timestamp if record.timestamp > 0 else None
                sent = producer.send_and_wait(topic, record.value, record.key, 0, stamp, headers=record.headers)
                offsets.append((await sent).offset)
            return offsets

        return self._run(self._producing(codec, send))

    def produce_file(self, topic, path, codec):
        async def send(producer):
            sent = [
                await producer.send(topic, value, key, timestamp_ms=timestamp)
                for key, timestamp, value in lines_of(path)
            ]
            await producer.flush()
            return len([one for one in sent if one.result().offset >= 0])

        return self._run(self._producing(codec, send, linger_ms=20))

    async def _consuming(self, count, group=None, topics=(), place=None):
        consumer = aiokafka.AIOKafkaConsumer(
            *topics,
            bootstrap_servers=self.bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=BIG,
        )
        await consumer.start()
        try:
            if place:
                consumer.assign([place[0]])
                consumer.seek(*place)
            records = []
            while len(records) < count:
                batches = await consumer.getmany(timeout_ms=500, max_records=count - len(records))
                for found in batches.values():
                    records += [
                        Record(one.value, one.key, list(one.headers), one.timestamp, one.offset) for one in found
                    ]
            if group:
                await consumer.commit()
            return records
        finally:
            await consumer.stop()

    def consume(self, topic, partition, start, count):
        return self._run(self._consuming(count, place=(aiokafka.TopicPartition(topic, partition), start)))

    def consume_group(self, topic, group, count):
        return self._run(self._consuming(count, group, [topic]))

    def list_offset(self, topic, partition, timestamp):
        async def ask():
            consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
            await consumer.start()
            try:
                place = aiokafka.TopicPartition(topic, partition)
                if timestamp in (-1, -2):
                    ends = consumer.end_offsets if timestamp == -1 else consumer.beginning_offsets
                    return (await ends([place]))[place]
                found = (await consumer.offsets_for_times({place: timestamp}))[place]
                return found.offset if found else -1
            finally:
                await consumer.stop()

        if timestamp == -3:
            raise NotImplementedError
        return self._run(ask())


class KafkaPython(Client):
    """kafka-python."""

    name = "kafka-python"
    sets_null_headers = False

    def _refusing(self, operation):
        try:
            return operation()
        except kafka.errors.KafkaError as error:
            raise Refused(repr(error)) from error

    def _producer(self, codec, **options):
        codec = None if codec == "none" else codec
        settings = {"bootstrap_servers": self.bootstrap, "compression_type": codec, "max_request_size": BIG}
        return kafka.KafkaProducer(enable_idempotence=True, **settings, **options)

    def produce(self, topic, records, codec="none"):
        def send():
            producer, offsets = self._producer(codec), []
            try:
                for record in records:
                    stamp = record.timestamp if record.timestamp > 0 else None
                    sent = producer.send(topic, record.value, record.key, record.headers, 0, stamp)
                    offsets.append(sent.get(LIMIT_S).offset)
            finally:
                producer.close(timeout=5)
            return offsets

        return self._refusing(send)

    def produce_file(self, topic, path, codec):
        producer = self._producer(codec, linger_ms=20)
        sent = [
            producer.send(topic, value, key, timestamp_ms=timestamp) for key, timestamp, value in lines_of(path)
        ]
        producer.flush(2 * LIMIT_S)
        producer.close()
        return len([one for one in sent if one.succeeded()])

    def _consumer(self, *topics, group=None):
        return kafka.KafkaConsumer(
            *topics,
            bootstrap_servers=self.bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=BIG,
        )

    def _read(self, consumer, count):
        records, until = [], time.monotonic() + LIMIT_S
        while len(records) < count:
            for found in consumer.poll(500, max_records=count - len(records)).values():
                records += [Record(one.value, one.key, list(one.headers), one.timestamp, one.offset) for one in found]
            if time.monotonic() > until:
                raise Refused(f"{len(records)} of {count} records within {LIMIT_S} s")
        return records

    def consume(self, topic, partition, start, count):
        consumer, place = self._consumer(), kafka.TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, start)
        records = self._read(consumer, count)
        consumer.close()
        return records

    def consume_group(self, topic, group, count):
        consumer = self._consumer(topic, group=group)
        records = self._read(consumer, count)
        consumer.commit()
        consumer.close()
        return records

    def list_offset(self, topic, partition, timestamp):
        if timestamp == -3:
            raise NotImplementedError
        consumer, place = self._consumer(), kafka.TopicPartition(topic, partition)
        try:
            if timestamp in (-1, -2):
                ends = consumer.end_offsets if timestamp == -1 else consumer.beginning_offsets
                return ends([place])[place]
            found = consumer.offsets_for_times({place: timestamp})[place]
            return found.offset if found else -1
        finally:
            consumer.close()
