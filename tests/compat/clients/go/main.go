// The franz-go side of the compatibility suite: a line of JSON in, a line of JSON out, for each operation of
// tests/compat/clients/base.py.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type record struct {
	Partition int32       `json:"partition"`
	Offset    int64       `json:"offset"`
	Key       *string     `json:"key"`
	Value     *string     `json:"value"`
	Headers   [][]*string `json:"headers"`
	Timestamp int64       `json:"timestamp"`
}

type request struct {
	Op         string            `json:"op"`
	Bootstrap  string            `json:"bootstrap"`
	Topic      string            `json:"topic"`
	Group      string            `json:"group"`
	Codec      string            `json:"codec"`
	Path       string            `json:"path"`
	Records    []record          `json:"records"`
	Partition  int32             `json:"partition"`
	Partitions int32             `json:"partitions"`
	From       int64             `json:"from"`
	Count      int               `json:"count"`
	Timestamp  int64             `json:"timestamp"`
	Offset     int64             `json:"offset"`
	Configs    map[string]string `json:"configs"`
}

func decode(text *string) []byte {
	if text == nil {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(*text)
	if err != nil {
		panic(err)
	}
	return data
}

func encode(data []byte) *string {
	if data == nil {
		return nil
	}
	text := base64.StdEncoding.EncodeToString(data)
	return &text
}

func codec(name string) kgo.CompressionCodec {
	return map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}[name]
}

func open(r request, options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(r.Bootstrap))...)
}

func producer(r request, options ...kgo.Opt) (*kgo.Client, error) {
	return open(r, append(options, kgo.ProducerBatchCompression(codec(r.Codec)), kgo.DefaultProduceTopic(r.Topic),
		kgo.AllowAutoTopicCreation(), kgo.ProducerBatchMaxBytes(4<<20))...)
}

func produce(ctx context.Context, r request) (any, error) {
	client, err := producer(r, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var offsets []int64
	for _, one := range r.Records {
		out := &kgo.Record{Partition: one.Partition, Key: decode(one.Key), Value: decode(one.Value)}
		if one.Timestamp > 0 {
			out.Timestamp = time.UnixMilli(one.Timestamp)
		}
		for _, header := range one.Headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: *header[0], Value: decode(header[1])})
		}
		done, err := client.ProduceSync(ctx, out).First()
		if err != nil {
			return nil, err
		}
		offsets = append(offsets, done.Offset)
	}
	return map[string]any{"offsets": offsets}, nil
}

func beginTransactions(ctx context.Context, r request) (any, error) {
	client, err := producer(r, kgo.TransactionalID("tx"))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	_, _, err = client.ProducerID(ctx)
	return map[string]any{}, err
}

func produceFile(ctx context.Context, r request) (any, error) {
	client, err := producer(r, kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(20*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	file, err := os.Open(r.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	count, failed := 0, error(nil)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), "\t", 3)
		millis, _ := strconv.ParseInt(parts[1], 10, 64)
		out := &kgo.Record{Key: []byte(parts[0]), Value: []byte(parts[2]), Timestamp: time.UnixMilli(millis)}
		client.Produce(ctx, out, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
		count++
	}
	if err := client.Flush(ctx); err != nil {
		return nil, err
	}
	return map[string]any{"count": count}, failed
}

func read(ctx context.Context, r request, each func(*kgo.Record), options ...kgo.Opt) error {
	client, err := open(r, options...)
	if err != nil {
		return err
	}
	defer client.Close()
	for seen := 0; seen < r.Count; {
		fetches := client.PollRecords(ctx, r.Count-seen)
		if errs := fetches.Errors(); len(errs) > 0 {
			return fmt.Errorf("after %d of %d records: %w", seen, r.Count, errs[0].Err)
		}
		fetches.EachRecord(func(one *kgo.Record) { each(one); seen++ })
	}
	if r.Group == "" {
		return nil
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		return err
	}
	return client.LeaveGroupContext(ctx)
}

func at(r request) kgo.Opt {
	return kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.Topic: {r.Partition: kgo.NewOffset().At(r.From)}})
}

