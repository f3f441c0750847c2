//go:build !race

// With the race detector they take a minute to be found, and are looked for without it.

package idempotency

import (
	"context"
	"testing"
)

// A test that finds nothing is worth nothing: stores with planted faults are found out.
func TestSimulatorFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	for name, broken := range simMutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const first, most = 1, 2000
			for seed := uint64(first); seed < first+most; seed++ {
				if _, err := simulate(t, seed, func(string, ...any) {}, broken); err != nil {
					t.Logf("after %d runs: %v", seed, err)
					return
				}
			}
			t.Error("not found")
		})
	}
}

// simMutants are stores that each break one line of the contract.
var simMutants = map[string]func(Store) Store{
	"tokens do not grow":       func(s Store) Store { return constantToken{s, map[Key]Token{}} },
	"anyone may complete":      func(s Store) Store { return anyoneCompletes{s, map[Key]Token{}} },
	"steps are forgotten":      func(s Store) Store { return forgetsSteps{s} },
	"in flight is won as well": func(s Store) Store { return twoWinners{s} },
	"completions are lost":     func(s Store) Store { return losesCompletions{s} },
	"stale steps are recorded": func(s Store) Store { return staleSteps{s, map[Key]Token{}} },
}

// current remembers the token that is valid.
func current(tokens map[Key]Token, q []Request, records []Record, err error) ([]Record, error) {
	if err == nil && records[0].Outcome == Won {
		tokens[q[0].Key] = records[0].Token
	}
	return records, err
}

type constantToken struct {
	Store
	tokens map[Key]Token
}

func (s constantToken) Claim(ctx context.Context, q []Request) ([]Record, error) {
	records, err := s.Store.Claim(ctx, q)
	records, err = current(s.tokens, q, records, err)
	if err == nil && records[0].Outcome == Won {
		records[0].Token = 1
	}
	return records, err
}

func (s constantToken) Complete(ctx context.Context, c []Completion) ([]error, error) {
	c[0].Token = s.tokens[c[0].Key]
	return s.Store.Complete(ctx, c)
}

func (s constantToken) Release(ctx context.Context, c []Claim) ([]error, error) {
	c[0].Token = s.tokens[c[0].Key]
	return s.Store.Release(ctx, c)
}

func (s constantToken) Extend(ctx context.Context, e []Extension) ([]error, error) {
	e[0].Token = s.tokens[e[0].Key]
	return s.Store.Extend(ctx, e)
}

type anyoneCompletes struct {
	Store
	tokens map[Key]Token
}

func (s anyoneCompletes) Claim(ctx context.Context, q []Request) ([]Record, error) {
	records, err := s.Store.Claim(ctx, q)
	return current(s.tokens, q, records, err)
}

func (s anyoneCompletes) Complete(ctx context.Context, c []Completion) ([]error, error) {
	c[0].Token = s.tokens[c[0].Key]
	return s.Store.Complete(ctx, c)
}

type forgetsSteps struct{ Store }

func (s forgetsSteps) Claim(ctx context.Context, q []Request) ([]Record, error) {
	records, err := s.Store.Claim(ctx, q)
	if err == nil {
		records[0].Steps = nil
	}
	return records, err
}

type twoWinners struct{ Store }

func (s twoWinners) Claim(ctx context.Context, q []Request) ([]Record, error) {
	records, err := s.Store.Claim(ctx, q)
	if err == nil && records[0].Outcome == InFlight {
		records[0] = Record{Outcome: Won, Token: 1}
	}
	return records, err
}

type losesCompletions struct{ Store }

func (s losesCompletions) Complete(ctx context.Context, c []Completion) ([]error, error) {
	return s.Release(ctx, []Claim{{Key: c[0].Key, Token: c[0].Token}})
}

type staleSteps struct {
	Store
	tokens map[Key]Token
}

func (s staleSteps) Claim(ctx context.Context, q []Request) ([]Record, error) {
	records, err := s.Store.Claim(ctx, q)
	return current(s.tokens, q, records, err)
}

func (s staleSteps) Extend(ctx context.Context, e []Extension) ([]error, error) {
	e[0].Token = s.tokens[e[0].Key]
	return s.Store.Extend(ctx, e)
}
