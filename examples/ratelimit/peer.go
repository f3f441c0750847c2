package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/safetill/safetill/ratelimit"
)

// The way from peer to peer is one request with calls in it, and one answer to each. Who can reach it can charge any key: it belongs on a
// port of its own, in a network of its own or behind mutual TLS.

const maxPeerBody = 1 << 20

// peer asks another process over HTTP.
type peer struct {
	client *http.Client
	url    string
}

// wireReply is a reply as it is sent: an error is a text.
type wireReply struct {
	Outcomes []ratelimit.Outcome `json:"outcomes,omitempty"`
	Error    string              `json:"error,omitempty"`
	Owner    string              `json:"owner,omitempty"` // of a key of which the one who was asked is not
	Invalid  bool                `json:"invalid,omitempty"`
}

// Decide implements ratelimit.Peer. It does not repeat what had no answer: that may have been charged.
func (p *peer) Decide(ctx context.Context, calls []ratelimit.Call) []ratelimit.Reply {
	replies := make([]ratelimit.Reply, len(calls))
	answers, err := p.ask(ctx, calls)
	for i := range replies {
		switch {
		case err != nil:
			replies[i].Err = err
		case answers[i].Owner != "":
			replies[i].Err = &ratelimit.NotOwnerError{Asked: p.url, Owner: answers[i].Owner}
		case answers[i].Invalid:
			replies[i].Err = fmt.Errorf("%w: %s", ratelimit.ErrInvalid, answers[i].Error)
		case answers[i].Error != "":
			replies[i].Err = errors.New(answers[i].Error)
		default:
			replies[i].Outcomes = answers[i].Outcomes
		}
	}
	return replies
}

func (p *peer) ask(ctx context.Context, calls []ratelimit.Call) ([]wireReply, error) {
	body, err := json.Marshal(calls)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("peer answered %s", response.Status)
	}
	var answers []wireReply
	if err := json.NewDecoder(io.LimitReader(response.Body, maxPeerBody)).Decode(&answers); err != nil {
		return nil, fmt.Errorf("peer's answer: %w", err)
	}
	if len(answers) != len(calls) {
		return nil, fmt.Errorf("peer answered %d calls of %d", len(answers), len(calls))
	}
	return answers, nil
}

// answerPeers is the other end.
func answerPeers(owned *ratelimit.Owned) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		calls, err := readCalls(http.MaxBytesReader(w, r.Body, maxPeerBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answers := make([]wireReply, len(calls))
		for i, reply := range owned.Answer(r.Context(), calls) {
			answers[i] = wireReply{Outcomes: reply.Outcomes}
			if reply.Err != nil {
				answers[i] = wireReply{Error: reply.Err.Error(), Invalid: errors.Is(reply.Err, ratelimit.ErrInvalid)}
			}
			if not, ok := errors.AsType[*ratelimit.NotOwnerError](reply.Err); ok {
				answers[i].Owner = not.Owner
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answers) // the peer has hung up, then
	}
}

// readCalls reads what a peer has sent.
func readCalls(r io.Reader) ([]ratelimit.Call, error) {
	var calls []ratelimit.Call
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&calls); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one value")
	}
	return calls, nil
}
