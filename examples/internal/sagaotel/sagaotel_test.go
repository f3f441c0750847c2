package sagaotel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/safetill/safetill/examples/internal/sagaotel"
	"github.com/safetill/safetill/saga"
)

type nothing struct{}

func TestASpanForEachAttemptInOneTrace(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	tracer := provider.Tracer("test")

	attempts := 0
	def := saga.MustDefine("order", 1,
		saga.Step("reserve", func(ctx context.Context, _ *nothing) error {
			_, inner := tracer.Start(ctx, "call the warehouse")
			inner.End()
			if attempts++; attempts == 1 {
				return errors.New("502")
			}
			return nil
		}).Undo(func(ctx context.Context, _ *nothing) error {
			if saga.CallFrom(ctx).Step != "reserve" {
				return errors.New("the call is lost")
			}
			return nil
		}).Retry(saga.Retry{First: time.Millisecond}),
		saga.Pivot("confirm", func(context.Context, *nothing) error { return saga.Reject(errors.New("no")) }))
	e, err := saga.New(saga.NewMemory(nil), &saga.Options{
		Definitions: []saga.Registered{def}, Hooks: saga.Hooks{Around: sagaotel.Around(tracer)},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	for _, id := range []string{"o1", "o2"} {
		h, err := def.Start(ctx, e, id, nothing{}, nil)
		require.NoError(t, err)
		r, err := h.Wait(ctx)
		require.NoError(t, err)
		require.Equal(t, saga.Compensated, r.Status)
	}
	cancel()
	require.NoError(t, <-ended)

	var names []string
	traces := map[trace.TraceID]int{}
	byName := map[string]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		names = append(names, s.Name)
		traces[s.SpanContext.TraceID()]++
		if _, seen := byName[s.Name]; !seen {
			byName[s.Name] = s
		}
	}
	require.Equal(t, []string{
		"call the warehouse", "saga reserve", "call the warehouse", "saga reserve", "saga confirm", "saga undo reserve",
		"call the warehouse", "saga reserve", "saga confirm", "saga undo reserve",
	}, names)
	require.Len(t, traces, 2)
	first := byName["saga reserve"]
	require.Equal(t, codes.Error, first.Status.Code)
	require.Equal(t, "502", first.Status.Description)
	require.Equal(t, first.SpanContext.SpanID(), byName["call the warehouse"].Parent.SpanID())
	require.Contains(t, first.Attributes, attribute.String("saga.id", "o1"))
	require.Contains(t, first.Attributes, attribute.Int("saga.attempt", 1))
	require.Contains(t, byName["saga undo reserve"].Attributes, attribute.Bool("saga.undo", true))
}
