// Package fanoutfile reads a [fanout.Config] from a JSON file, so that operators can
// change targets and policies without a new build:
//
//	config, err := fanoutfile.Load("targets.json")
//	if err != nil {
//		return err
//	}
//	config.Logger = logger
//	dispatcher, err := fanout.New(config)
//
// A file looks like this:
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
// A field has the name of its Go field in snake case. For example, MaxAttempts is
// max_attempts. The fields of a target's policy are on the same level as the target's own
// fields. A duration is a string as [time.ParseDuration] reads it. A file cannot set what
// is not data, such as [fanout.Target.Auth]. Set that in code:
//
//	for i := range config.Targets {
//		if t := &config.Targets[i]; t.Name == "crm" {
//			t.Auth = tokens
//		}
//	}
//
// # References
//
// In a URL and in the value of a header, references are replaced: ${env:NAME} by an
// environment variable, and ${file:/path} by the content of a file, without line ends at
// its end. The file must be regular and not longer than 64 KiB. To write ${ itself, write
// $${.
//
// References are replaced once, when the file is loaded. Errors never show their values.
// For a secret that changes while the service runs, set [fanout.Target.Auth].
package fanoutfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/internal/strictjson"
)

// maxBytes is the longest file that is read.
const maxBytes = 1 << 20

// Load reads the file at path, which must not be longer than 1 MiB.
//
// It refuses unknown fields, fields given twice, values of a wrong type, and references
// without a value. The error is then an [*fanout.InvalidError]. Its Where has the file,
// line and column, and its Field has the path, such as "targets[1].retry.max_attempts".
// Whether the values make sense is checked by [fanout.New].
//
// If the file cannot be read, the error wraps the cause, for example [io/fs.ErrNotExist].
// If a file in a reference is missing, the error is an InvalidError, and does not match
// io/fs.ErrNotExist.
func Load(path string) (fanout.Config, error) {
	file, err := os.Open(path) //nolint:gosec // the caller names it
	if err != nil {
		return fanout.Config{}, fmt.Errorf("fanoutfile: %w", err)
	}
	defer file.Close()
	return read(file, path)
}

// Read is like [Load], for a document that is not in a file. In its errors, Where has
// only line and column. The references in the document can read files and environment
// variables of this process, so never read a document that a stranger wrote.
func Read(r io.Reader) (fanout.Config, error) { return read(r, "") }

func read(r io.Reader, file string) (fanout.Config, error) {
	document, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return fanout.Config{}, fmt.Errorf("fanoutfile: %w", err)
	}
	if len(document) > maxBytes {
		return fanout.Config{}, &fanout.InvalidError{Where: file, Err: fmt.Errorf("longer than %d bytes", maxBytes)}
	}
	var config fanout.Config
	err = strictjson.Decode(document, &config, expandReferences)
	var at *strictjson.Error
	if errors.As(err, &at) {
		where := fmt.Sprintf("%s:%d:%d", file, at.Line, at.Column)
		return fanout.Config{}, &fanout.InvalidError{Where: strings.TrimPrefix(where, ":"), Field: at.Path, Err: at.Err}
	}
	return config, err
}
