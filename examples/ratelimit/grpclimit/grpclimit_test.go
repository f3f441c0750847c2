package grpclimit_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/safetill/safetill/examples/ratelimit/grpclimit"
	"github.com/safetill/safetill/ratelimit"
)

// broken is a store that fails.
type broken struct{}

func (broken) Decide(_ context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	replies := make([]ratelimit.Reply, len(calls))
	for i := range replies {
		replies[i].Err = context.DeadlineExceeded
	}
	return replies
}

// memory is a store whose clock stands.
func memory() ratelimit.Store {
	return ratelimit.NewMemory(&ratelimit.MemoryOptions{Now: func() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }})
}

// serve serves gRPC's health service, which has a unary call and a stream, behind limits: two an hour for an address, and as many units as the metadata "cost" says
// for the whole server.
func serve(t *testing.T, store ratelimit.Store, o *ratelimit.Options) healthpb.HealthClient {
	t.Helper()
	l, err := ratelimit.New(store, ratelimit.PerHour(2), o)
	require.NoError(t, err)
	address := ratelimit.ClientIP(netip.MustParsePrefix("127.0.0.0/8"))
	limit, err := grpclimit.New(l, &grpclimit.Options{Checks: func(r *http.Request) ([]ratelimit.Check, bool) {
		key, ok := address(r)
		if r.URL.Path == "/grpc.health.v1.Health/Check" && r.Header.Get("Anonymous") != "" {
			return nil, false
		}
		return []ratelimit.Check{
			{Limit: ratelimit.PerHour(2).Named("address"), Key: key},
			{Limit: ratelimit.PerHour(100).Named("all"), Key: "all", N: int64(len(r.Header.Get("Cost")))},
		}, ok
	}})
	require.NoError(t, err)
	server := grpc.NewServer(grpc.UnaryInterceptor(limit.Unary), grpc.StreamInterceptor(limit.Stream))
	healthpb.RegisterHealthServer(server, health.NewServer())
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func check(t *testing.T, c healthpb.HealthClient, pairs ...string) (metadata.MD, error) {
	t.Helper()
	var header metadata.MD
	_, err := c.Check(metadata.AppendToOutgoingContext(t.Context(), pairs...), &healthpb.HealthCheckRequest{}, grpc.Header(&header))
	return header, err
}

// details returns what a status tells beside its code.
func details(t *testing.T, err error, code codes.Code) (retry time.Duration, violated []string) {
	t.Helper()
	s := status.Convert(err)
	require.Equal(t, code, s.Code(), "%v", err)
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration()
		case *errdetails.QuotaFailure:
			for _, v := range d.GetViolations() {
				violated = append(violated, v.GetSubject())
			}
		}
	}
	return retry, violated
}

func TestUnaryCalls(t *testing.T) {
	t.Parallel()
	c := serve(t, memory(), nil)
	header, err := check(t, c)
	require.NoError(t, err)
	require.Equal(t, []string{`"address";q=2;w=3600, "all";q=100;w=3600`}, header.Get("ratelimit-policy"))
	require.Equal(t, []string{`"address";r=1;t=1800, "all";r=99;t=36`}, header.Get("ratelimit"))
	_, err = check(t, c)
	require.NoError(t, err)
	header, err = check(t, c)
	retry, violated := details(t, err, codes.ResourceExhausted)
	require.Equal(t, 30*time.Minute, retry)
	require.Equal(t, []string{"address"}, violated)
	require.Equal(t, []string{"1800"}, header.Get("retry-after"))
	require.Equal(t, []string{`"address";r=0;t=1800, "all";r=98;t=72`}, header.Get("ratelimit"), "the refused call was charged to nobody")
	_, err = check(t, c, "x-forwarded-for", "192.0.2.1")
	require.NoError(t, err, "another client of the same proxy")
}

func TestCallsThatWaitingDoesNotHelp(t *testing.T) {
	t.Parallel()
	c := serve(t, memory(), nil)
	header, err := check(t, c, "cost", strings.Repeat("x", 101))
	retry, violated := details(t, err, codes.ResourceExhausted)
	require.Zero(t, retry)
	require.Equal(t, []string{"all"}, violated)
	require.Empty(t, header.Get("retry-after"))
	_, err = check(t, c, "anonymous", "1")
	_, violated = details(t, err, codes.InvalidArgument)
	require.Empty(t, violated)
}

func TestStreams(t *testing.T) {
	t.Parallel()
	c := serve(t, memory(), nil)
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		_, err = stream.Recv()
		header, _ := stream.Header()
		cancel()
		if i < 2 {
			require.NoError(t, err)
			require.Len(t, header.Get("ratelimit"), 1)
			continue
		}
		retry, violated := details(t, err, codes.ResourceExhausted)
		require.Equal(t, 30*time.Minute, retry)
		require.Equal(t, []string{"address"}, violated)
		require.Equal(t, []string{"1800"}, header.Get("retry-after"))
	}
}

func TestCallsWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	header, err := check(t, serve(t, broken{}, nil))
	require.NoError(t, err)
	require.Empty(t, header.Get("ratelimit"))
	_, err = check(t, serve(t, broken{}, &ratelimit.Options{OnError: ratelimit.FailClosed}))
	retry, violated := details(t, err, codes.Unavailable)
	require.Equal(t, time.Second, retry)
	require.Empty(t, violated)
}

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []*grpclimit.Options{nil, {}} {
		limit, err := grpclimit.New(nil, o)
		require.Error(t, err)
		require.Nil(t, limit)
	}
}
