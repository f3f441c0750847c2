package imports

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module  = "github.com/safetill/safetill"
	decimal = "github.com/shopspring/decimal"
	testdb  = module + "/internal/testdb"
	localdb = module + "/internal/localdb"
)

// The rooms, and what their cores need besides the standard library and decimal: prefixes of import paths.
var cores = map[string][]string{
	"ratelimit":   nil,
	"idempotency": nil,
	"ledger":      nil,
	"saga":        nil,
	"fraud":       nil,
	"recon":       {"github.com/bits-and-blooms/"},
	"notify":      nil,
}

// The drivers, and how the folder is named that they may be imported below.
var drivers = map[string]string{
	"github.com/jackc/":             "pg",
	"github.com/lib/pq":             "pg",
	"github.com/redis/":             "redis",
	"github.com/twmb/franz-go":      "kafka",
	"github.com/segmentio/kafka-go": "kafka",
	"github.com/IBM/sarama":         "kafka",
}

// What belongs to the examples and the benchmarks.
var foreign = []string{
	"github.com/gin-gonic/", "github.com/gin-contrib/", "github.com/prometheus/", "go.opentelemetry.io/", "github.com/sony/gobreaker",
	"github.com/failsafe-go/", "github.com/formancehq/", "github.com/blnkfinance/", "github.com/tigerbeetle/", "github.com/pgr0ss/",
	"github.com/go-redis/redis_rate", "github.com/throttled/", "github.com/ulule/limiter", "github.com/go-redsync/",
	"github.com/sethvargo/go-limiter", "github.com/mennanov/limiters", "golang.org/x/time", "google.golang.org/grpc",
	"github.com/bsm/redislock", "github.com/hibiken/asynq", "github.com/riverqueue/", "github.com/gofiber/", "go.temporal.io/",
	"github.com/dmitryikh/leaves", "github.com/anishathalye/porcupine",
}

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath string
	Imports    []string

	TestImports, XTestImports []string
}

// rules are the packages of the module by their path.
type rules map[string]pkg

// faults returns what is forbidden, a line each.
func faults(pkgs []pkg) (lines []string) {
	r := rules{}
	for _, p := range pkgs {
		r[p.ImportPath] = p
	}
	for _, p := range pkgs {
		for _, what := range slices.Concat(r.room(p), r.weight(p), r.testing(p), r.examples(p)) {
			lines = append(lines, p.ImportPath+" "+what)
		}
	}
	slices.Sort(lines)
	return lines
}

// needs returns what p imports, itself and through packages of the module, each with the package that imports it.
func (r rules) needs(p pkg) map[string]string {
	needs := map[string]string{}
	var walk func(pkg)
	walk = func(from pkg) {
		for _, to := range from.Imports {
			if _, seen := needs[to]; seen || standard(to) {
				continue
			}
			needs[to] = from.ImportPath
			walk(r[to]) // a package of others is not in r, and has no imports there
		}
	}
	walk(p)
	return needs
}

// room is the top folder, "" for the module's root and what is no room.
func room(importPath string) string {
	top, _, _ := strings.Cut(strings.TrimPrefix(importPath, module+"/"), "/")
	if _, ok := cores[top]; !ok || !ours(importPath) {
		return ""
	}
	return top
}

// room keeps rooms apart, and a core apart from its own sub-packages.
func (r rules) room(p pkg) (lines []string) {
	own := room(p.ImportPath)
	if own == "" && suite(p.ImportPath) {
		return nil
	}
	for to, from := range r.needs(p) {
		switch theirs := room(to); {
		case own == "" && theirs != "":
			lines = append(lines, fmt.Sprintf("is in no room, and must not need %s (imported by %s)", to, from))
		case theirs != "" && theirs != own:
			lines = append(lines, fmt.Sprintf("must not need %s, another room (imported by %s)", to, from))
		case theirs != "" && p.ImportPath == module+"/"+own:
			lines = append(lines, fmt.Sprintf("is a core and must not need its sub-package %s (imported by %s)", to, from))
		}
	}
	return lines
}

// weight keeps third parties out of cores and suites, and drivers below the folders of their name.
func (r rules) weight(p pkg) (lines []string) {
	own := room(p.ImportPath)
	light := own != "" && (p.ImportPath == module+"/"+own || suite(p.ImportPath))
	for to, from := range r.needs(p) {
		switch {
		case ours(to):
		case light && to != decimal && !hasPrefix(to, cores[own]):
			lines = append(lines, fmt.Sprintf("must not need %s (imported by %s)", to, from))
		case !light && !mayDrive(p.ImportPath, to):
			lines = append(lines, fmt.Sprintf("has not the name of the driver %s (imported by %s)", to, from))
		}
	}
	return lines
}

func mayDrive(importPath, to string) bool {
	if importPath == testdb || importPath == localdb {
		return true
	}
	for driver, name := range drivers {
		if strings.HasPrefix(to, driver) {
			return slices.ContainsFunc(strings.Split(importPath, "/"), func(s string) bool {
				return strings.HasPrefix(s, name) || strings.HasSuffix(s, name+"notify")
			})
		}
	}
	return true
}

// testing keeps the test framework out of what users link.
func (r rules) testing(p pkg) (lines []string) {
	if suite(p.ImportPath) {
		return nil
	}
	for _, to := range p.Imports {
		if to == "testing" || strings.HasPrefix(to, "testing/") {
			lines = append(lines, "must not import "+to)
		}
	}
	for to, from := range r.needs(p) {
		if ours(to) && suite(to) || strings.HasPrefix(to, "github.com/stretchr/testify") {
			lines = append(lines, fmt.Sprintf("must not need %s, which is for tests (imported by %s)", to, from))
		}
	}
	return lines
}

// examples are at the end of the arrows; not even a test imports them.
func (r rules) examples(p pkg) (lines []string) {
	for _, to := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
		if to == module+"/examples" || strings.HasPrefix(to, module+"/examples/") {
			lines = append(lines, "must not import "+to)
		}
	}
	return lines
}

func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// suite tells whether a package is for tests.
func suite(importPath string) bool {
	return importPath == testdb || strings.HasSuffix(path.Base(importPath), "test")
}

func hasPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// unwanted returns the modules of a go.mod that are not the SDK's business.
func unwanted(modules []string) []string {
	return slices.DeleteFunc(slices.Clone(modules), func(m string) bool { return !hasPrefix(m, foreign) })
}

// goTool runs the go command on the root module as its users get it, without the workspace.
func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return string(out)
}

func TestNoForbiddenImport(t *testing.T) {
	t.Parallel()
	var pkgs []pkg
	in := json.NewDecoder(strings.NewReader(goTool(t, "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")))
	for {
		var p pkg
		err := in.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(pkgs, func(p pkg) bool { return p.ImportPath == module+"/"+name })
	}
	require.True(t, has("ledger") && has("idempotency") && has("ledger/pgledger"), "the list is not of this module: %v", pkgs)
	require.Empty(t, faults(pkgs))
}

func TestNoForbiddenModule(t *testing.T) {
	t.Parallel()
	var mod struct{ Require []struct{ Path string } }
	require.NoError(t, json.Unmarshal([]byte(goTool(t, "mod", "edit", "-json")), &mod))
	var modules []string
	for _, m := range mod.Require {
		modules = append(modules, m.Path)
	}
	require.Contains(t, modules, decimal)
	require.Empty(t, unwanted(modules))
}
