package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// printer returns a tracer that writes a line for each span; a service would export
// them with OTLP.
func printer(w io.Writer) (tracer trace.Tracer, flush func()) {
	p := sdktrace.NewTracerProvider(sdktrace.WithSyncer(lines{w}))
	return p.Tracer("ordersaga"), func() { _ = p.Shutdown(context.Background()) } // it only writes lines
}

type lines struct{ w io.Writer }

// ExportSpans is what the SDK calls.
func (l lines) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		failed := ""
		if st := s.Status(); st.Code == codes.Error {
			failed = ": " + st.Description
		}
		took := s.EndTime().Sub(s.StartTime()).Round(time.Microsecond)
		fmt.Fprintf(l.w, "trace %s: %s took %v%s\n", s.SpanContext().TraceID(), s.Name(), took, failed)
	}
	return nil
}

// Shutdown is what the SDK calls.
func (l lines) Shutdown(context.Context) error { return nil }
