// Package ratelimit limits how much is done in how much time: by user, by address, for everybody, or all at once.
//
//	store := ratelimit.NewMemory(nil)
//	limiter, err := ratelimit.New(store, ratelimit.PerMinute(100), nil)
//	result, err := limiter.Allow(ctx, "user-7")
//	if !result.Allowed {
//		// try again in result.RetryAfter
//	}
package ratelimit
