package main

import (
	"bytes"
	"encoding/json"
	"log"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	model "github.com/jaegertracing/jaeger/model/json"
)

// answer is what Jaeger puts around its data.
type answer[T any] struct {
	Data   T
	Total  int
	Limit  int
	Offset int
	Errors []struct {
		Code int
		Msg  string
	}
}

// readJaeger reads an answer; a field that Jaeger's types have not is a mistake.
func readJaeger[T any](body []byte) answer[T] {
	var answered answer[T]
	reader := json.NewDecoder(bytes.NewReader(body))
	reader.DisallowUnknownFields()
	reader.UseNumber()
	if err := reader.Decode(&answered); err != nil {
		log.Fatalf("%v in %s", err, body)
	}
	return answered
}

func askJaeger(base string, trace sent) {
	has("services", readJaeger[[]string](found(base+"/api/services", nil, asJSON)).Data, trace.Service)
	operations := readJaeger[[]string](found(base+"/api/services/"+url.PathEscape(trace.Service)+"/operations", nil, asJSON)).Data
	has("operations", operations, trace.name(0))
	typed := readJaeger[[]model.Operation](found(base+"/api/operations", url.Values{"service": {trace.Service}}, asJSON)).Data
	same("operations", len(typed), 2)
	// Both spans are of one service.
	same("calls", len(readJaeger[[]model.DependencyLink](found(base+"/api/dependencies", nil, asJSON)).Data), 0)

	byID := readJaeger[[]model.Trace](found(base+"/api/traces/"+trace.TraceID, nil, asJSON)).Data
	same("traces by id", len(byID), 1)
	checkJaeger(byID[0], trace)

	now := time.Now().UnixMicro()
	parameters := url.Values{
		"service": {trace.Service}, "operation": {trace.name(0)}, "limit": {"20"}, "minDuration": {"1ns"},
		"tags":  {`{"text":"grüße","whole":"9007199254740993","span.kind":"server"}`},
		"start": {strconv.FormatInt(now-3_600_000_000, 10)}, "end": {strconv.FormatInt(now+60_000_000, 10)},
	}
	searched := readJaeger[[]model.Trace](found(base+"/api/traces", parameters, asJSON)).Data
	same("traces found", len(searched), 1)
	checkJaeger(searched[0], trace)
	parameters["tags"] = []string{`{"error":"true"}`}
	same("traces whose root failed", len(readJaeger[[]model.Trace](found(base+"/api/traces", parameters, asJSON)).Data), 0)

	status, body := get(base+"/api/traces/"+strings.Repeat("7", 32), nil, asJSON)
	unknown := readJaeger[[]model.Trace](body)
	if status != http.StatusNotFound || len(unknown.Errors) != 1 || unknown.Errors[0].Code != http.StatusNotFound {
		log.Fatalf("an unknown trace: %d %s", status, body)
	}
}

// checkJaeger checks a trace by the tags that Jaeger makes of what emit sent.
func checkJaeger(got model.Trace, trace sent) {
	same("trace", string(got.TraceID), trace.TraceID)
	same("spans", len(got.Spans), 2)
	for _, span := range got.Spans {
		process := got.Processes[span.ProcessID]
		same("service", process.ServiceName, trace.Service)
		same("resource", tagsOf(process.Tags)["replica"], any("int64 3"))
		tags := tagsOf(span.Tags)
		same("scope", tags["otel.scope.name"], any("string "+trace.Scope))
		if span.OperationName == trace.name(0) {
			for key, wanted := range map[string]string{
				"text": "string grüße", "whole": "int64 9007199254740993", "ratio": "float64 0.25", "flag": "bool true",
				"span.kind": "string server",
			} {
				same(key, tags[key], any(wanted))
			}
			event := tagsOf(span.Logs[0].Fields)
			same("event", event, object{"event": "string first token", "index": "int64 0", "ms": "float64 12.5"})
			same("link", span.References[0].RefType, model.FollowsFrom)
			continue
		}
		same("operation", span.OperationName, trace.name(1))
		parent := trace.Spans[0]["spanId"].(string)
		same("parent", span.References, []model.Reference{{RefType: model.ChildOf, TraceID: got.TraceID, SpanID: model.SpanID(parent)}})
		for key, wanted := range map[string]string{
			"error": "bool true", "otel.status_code": "string ERROR", "otel.status_description": "string out of memory",
		} {
			same(key, tags[key], any(wanted))
		}
	}
}

// tagsOf is type and value by key.
func tagsOf(list []model.KeyValue) object {
	all := object{}
	for _, tag := range list {
		all[tag.Key] = string(tag.Type) + " " + strings.Trim(shown(tag.Value), `"`)
	}
	return all
}
