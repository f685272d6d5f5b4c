// Subscribes to InferTrace's insights and trace summaries and prints each as a line of JSON.
//
//	go run . -bootstrap HOST:PORT -registry http://HOST:PORT    # ids that a registry gave
//	go run . -bootstrap HOST:PORT -schemas schemas/avro         # the .avsc files of the release
//
// A value is 0x00, a 4-byte big-endian schema id, the Avro body (Confluent's wire format). An id with its top bit set
// is InferTrace's own, for topics written without a registry: read such a value with the .avsc file of its topic.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	insights = "infertrace.insights.v1"
	traces   = "infertrace.traces.v1"
	ownID    = uint32(1) << 31
)

var files = map[string]string{insights: "insight.v1.avsc", traces: "trace_summary.v1.avsc"}

// Insight has the fields that are shown; fields of the schema that are not here are skipped.
type Insight struct {
	ID             string          `avro:"id" json:"id"`
	Revision       int             `avro:"revision" json:"revision"`
	State          string          `avro:"state" json:"state"`
	Severity       string          `avro:"severity" json:"severity"`
	Model          string          `avro:"model" json:"model"`
	Title          string          `avro:"title" json:"title"`
	Causes         []Cause         `avro:"causes" json:"-"`
	Recommendation *Recommendation `avro:"recommendation" json:"-"`
	FirstCause     string          `avro:"-" json:"cause"`
	Advice         string          `avro:"-" json:"recommendation"`
}

// Cause is one explanation, the most likely first.
type Cause struct {
	Cause string `avro:"cause"`
}

// Recommendation is what to do about it.
type Recommendation struct {
	Text string `avro:"text"`
}

// Trace is a trace summary's shown fields.
type Trace struct {
	TraceID      string `avro:"trace_id" json:"trace_id"`
	Version      int    `avro:"version" json:"version"`
	RootService  string `avro:"root_service" json:"root_service"`
	DurationNS   int64  `avro:"duration_nanos" json:"duration_nanos"`
	SpanCount    int    `avro:"span_count" json:"span_count"`
	OutputTokens *int64 `avro:"output_tokens" json:"output_tokens"`
}

// schemas are fetched once each.
type schemas struct {
	registry, folder string
	known            map[string]avro.Schema
}

func (s *schemas) of(id uint32, topic string) (avro.Schema, error) {
	key := fmt.Sprintf("%d %s", id, topic)
	if found, ok := s.known[key]; ok {
		return found, nil
	}
	text, err := s.fetch(id, topic)
	if err != nil {
		return nil, err
	}
	// A cache of its own: two versions of one record may share its name.
	parsed, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err == nil {
		s.known[key] = parsed
	}
	return parsed, err
}

func (s *schemas) fetch(id uint32, topic string) (string, error) {
	if id&ownID != 0 {
		if s.folder == "" {
			return "", fmt.Errorf("schema id %#010x is InferTrace's own: give -schemas", id)
		}
		text, err := os.ReadFile(filepath.Join(s.folder, files[topic]))
		return string(text), err
	}
	if s.registry == "" {
		return "", fmt.Errorf("schema id %d is a registry's: give -registry", id)
	}
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(fmt.Sprintf("%s/schemas/ids/%d", s.registry, id))
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the registry has no schema %d: %s", id, answer.Status)
	}
	var found struct{ Schema string }
	err = json.NewDecoder(answer.Body).Decode(&found)
	return found.Schema, err
}

func decode(record *kgo.Record, s *schemas) (any, error) {
	if len(record.Value) < 5 || record.Value[0] != 0 {
		return nil, errors.New("not in Confluent's wire format")
	}
	schema, err := s.of(binary.BigEndian.Uint32(record.Value[1:5]), record.Topic)
	if err != nil {
		return nil, err
	}
	if record.Topic == traces {
		var trace Trace
		err := avro.Unmarshal(schema, record.Value[5:], &trace)
		return trace, err
	}
	var insight Insight
	if err := avro.Unmarshal(schema, record.Value[5:], &insight); err != nil {
		return nil, err
	}
	if len(insight.Causes) > 0 {
		insight.FirstCause = insight.Causes[0].Cause
	}
	if insight.Recommendation != nil {
		insight.Advice = insight.Recommendation.Text
	}
	return insight, nil
}

// show prints the value's fields after the topic's name.
func show(topic string, value any) {
	fields, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("{\"topic\":%q,%s\n", topic, fields[1:])
}

func main() {
	bootstrap := flag.String("bootstrap", "", "HOST:PORT,…")
	registry := flag.String("registry", "", "URL of a schema registry")
	folder := flag.String("schemas", "", "folder of the .avsc files")
	count := flag.Int("count", 0, "stop after so many records; 0 for never")
	flag.Parse()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*bootstrap, ",")...),
		kgo.ConsumerGroup("insights-go"),
		kgo.ConsumeTopics(insights, traces),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	s := &schemas{*registry, *folder, map[string]avro.Schema{}}
	for seen := 0; *count == 0 || seen < *count; {
		fetches := client.PollFetches(context.Background())
		for _, failed := range fetches.Errors() {
			log.Fatalf("%s/%d: %v", failed.Topic, failed.Partition, failed.Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			seen++
			value, err := decode(record, s)
			if err != nil { // One bad record must not stop the stream: say which, go on.
				value = map[string]any{"partition": record.Partition, "offset": record.Offset, "error": err.Error()}
			}
			show(record.Topic, value)
		})
	}
}
