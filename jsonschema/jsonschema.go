// Package jsonschema validates payloads with a JSON Schema before anything is sent:
//
//	valid, err := jsonschema.Compile(schema)
//	...
//	fanout.Config{Validate: valid}
//
// It is a module of its own, so that only those who use it depend on a JSON Schema
// library.
package jsonschema

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/fanout-go/fanout"
)

// Compile makes a validator from a schema, for [fanout.Config] or [fanout.Target]. It
// returns an error if the schema is invalid, or refers to another schema: a schema cannot
// load others.
//
// The validator refuses payloads that do not fit the schema or are not JSON. To limit its
// cost, it also refuses more than 10,000 values and names, and numbers of more than 400
// digits. It refuses duplicate names in an object, because a target may read the other
// one. Its errors name the places that do not fit, and the keywords of the schema. They
// never show a value.
func Compile(schema []byte) (func(context.Context, *fanout.Payload) error, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("jsonschema: %w", err)
	}
	const name = "urn:schema"
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(name, document); err != nil {
		return nil, fmt.Errorf("jsonschema: %w", err)
	}
	compiled, err := compiler.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("jsonschema: %w", err)
	}
	return func(_ context.Context, s *fanout.Payload) error { return validate(compiled, s.Body) }, nil
}

type noLoader struct{}

func (noLoader) Load(string) (any, error) { return nil, errors.New("a schema cannot load others") }

func validate(schema *jsonschema.Schema, body []byte) error {
	if err := scan(body); err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return errNotJSON
	}
	var invalid *jsonschema.ValidationError
	switch err := schema.Validate(value); {
	case errors.As(err, &invalid):
		return errors.New("does not fit its schema: " + strings.Join(places(invalid), "; "))
	case err != nil:
		return errors.New("cannot be validated")
	}
	return nil
}

const mostPlaces = 5

// places returns where the value does not fit, each with the keyword of the schema.
func places(e *jsonschema.ValidationError) []string {
	if len(e.Causes) == 0 {
		place := fmt.Sprintf("%.100q: %s", "/"+strings.Join(e.InstanceLocation, "/"), strings.Join(e.ErrorKind.KeywordPath(), "/"))
		if required, ok := e.ErrorKind.(*kind.Required); ok { // the missing names are those of the schema
			place += fmt.Sprintf(" %.100q", required.Missing)
		}
		return []string{place}
	}
	var all []string
	for _, cause := range e.Causes {
		if len(all) < mostPlaces {
			all = append(all, places(cause)...)
		}
	}
	return all[:min(mostPlaces, len(all))]
}
