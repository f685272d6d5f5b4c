package main

import (
	"context"
	"errors"
	"log"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	prometheus "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// askPrometheus asks what Grafana's Prometheus data source asks, with Prometheus' own client. requests is how many model
// requests the rollups count.
func askPrometheus(base string, requests float64) {
	client, err := api.NewClient(api.Config{Address: base})
	if err != nil {
		log.Fatal(err)
	}
	ask := prometheus.NewAPI(client)
	background, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	now := time.Now()
	build, err := ask.Buildinfo(background)
	must(err)
	if !strings.HasPrefix(build.Version, "3.") {
		log.Fatalf("version %q", build.Version)
	}
	// What a data source asks to be sure of its URL.
	value, _, err := ask.Query(background, "1+1", time.Unix(4, 0))
	must(err)
	same("1+1", value.String(), "scalar: 2 @[4]")

	all := vector(ask, background, "sum(infertrace_requests_total)", now)
	same("requests", float64(all[0].Value), requests)
	same("requests of an hour", vector(ask, background, "sum(increase(infertrace_requests_total[1h]))", now)[0].Value, all[0].Value)
	askNames(ask, background, now)
	askRange(ask, background, now, requests)
	askHistograms(ask, background, now, requests)
	askErrors(ask, background, base, now)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func vector(ask prometheus.API, background context.Context, query string, at time.Time) model.Vector {
	value, warnings, err := ask.Query(background, query, at)
	if err != nil || len(warnings) > 0 {
		log.Fatalf("%s: %v %v", query, err, warnings)
	}
	found, isVector := value.(model.Vector)
	if !isVector || len(found) == 0 {
		log.Fatalf("%s: %v", query, value)
	}
	return found
}

func askNames(ask prometheus.API, background context.Context, now time.Time) {
	from := now.Add(-time.Hour)
	labels, _, err := ask.LabelNames(background, nil, from, now)
	must(err)
	for _, label := range []string{"__name__", "model", "service"} {
		has("labels", labels, label)
	}
	names, _, err := ask.LabelValues(background, "__name__", nil, from, now)
	must(err)
	all := []string{}
	for _, name := range names {
		all = append(all, string(name))
	}
	for _, name := range []string{"infertrace_requests_total", "infertrace_ttft_seconds", "infertrace_traces_total"} {
		has("metrics", all, name)
	}
	models, _, err := ask.LabelValues(background, "model", []string{"infertrace_requests_total"}, from, now)
	must(err)
	series, _, err := ask.Series(background, []string{`infertrace_requests_total{model="` + string(models[0]) + `"}`}, from, now)
	must(err)
	if len(series) == 0 || series[0]["model"] != model.LabelValue(models[0]) {
		log.Fatalf("series of %s: %v", models[0], series)
	}
	metadata, err := ask.Metadata(background, "", "")
	must(err)
	same("type", metadata["infertrace_requests_total"][0].Type, prometheus.MetricTypeCounter)
	same("type", metadata["infertrace_ttft_seconds"][0].Type, prometheus.MetricTypeHistogram)
	same("metadata", len(metadata), len(all))
}

// askRange sends what a panel of Grafana sends; the client posts a form.
func askRange(ask prometheus.API, background context.Context, now time.Time, requests float64) {
	step := 10 * time.Second
	panel := prometheus.Range{Start: now.Add(-5 * time.Minute).Truncate(step), End: now.Truncate(step).Add(step), Step: step}
	value, _, err := ask.QueryRange(background, "sum by (model) (increase(infertrace_requests_total[10s]))", panel)
	must(err)
	counted := 0.0
	for _, series := range value.(model.Matrix) {
		if series.Metric["model"] == "" {
			log.Fatalf("no model: %v", series.Metric)
		}
		for _, sample := range series.Values {
			counted += float64(sample.Value)
		}
	}
	same("requests by step", counted, requests)
}

func askHistograms(ask prometheus.API, background context.Context, now time.Time, requests float64) {
	merged := vector(ask, background, "sum(infertrace_request_duration_seconds)", now)[0].Histogram
	if merged == nil || float64(merged.Count) != requests {
		log.Fatalf("durations: %v", merged)
	}
	counted := 0.0
	for _, bucket := range merged.Buckets {
		counted += float64(bucket.Count)
	}
	same("requests in buckets", counted, requests)
	quantile := func(q string) float64 {
		query := "histogram_quantile(" + q + ", sum(increase(infertrace_request_duration_seconds[1h])))"
		return float64(vector(ask, background, query, now)[0].Value)
	}
	median, last := quantile("0.5"), quantile("1")
	mean := float64(merged.Sum) / requests
	if !(0 < median && median <= last && mean <= last) {
		log.Fatalf("median %v, mean %v, greatest %v seconds", median, mean, last)
	}
	average := vector(ask, background, "histogram_avg(sum(infertrace_request_duration_seconds))", now)[0].Value
	if math.Abs(float64(average)-mean) > 1e-9 {
		log.Fatalf("mean %v and %v", average, mean)
	}
}

func askErrors(ask prometheus.API, background context.Context, base string, now time.Time) {
	_, _, err := ask.Query(background, "sum(deriv(infertrace_requests_total[5m]))", now)
	var told *prometheus.Error
	if !errors.As(err, &told) || told.Type != prometheus.ErrBadData || !strings.Contains(told.Msg, "1:5: parse error: the function `deriv`") {
		log.Fatalf("an unsupported function: %v", err)
	}
	_, _, err = ask.Query(background, "max(infertrace_ttft_seconds)", now)
	if !errors.As(err, &told) || told.Type != prometheus.ErrExec {
		log.Fatalf("the greatest distribution: %v", err)
	}
	fine := prometheus.Range{Start: now.Add(-24 * time.Hour), End: now, Step: time.Second}
	_, _, err = ask.QueryRange(background, "vector(1)", fine)
	if !errors.As(err, &told) || told.Type != prometheus.ErrBadData || !strings.Contains(told.Msg, "11,000 points") {
		log.Fatalf("86,400 steps: %v", err)
	}
	// The other form of a request.
	status, body := get(base+"/api/v1/query", url.Values{"query": {"1"}, "timeout": {"-1s"}}, asJSON)
	if status != http.StatusBadRequest || !strings.Contains(string(body), `"errorType":"bad_data"`) {
		log.Fatalf("a bad time-out: %d %s", status, body)
	}
}
