// Command ask asks InferTrace what Grafana's data sources for Tempo, Jaeger and Prometheus ask, reads the answers with the
// types of the three themselves, and checks that they tell the trace that `emit` (../otel/go) printed and count the model
// requests that were sent. Any mistake ends it with 1.
//
// Usage: ask API_URL traces < what emit printed
//
//	ask API_URL requests MODEL_REQUESTS
//
// Requests are those of Grafana: pkg/tsdb/tempo (trace.go, search.go, traceql_query.go), pkg/tsdb/jaeger/client.go, and
// public/app/plugins/datasource/tempo (datasource.ts, language_provider.ts).
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
)

type object = map[string]any

// sent is what emit printed.
type sent struct {
	TraceID string   `json:"trace_id"`
	Service string   `json:"service"`
	Scope   string   `json:"scope"`
	Spans   []object `json:"spans"`
}

// name is the name of a span, the root being the first.
func (s sent) name(span int) string { return s.Spans[span]["name"].(string) }

func main() {
	log.SetFlags(0)
	if os.Args[2] == "requests" {
		requests, err := strconv.ParseFloat(os.Args[3], 64)
		if err != nil {
			log.Fatal(err)
		}
		askPrometheus(os.Args[1]+"/prometheus", requests)
		return
	}
	var trace sent
	if err := json.NewDecoder(os.Stdin).Decode(&trace); err != nil {
		log.Fatal(err)
	}
	askTempo(os.Args[1]+"/tempo", trace)
	askJaeger(os.Args[1]+"/jaeger", trace)
}

// get returns the status and the body.
func get(address string, parameters url.Values, accept string) (int, []byte) {
	if len(parameters) > 0 {
		address += "?" + parameters.Encode()
	}
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	return response.StatusCode, body
}

// found is the body of an answer that must be 200.
func found(address string, parameters url.Values, accept string) []byte {
	status, body := get(address, parameters, accept)
	if status != http.StatusOK {
		log.Fatalf("%s %v: %d %s", address, parameters, status, body)
	}
	return body
}

// same ends the program when got is not wanted.
func same(what string, got, wanted any) {
	if !reflect.DeepEqual(got, wanted) {
		log.Fatalf("%s:\n got    %s\n wanted %s", what, shown(got), shown(wanted))
	}
}

func shown(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}

// has ends the program when wanted is not among all.
func has(what string, all []string, wanted string) {
	for _, one := range all {
		if one == wanted {
			return
		}
	}
	log.Fatalf("%s: %q is not in %s", what, wanted, strings.Join(all, ", "))
}
