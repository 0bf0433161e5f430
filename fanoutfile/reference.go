package fanoutfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/fanout-go/fanout/internal/watchfile"
)

// expandReferences replaces references in URLs and headers. The library never shows the
// values of these fields. In other fields a reference is an error.
func expandReferences(path, s string) (string, error) {
	field := path[strings.LastIndex(path, "].")+1:]
	field = strings.TrimPrefix(strings.TrimPrefix(field, "."), "compensate.")
	secret := field == "url" || strings.HasPrefix(field, "header.") || strings.HasPrefix(field, "header[")
	var expanded strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		switch {
		case !found:
			expanded.WriteString(s)
			return expanded.String(), nil
		case strings.HasSuffix(before, "$"):
			expanded.WriteString(before + "{")
			s = rest
			continue
		case !secret:
			return "", errors.New("references are allowed only in url and header; write $${ for ${ itself")
		}
		reference, rest, closed := strings.Cut(rest, "}")
		if !closed {
			return "", errors.New("reference without a closing brace; write $${ for ${ itself")
		}
		value, err := resolve(reference)
		if err != nil {
			return "", err
		}
		expanded.WriteString(before + value)
		s = rest
	}
}

func resolve(reference string) (string, error) {
	kind, name, _ := strings.Cut(reference, ":")
	switch kind {
	case "env":
		if value := os.Getenv(name); value != "" {
			return value, nil
		}
		return "", fmt.Errorf("environment variable %.200q is not set, or empty", name)
	case "file":
		secret, err := readSecret(name)
		if err != nil {
			// The error is not wrapped, so that a missing secret is not mistaken for a missing
			// configuration file.
			return "", errors.New(err.Error())
		}
		return secret, nil
	}
	return "", fmt.Errorf("unknown reference %.200q: write ${env:NAME} or ${file:/path}", "${"+reference+"}")
}

func readSecret(path string) (string, error) {
	content, err := watchfile.Read(path)
	secret := bytes.TrimRight(content, "\r\n")
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", path, err)
	case len(secret) == 0:
		return "", fmt.Errorf("%s: empty", path)
	}
	return string(secret), nil
}
