package fanout

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fanout-go/fanout/internal/strictjson"
	"github.com/fanout-go/fanout/internal/watchfile"
)

// LoadConfig reads a [Config] from a JSON file:
//
//	{
//	  "defaults": {"timeout": "5s"},
//	  "targets": [
//	    {
//	      "name": "crm",
//	      "url": "https://crm.example/contacts",
//	      "method": "PUT",
//	      "header": {"Authorization": "Bearer ${env:CRM_TOKEN}"},
//	      "retry": {"max_attempts": 5, "initial_backoff": "200ms"},
//	      "optional": true
//	    }
//	  ]
//	}
//
// Names are those of the Go fields in snake case, a target's policy stands among
// its own fields, and durations are strings as [time.ParseDuration] reads them.
// What is not data, such as [Target.Auth], is for the caller to add:
//
//	for i := range config.Targets {
//		if t := &config.Targets[i]; t.Name == "crm" {
//			t.Auth = tokens
//		}
//	}
//
// In a URL or a header's value, ${env:NAME} stands for an environment variable
// and ${file:/path} for what a regular file of at most 64 KiB holds, less line
// ends at its end; $${ stands for ${ itself. References are resolved once, when
// the file is loaded, and what they hold is in no error. A secret that changes
// while the service runs is for [Target.Auth].
//
// Unknown fields, fields given twice, values of a wrong type and references that
// hold nothing are refused: the error is an [*InvalidError] that says where. What
// the values mean is checked by [New]. At most 1 MiB is read.
func LoadConfig(path string) (Config, error) {
	file, err := os.Open(path) //nolint:gosec // the caller names it
	if err != nil {
		return Config{}, fmt.Errorf("fanout: %w", err)
	}
	defer file.Close()
	return readConfig(file, path)
}

// ReadConfig is [LoadConfig] for a reader. Its references read files and the
// environment: what strangers wrote is not for it.
func ReadConfig(r io.Reader) (Config, error) { return readConfig(r, "") }

const maxConfig = 1 << 20

func readConfig(r io.Reader, file string) (Config, error) {
	document, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("fanout: %w", err)
	}
	if len(document) > maxConfig {
		return Config{}, &InvalidError{Where: file, Err: fmt.Errorf("longer than %d bytes", maxConfig)}
	}
	var config Config
	err = strictjson.Decode(document, &config, expandReferences)
	var at *strictjson.Error
	if errors.As(err, &at) {
		where := fmt.Sprintf("%s:%d:%d", file, at.Line, at.Column)
		return Config{}, &InvalidError{Where: strings.TrimPrefix(where, ":"), Field: at.Path, Err: at.Err}
	}
	return config, err
}

// expandReferences resolves references where nothing ever shows the value.
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
			return "", errors.New("references stand in url and header only; write $${ for ${ itself")
		}
		reference, rest, closed := strings.Cut(rest, "}")
		if !closed {
			return "", errors.New("reference without an end; write $${ for ${ itself")
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
			// Not wrapped: a missing secret must not pass for a missing configuration.
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
