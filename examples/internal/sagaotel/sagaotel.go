// Package sagaotel traces sagas with OpenTelemetry: a span for each attempt of a step,
// of a compensation or of a look-up at the provider, and one trace for a saga, whichever processes it runs in.
package sagaotel

import (
	"context"
	"crypto/sha256"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/safetill/safetill/saga"
)

// Around returns what [saga.Hooks] calls in place of an attempt. The trace's id is
// made of the saga's, so that a saga that was taken up by another process, or a year
// later, is still one trace; spans that the step makes with its context are children
// of the attempt's. A trace says nothing of the saga's data.
func Around(t trace.Tracer) func(context.Context, saga.Call, func(context.Context) error) error {
	return func(ctx context.Context, c saga.Call, next func(context.Context) error) error {
		name := "saga " + c.Step
		switch {
		case c.Verify:
			name = "saga verify " + c.Step
		case c.Undo:
			name = "saga undo " + c.Step
		}
		ctx, span := t.Start(trace.ContextWithRemoteSpanContext(ctx, root(c)), name, trace.WithAttributes(
			attribute.String("saga.id", c.SagaID),
			attribute.String("saga.definition", c.Definition),
			attribute.String("saga.step", c.Step),
			attribute.Int("saga.attempt", c.Attempt),
			attribute.Bool("saga.undo", c.Undo),
		))
		defer span.End()
		err := next(ctx)
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		return err
	}
}

// root stands for the saga: the parent of its attempts, which no process has made.
func root(c saga.Call) trace.SpanContext {
	sum := sha256.Sum256([]byte(c.Definition + "\x00" + c.SagaID))
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24]), TraceFlags: trace.FlagsSampled, Remote: true,
	})
}
