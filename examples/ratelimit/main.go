// Command ratelimit shows how several processes share a limit: simulate measures ways to do it side by side and draws them, serve is one process of such
// a fleet. README.md beside it shows how.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/safetill/safetill/examples/internal/cli"
)

func main() { cli.Main("ratelimit", run) }

const usage = `usage: ratelimit simulate [flags]   measure ways to share a limit, and draw them
       ratelimit serve [flags]      be one of several processes that share a limit
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "simulate":
			return simulate(ctx, args[1:], stdout, stderr)
		case "serve":
			return serve(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprint(stderr, usage)
	if len(args) > 0 && args[0] != "-h" && args[0] != "-help" && args[0] != "--help" {
		return fmt.Errorf("unknown command %q", args[0])
	}
	return flag.ErrHelp
}