func consume(ctx context.Context, r request) (any, error) {
	records := []record{}
	each := func(one *kgo.Record) {
		out := record{one.Partition, one.Offset, encode(one.Key), encode(one.Value), [][]*string{}, one.Timestamp.UnixMilli()}
		for _, header := range one.Headers {
			key := header.Key
			out.Headers = append(out.Headers, []*string{&key, encode(header.Value)})
		}
		records = append(records, out)
	}
	options := []kgo.Opt{at(r), kgo.FetchMaxBytes(64 << 20)}
	if r.Group != "" {
		options = []kgo.Opt{kgo.ConsumerGroup(r.Group), kgo.ConsumeTopics(r.Topic), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	}
	err := read(ctx, r, each, options...)
	return map[string]any{"records": records}, err
}

func digest(ctx context.Context, r request) (any, error) {
	sum := sha256.New()
	err := read(ctx, r, func(one *kgo.Record) {
		fmt.Fprintf(sum, "%s\t%d\t%s\n", one.Key, one.Timestamp.UnixMilli(), one.Value)
	}, at(r))
	return map[string]any{"digest": hex.EncodeToString(sum.Sum(nil))}, err
}

func listOffset(ctx context.Context, admin *kadm.Client, r request) (any, error) {
	var listed kadm.ListedOffsets
	var err error
	switch r.Timestamp {
	case -1:
		listed, err = admin.ListEndOffsets(ctx, r.Topic)
	case -2:
		listed, err = admin.ListStartOffsets(ctx, r.Topic)
	case -3:
		listed, err = admin.ListMaxTimestampOffsets(ctx, r.Topic)
	default:
		listed, err = admin.ListOffsetsAfterMilli(ctx, r.Timestamp, r.Topic)
	}
	if err != nil {
		return nil, err
	}
	one, _ := listed.Lookup(r.Topic, r.Partition)
	return map[string]any{"offset": one.Offset}, one.Err
}

func administer(ctx context.Context, r request) (any, error) {
	client, err := open(r)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	switch r.Op {
	case "list_offset":
		return listOffset(ctx, admin, r)
	case "create_topic":
		configs := map[string]*string{}
		for key, value := range r.Configs {
			configs[key] = &value
		}
		_, err = admin.CreateTopic(ctx, r.Partitions, 1, configs, r.Topic)
		return map[string]any{}, err
	case "partition_count":
		topics, err := admin.ListTopics(ctx, r.Topic)
		if err == nil {
			err = topics[r.Topic].Err
		}
		return map[string]any{"count": len(topics[r.Topic].Partitions)}, err
	case "add_partitions":
		done, err := admin.UpdatePartitions(ctx, int(r.Partitions), r.Topic)
		if err == nil {
			err = done.Error()
		}
		return map[string]any{}, err
	case "alter_config":
		var changes []kadm.AlterConfig
		for key, value := range r.Configs {
			changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &value})
		}
		done, err := admin.AlterTopicConfigs(ctx, changes, r.Topic)
		for _, one := range done {
			if err == nil {
				err = one.Err
			}
		}
		return map[string]any{}, err
	case "describe_config":
		resources, err := admin.DescribeTopicConfigs(ctx, r.Topic)
		configs := map[string]*string{}
		for _, resource := range resources {
			for _, config := range resource.Configs {
				configs[config.Key] = config.Value
			}
		}
		return map[string]any{"configs": configs}, err
	case "delete_records":
		offsets := kadm.Offsets{}
		offsets.AddOffset(r.Topic, r.Partition, r.Offset, -1)
		done, err := admin.DeleteRecords(ctx, offsets)
		if err == nil {
			err = done.Error()
		}
		return map[string]any{}, err
	case "list_groups":
		groups, err := admin.ListGroups(ctx)
		return map[string]any{"groups": groups.Groups()}, err
	case "describe_group":
		groups, err := admin.DescribeGroups(ctx, r.Group)
		return map[string]any{"state": groups[r.Group].State}, err
	case "committed":
		offsets, err := admin.FetchOffsets(ctx, r.Group)
		total := int64(0)
		offsets.Each(func(one kadm.OffsetResponse) { total += one.At })
		return map[string]any{"total": total}, err
	case "delete_group":
		_, err = admin.DeleteGroup(ctx, r.Group)
		return map[string]any{}, err
	case "delete_topic":
		_, err = admin.DeleteTopic(ctx, r.Topic)
		return map[string]any{}, err
	}
	return nil, fmt.Errorf("no operation %q", r.Op)
}

func main() {
	operations := map[string]func(context.Context, request) (any, error){
		"produce": produce, "produce_file": produceFile, "consume": consume, "digest": digest,
		"begin_transactions": beginTransactions,
	}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			panic(err)
		}
		operation, known := operations[r.Op]
		if !known {
			operation = administer
		}
		ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
		answer, err := operation(ctx, r)
		cancel()
		if err != nil {
			answer = map[string]any{"error": err.Error()}
		}
		out, _ := json.Marshal(answer)
		fmt.Println(string(out))
	}
}
