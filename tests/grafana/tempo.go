package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"log"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gogo/protobuf/jsonpb"
	"github.com/gogo/protobuf/proto"
	"github.com/grafana/tempo/pkg/tempopb"
	common "github.com/grafana/tempo/pkg/tempopb/common/v1"
)

const (
	asJSON     = "application/json"
	asProtobuf = "application/protobuf"
)

// read reads the JSON of a message; a field that the message has not is a mistake.
func read(body []byte, message proto.Message) {
	if err := jsonpb.Unmarshal(bytes.NewReader(body), message); err != nil {
		log.Fatalf("%T: %v in %s", message, err, body)
	}
}

func askTempo(base string, trace sent) {
	same("echo", string(found(base+"/api/echo", nil, "*/*")), "echo")
	var build struct{ Version string }
	if err := json.Unmarshal(found(base+"/api/status/buildinfo", nil, asJSON), &build); err != nil || !strings.HasPrefix(build.Version, "2.") {
		log.Fatalf("version %q: %v", build.Version, err)
	}
	askTraces(base, trace)
	now := time.Now().Unix()
	within := url.Values{"start": {strconv.FormatInt(now-3600, 10)}, "end": {strconv.FormatInt(now+60, 10)}}
	askSearches(base, trace, within)
	askTags(base, trace)
	askMetrics(base, trace, within)
}

// askTraces reads the trace in every form, which must all be the same, and that of what was sent.
func askTraces(base string, trace sent) {
	id := trace.TraceID
	var second tempopb.TraceByIDResponse
	if err := proto.Unmarshal(found(base+"/api/v2/traces/"+id, nil, asProtobuf), &second); err != nil {
		log.Fatal(err)
	}
	same("status", second.Status, tempopb.TraceByIDResponse_COMPLETE)
	var first, firstJSON tempopb.Trace
	if err := proto.Unmarshal(found(base+"/api/traces/"+id, nil, asProtobuf), &first); err != nil {
		log.Fatal(err)
	}
	if err := tempopb.UnmarshalFromJSONV1(found(base+"/api/traces/"+id, nil, asJSON), &firstJSON); err != nil {
		log.Fatal(err)
	}
	var secondJSON tempopb.TraceByIDResponse
	read(found(base+"/api/v2/traces/"+id, nil, asJSON), &secondJSON)
	for name, other := range map[string]*tempopb.Trace{
		"first version": &first, "first version as JSON": &firstJSON, "second version as JSON": secondJSON.Trace,
	} {
		if !proto.Equal(other, second.Trace) {
			log.Fatalf("%s is\n%v\nand not\n%v", name, other, second.Trace)
		}
	}
	told := make([]object, len(trace.Spans))
	for _, resource := range second.Trace.ResourceSpans {
		attributes := attributesOf(resource.Resource.Attributes)
		same("service", attributes["service.name"], any(object{"stringValue": trace.Service}))
		same("resource", attributes["replica"], any(object{"intValue": "3"}))
		for _, scope := range resource.ScopeSpans {
			same("scope", scope.Scope.Name, trace.Scope)
			for _, span := range scope.Spans {
				same("trace id", hex.EncodeToString(span.TraceId), id)
				links, events := []any{}, []any{}
				for _, link := range span.Links {
					links = append(links, object{"traceId": hex.EncodeToString(link.TraceId), "spanId": hex.EncodeToString(link.SpanId), "attributes": attributesOf(link.Attributes)})
				}
				for _, event := range span.Events {
					events = append(events, object{"name": event.Name, "attributes": attributesOf(event.Attributes)})
				}
				at := 0
				if len(span.ParentSpanId) > 0 {
					at = 1
				}
				told[at] = object{
					"spanId": hex.EncodeToString(span.SpanId), "parentSpanId": hex.EncodeToString(span.ParentSpanId),
					"name": span.Name, "kind": float64(span.Kind),
					"status":     object{"code": float64(span.Status.GetCode()), "message": span.Status.GetMessage()},
					"attributes": attributesOf(span.Attributes), "events": events, "links": links,
				}
			}
		}
	}
	same("spans", told, trace.Spans)
	if status, body := get(base+"/api/v2/traces/"+strings.Repeat("7", 32), nil, asProtobuf); status != http.StatusNotFound {
		log.Fatalf("an unknown trace: %d %s", status, body)
	}
}

// attributesOf is the form in which emit prints attributes.
func attributesOf(list []*common.KeyValue) object {
	all := object{}
	for _, attribute := range list {
		text, err := (&jsonpb.Marshaler{}).MarshalToString(attribute.Value)
		if err != nil {
			log.Fatal(err)
		}
		var value object
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			log.Fatal(err)
		}
		all[attribute.Key] = value
	}
	return all
}

