package fanout_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// link is what a comment links to, such as [Dispatcher.Submit], [*InvalidError] or
// [fanout.Target.After].
var link = regexp.MustCompile(`(?m)(?:^|\W)\[\*?((?:[a-z]\w*\.)?[A-Z]\w*(?:\.[A-Z]\w*)*)\]`)

// Each link in a comment of this repository leads to something that is there.
func TestDocs_LinksResolve(t *testing.T) {
	names := map[string]map[string]bool{} // by package
	comments := map[string]string{}       // by file
	packageOf := map[string]string{}
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(file.Name.Name, "_test")
		if names[name] == nil {
			names[name] = map[string]bool{}
		}
		declare(file, names[name])
		packageOf[path] = name
		for _, group := range file.Comments {
			comments[path] += group.Text()
		}
		return nil
	}))
	for _, path := range slices.Sorted(maps.Keys(comments)) {
		for _, found := range link.FindAllStringSubmatch(comments[path], -1) {
			in, name := packageOf[path], found[1]
			if first, rest, ok := strings.Cut(name, "."); ok && strings.ToLower(first[:1]) == first[:1] {
				in, name = first, rest
			}
			if known, ours := names[in]; ours {
				assert.True(t, known[name], "%s: [%s] leads nowhere", path, found[1])
			}
		}
	}
}

// declare notes what a file declares: types, their fields and methods, and the rest.
func declare(file *ast.File, names map[string]bool) {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names[receiver(d)+d.Name.Name] = true
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names[name.Name] = true
					}
				case *ast.TypeSpec:
					names[spec.Name.Name] = true
					for _, field := range fieldsOf(spec.Type) {
						names[spec.Name.Name+"."+field] = true
					}
				}
			}
		}
	}
}

// receiver is the name of a method's type, with a dot.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	of := f.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}

func fieldsOf(of ast.Expr) (names []string) {
	var list *ast.FieldList
	switch of := of.(type) {
	case *ast.StructType:
		list = of.Fields
	case *ast.InterfaceType:
		list = of.Methods
	default:
		return nil
	}
	for _, field := range list.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
		if embedded, ok := field.Type.(*ast.Ident); ok && field.Names == nil {
			names = append(names, embedded.Name)
		}
	}
	return names
}
