module infertrace.io/tests/grafana

go 1.26.0

require (
	github.com/gogo/protobuf v1.3.2
	github.com/grafana/tempo v1.5.1-0.20241001135150-ed943d7a56b2
	github.com/jaegertracing/jaeger v1.62.0
	github.com/prometheus/client_golang v1.20.5
	github.com/prometheus/common v0.61.0
)

require (
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/modern-go/concurrent v0.0.0-20180306012644-bacd9c7ef1dd // indirect
	github.com/modern-go/reflect2 v1.0.2 // indirect
	github.com/prometheus/client_model v0.6.1 // indirect
	golang.org/x/net v0.32.0 // indirect
	golang.org/x/sys v0.28.0 // indirect
	golang.org/x/text v0.21.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20240903143218-8af14fe29dc1 // indirect
	google.golang.org/grpc v1.67.1 // indirect
	google.golang.org/protobuf v1.35.2 // indirect
)