// askSearches sends queries as the TraceQL editor and the search form make them, and tags as Grafana before 10 does.
func askSearches(base string, trace sent, within url.Values) {
	service := strconv.Quote(trace.Service)
	root, child := trace.Spans[0]["spanId"].(string), trace.Spans[1]["spanId"].(string)
	search := func(parameters url.Values) *tempopb.TraceSearchMetadata {
		for name, values := range within {
			parameters[name] = values
		}
		var answer tempopb.SearchResponse
		read(found(base+"/api/search", parameters, asJSON), &answer)
		for _, one := range answer.Traces {
			if one.TraceID == trace.TraceID {
				return one
			}
		}
		return nil
	}
	for query, spans := range map[string][]string{
		"{}": {root, child},
		"{resource.service.name=" + service + " && name=\"POST /v1/chat\"}": {root},
		"{status=error && kind=internal}":                                   {child},
		"{ .text =~ \"gr.*\" && span.whole > 9007199254740992 && .flag }":   {root},
		"{ kind = server } >> { .gen_ai.request.model = \"tiny\" }":         {child},
		"{ resource.replica = 3 } | count() = 2 | select(span.ratio)":       {root, child},
		"{ event:name = \"first token\" } || { llm:model = \"tiny\" }":      {root, child},
		"{ traceDuration > 1h }":                                            nil,
	} {
		one := search(url.Values{"q": {query}, "limit": {"20"}, "spss": {"3"}})
		var got []string
		if one != nil {
			same("root service of "+query, one.RootServiceName, trace.Service)
			same("root name of "+query, one.RootTraceName, trace.name(0))
			same("spans matched by "+query, one.SpanSets[0].Matched, uint32(len(spans)))
			same("span count", one.ServiceStats[trace.Service].SpanCount, uint32(2))
			for _, span := range one.SpanSets[0].Spans {
				got = append(got, span.SpanID)
				if strings.Contains(query, "select") && span.SpanID == root {
					same("selected", attributesOf(span.Attributes)["ratio"], any(object{"doubleValue": 0.25}))
				}
			}
		}
		same("spans of "+query, len(got), len(spans))
		for _, span := range spans {
			has("spans of "+query, got, span)
		}
	}
	byTags := url.Values{"tags": {" error=true whole=9007199254740993 service.name=" + service}, "minDuration": {"1ns"}, "limit": {"20"}}
	if search(byTags) != nil {
		log.Fatal("tags of two spans found one")
	}
	byTags["tags"] = []string{"service.name=" + service + " name=\"POST /v1/chat\" text=grüße"}
	if search(byTags) == nil {
		log.Fatal("tags do not find the trace")
	}
	if status, body := get(base+"/api/search", url.Values{"q": {"{ duration > }"}}, asJSON); status != http.StatusBadRequest || !strings.Contains(string(body), "column") {
		log.Fatalf("a mistake in a query: %d %s", status, body)
	}
}

func askTags(base string, trace sent) {
	limit := url.Values{"limit": {"5000"}}
	var scoped tempopb.SearchTagsV2Response
	read(found(base+"/api/v2/search/tags", limit, asJSON), &scoped)
	scopes := map[string][]string{}
	for _, scope := range scoped.Scopes {
		scopes[scope.Name] = scope.Tags
	}
	has("tags of spans", scopes["span"], "whole")
	has("tags of resources", scopes["resource"], "replica")
	has("intrinsics", scopes["intrinsic"], "duration")
	var plain tempopb.SearchTagsResponse
	read(found(base+"/api/search/tags", limit, asJSON), &plain)
	has("tags", plain.TagNames, "whole")
	for tag, wanted := range map[string]tempopb.TagValue{
		"resource.service.name": {Type: "string", Value: trace.Service},
		"span.text":             {Type: "string", Value: "grüße"},
		"span.whole":            {Type: "int", Value: "9007199254740993"},
		".ratio":                {Type: "float", Value: "0.25"},
		"span.flag":             {Type: "bool", Value: "true"},
		"name":                  {Type: "string", Value: "decode"},
		"status":                {Type: "keyword", Value: "error"},
	} {
		var typed tempopb.SearchTagValuesV2Response
		read(found(base+"/api/v2/search/tag/"+url.PathEscape(url.PathEscape(tag))+"/values", limit, asJSON), &typed)
		var all []string
		for _, value := range typed.TagValues {
			all = append(all, value.Type+" "+value.Value)
		}
		has("values of "+tag, all, wanted.Type+" "+wanted.Value)
	}
	var values tempopb.SearchTagValuesResponse
	read(found(base+"/api/search/tag/service.name/values", nil, asJSON), &values)
	has("values", values.TagValues, trace.Service)
}

func askMetrics(base string, trace sent, within url.Values) {
	query := "{ resource.service.name = " + strconv.Quote(trace.Service) + " } | rate() by (name)"
	parameters := url.Values{"q": {query}, "step": {"60s"}, "exemplars": {"10"}}
	for name, values := range within {
		parameters[name] = values
	}
	var answer tempopb.QueryRangeResponse
	// Grafana passes over unknown fields here, and nowhere else.
	reader := jsonpb.Unmarshaler{AllowUnknownFields: true}
	if err := reader.Unmarshal(bytes.NewReader(found(base+"/api/metrics/query_range", parameters, asJSON)), &answer); err != nil {
		log.Fatal(err)
	}
	same("series", len(answer.Series), 2)
	for _, series := range answer.Series {
		has("labels", []string{trace.name(0), trace.name(1)}, series.Labels[0].Value.GetStringValue())
		spans := 0.0
		for _, sample := range series.Samples {
			spans += 60 * sample.Value
		}
		same("spans", math.Round(spans), 1.0)
	}
	parameters["q"] = []string{"{ resource.service.name = " + strconv.Quote(trace.Service) + " } | count_over_time()"}
	var instant tempopb.QueryInstantResponse
	read(found(base+"/api/metrics/query", parameters, asJSON), &instant)
	same("count", instant.Series[0].Value, 2.0)
}
