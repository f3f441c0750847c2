package grpclimit_test

import (
	"context"
	"fmt"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/safetill/safetill/examples/ratelimit/grpclimit"
	"github.com/safetill/safetill/ratelimit"
)

func ExampleNew() {
	limiter, err := ratelimit.New(ratelimit.NewMemory(nil), ratelimit.PerHour(1), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	consumer := ratelimit.HeaderKey("X-Consumer-ID") // as the gateway has left it
	limit, err := grpclimit.New(limiter, &grpclimit.Options{
		Checks: func(r *http.Request) ([]ratelimit.Check, bool) {
			key, ok := consumer(r)
			return []ratelimit.Check{{Limit: ratelimit.PerHour(1).Named("consumer"), Key: key}}, ok
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(limit.Unary), grpc.ChainStreamInterceptor(limit.Stream))
	defer server.Stop()

	// What the server does with a call:
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("x-consumer-id", "shop-7"))
	pay := func(context.Context, any) (any, error) { return "paid", nil }
	for range 2 {
		answer, err := limit.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/bank.Payments/Pay"}, pay)
		fmt.Println(answer, status.Code(err))
	}
	// Output:
	// paid OK
	// <nil> ResourceExhausted
}
