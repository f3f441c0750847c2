// Package grpclimit limits the calls that a gRPC server answers: interceptors made of package ratelimit.
package grpclimit

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/safetill/safetill/ratelimit"
)

// Options of [New].
type Options struct {
	// Checks returns all limits that a call is held to, or false for a call of nobody. The call is shown as the HTTP request that it is: its context, the full
	// method as the path, metadata as the header and the peer as RemoteAddr, so that ratelimit's key functions fit. Required.
	Checks func(r *http.Request) (checks []ratelimit.Check, ok bool)
	// Fields writes the metadata that tell clients what is left.
	// Default: ratelimit.Draft11.
	Fields ratelimit.Encoder
}

// Limit has the interceptors.
//
// A call that is refused does not reach its handler and has the code RESOURCE_EXHAUSTED, with the details QuotaFailure and RetryInfo, and retry-after in the
// header. Without RetryInfo to repeat it is of no use: it costs more than a limit can ever give. Other codes: UNAVAILABLE with RetryInfo while the store fails and the limiter's
// policy is closed, INVALID_ARGUMENT if nothing says whose it is, INTERNAL for limits that are out of order.
type Limit struct {
	limiter *ratelimit.Limiter
	opts    Options
}

// New returns interceptors that hold calls to a limiter.
func New(l *ratelimit.Limiter, o *Options) (*Limit, error) {
	if l == nil || o == nil || o.Checks == nil {
		return nil, errors.New("grpclimit: limiter and Checks are required")
	}
	limit := &Limit{limiter: l, opts: *o}
	if limit.opts.Fields == nil {
		limit.opts.Fields = ratelimit.Draft11
	}
	return limit, nil
}

// Unary is a grpc.UnaryServerInterceptor.
func (l *Limit) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	header, err := l.hold(ctx, info.FullMethod)
	_ = grpc.SetHeader(ctx, header) // fails where there is no transport, and then nobody would read it
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is a grpc.StreamServerInterceptor. A stream is charged once, when it begins.
func (l *Limit) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	header, err := l.hold(stream.Context(), info.FullMethod)
	_ = stream.SetHeader(header)
	if err != nil {
		return err
	}
	return handler(srv, stream)
}

// hold decides on a call and returns what its client is told.
func (l *Limit) hold(ctx context.Context, method string) (metadata.MD, error) {
	checks, ok := l.opts.Checks(picture(ctx, method))
	if !ok {
		return nil, status.Error(codes.InvalidArgument, "Nothing in the call says whose it is, so it cannot be held to anyone's limit.")
	}
	d := ratelimit.Hold(ctx, l.limiter, checks...)
	fields := http.Header{}
	l.opts.Fields(fields, d.Quotas)
	header := metadata.MD{}
	for name, lines := range fields {
		header.Append(name, lines...) // in lower case
	}
	if d.Refusal == nil {
		return header, nil
	}
	if s := d.Refusal.RetrySeconds(); s > 0 {
		header.Set("retry-after", strconv.FormatInt(s, 10))
	}
	return header, refusal(d.Refusal)
}

// refusal is a refusal as a status.
func refusal(r *ratelimit.Refusal) error {
	code := codes.Internal
	switch r.Status {
	case http.StatusTooManyRequests, http.StatusUnprocessableEntity:
		code = codes.ResourceExhausted
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	case http.StatusBadRequest:
		code = codes.InvalidArgument
	}
	var details []protoadapt.MessageV1
	if r.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.RetryAfter)})
	}
	var quota errdetails.QuotaFailure
	for _, name := range r.Violated {
		quota.Violations = append(quota.Violations, &errdetails.QuotaFailure_Violation{Subject: name, Description: r.Detail})
	}
	if len(quota.Violations) > 0 {
		details = append(details, &quota)
	}
	plain := status.New(code, r.Detail)
	with, err := plain.WithDetails(details...)
	if err != nil {
		return plain.Err() // details always encode; without them it is still true
	}
	return with.Err()
}

// picture shows a call as an HTTP request.
func picture(ctx context.Context, method string) *http.Request {
	r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: method}, Header: http.Header{}}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for name, lines := range md {
		if !strings.HasPrefix(name, ":") {
			r.Header[http.CanonicalHeaderKey(name)] = lines
		}
	}
	return r.WithContext(ctx)
}
