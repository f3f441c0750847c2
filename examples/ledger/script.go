package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/safetill/safetill/ledger"
)

//go:embed demo.txt
var demo string

// demo shows the commands on a ledger in memory.
func (a *app) demo(ctx context.Context) error { return a.script(ctx, strings.NewReader(demo), true) }

// script runs the commands of r, one a line, and writes each before what it says
// if echo is set. It ends at the first that fails. A refusal is an answer: it is
// told, and the script goes on.
func (a *app) script(ctx context.Context, r io.Reader, echo bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; scan(ctx, lines); n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		words, err := split(lines.Text())
		if echo && len(words) > 0 {
			fmt.Fprint(a.stdout, "> ")
		}
		if echo {
			fmt.Fprintln(a.stdout, lines.Text())
		}
		if err == nil && len(words) > 0 {
			err = a.command(ctx, words)
		}
		if refused, ok := errors.AsType[*ledger.VerdictError](err); ok {
			fmt.Fprintf(a.stdout, "%s: refused, %v\n", refused.ID, refused.Verdict)
			continue
		}
		if err != nil && !errors.Is(err, flag.ErrHelp) {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := ctx.Err(); err != nil { // the lines may be read yet
		return err
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	return nil
}

// scan is lines.Scan until ctx ends. Nothing interrupts who waits for a line of a
// terminal or of another program: it is left behind, and ends with this program.
func scan(ctx context.Context, lines *bufio.Scanner) bool {
	found := make(chan bool, 1)
	go func() { found <- lines.Scan() }()
	select {
	case more := <-found:
		return more
	case <-ctx.Done():
		return false
	}
}

// split splits a line into words at blanks. Quotes keep blanks: all between '…' is
// as it stands, and so between "…" but for \" and \\. A word that begins with #
// ends the line.
func split(line string) (words []string, err error) {
	var word strings.Builder
	var quote rune
	in, escaped := false, false // in a word; behind a backslash
	for _, c := range line {
		switch {
		case escaped:
			if c != '"' && c != '\\' {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case quote == '"' && c == '\\':
			escaped = true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			in, quote = true, c
		case c == ' ' || c == '\t' || c == '\r':
			if in {
				words, in = append(words, word.String()), false
				word.Reset()
			}
		case c == '#' && !in:
			return words, nil
		default:
			in = true
			word.WriteRune(c)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
