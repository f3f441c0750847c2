// Package ratelimittest is the test of a rate limiter's store. A store that passes it behaves like the one in memory, to the microsecond.
package ratelimittest
