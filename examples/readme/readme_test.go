package readme_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Code in a README rots unless something compiles it: each Go block there is the
// body of an example here, word for word and in the same order.
func TestGoBlocksAreTheExamples(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	require.Equal(t, bodies(t, "example_test.go"), goBlocks(string(readme)))
}

// goBlocks returns what stands between ```go and ```.
func goBlocks(markdown string) []string {
	var blocks []string
	for _, rest := range strings.Split(markdown, "\n```go\n")[1:] {
		block, _, _ := strings.Cut(rest, "\n```\n")
		blocks = append(blocks, block)
	}
	return blocks
}

// bodies returns the bodies of a file's functions, one tab to the left.
func bodies(t *testing.T, name string) []string {
	t.Helper()
	source, err := os.ReadFile(name)
	require.NoError(t, err)
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.ParseComments)
	require.NoError(t, err)
	var found []string
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			from, to := files.Position(f.Body.Lbrace).Offset+1, files.Position(f.Body.Rbrace).Offset
			body := strings.ReplaceAll(string(source[from:to]), "\n\t", "\n")
			found = append(found, strings.TrimSpace(body))
		}
	}
	return found
}
