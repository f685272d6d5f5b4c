module infertrace.io/tests/grafana

go 1.26.0

require (
	github.com/gogo/protobuf v1.3.2
	github.com/grafana/tempo v1.5.1-0.20241001135150-ed943d7a56b2
	github.com/jaegertracing/jaeger v1.62.0
)

require (
	golang.org/x/net v0.30.0 // indirect
	golang.org/x/sys v0.26.0 // indirect
	golang.org/x/text v0.19.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20240903143218-8af14fe29dc1 // indirect
	google.golang.org/grpc v1.67.1 // indirect
	google.golang.org/protobuf v1.34.2 // indirect
)
