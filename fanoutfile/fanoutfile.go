// Package fanoutfile reads a [fanout.Config] from a JSON file, so that operators can
// change targets and policies without a build:
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
// A field has the name of its Go field in snake case: MaxAttempts is max_attempts. The
// fields of a target's policy stand among the target's own. A duration is a string, as
// [time.ParseDuration] reads it. What is not data, such as [fanout.Target.Auth], is for
// the caller to add:
//
//	for i := range config.Targets {
//		if t := &config.Targets[i]; t.Name == "crm" {
//			t.Auth = tokens
//		}
//	}
//
// # References
//
// In a URL or a header's value, ${env:NAME} stands for an environment variable, and
// ${file:/path} for what a regular file of at most 64 KiB holds, without the line ends
// at its end. $${ stands for ${ itself. References are resolved once, when the file is
// loaded. What they hold is in no error. For a secret that changes while the service
// runs, set [fanout.Target.Auth].
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

// maxBytes bounds a file.
const maxBytes = 1 << 20

// Load reads the file at path, which must not be longer than 1 MiB.
//
// Unknown fields, fields given twice, values of a wrong type and references that hold
// nothing are refused with an [*fanout.InvalidError]. Its Where is the file, line and
// column, and its Field the path, such as "targets[1].retry.max_attempts". What the
// values mean is checked by [fanout.New]. If the file cannot be read, the error wraps
// the cause, for example [io/fs.ErrNotExist]. A missing file of a reference does not
// match that: it is an InvalidError.
func Load(path string) (fanout.Config, error) {
	file, err := os.Open(path) //nolint:gosec // the caller names it
	if err != nil {
		return fanout.Config{}, fmt.Errorf("fanoutfile: %w", err)
	}
	defer file.Close()
	return read(file, path)
}

// Read is like [Load] for a document that is not in a file; Where is then line and
// column alone. The references of the document read files and the environment of this
// process, so do not give it what strangers wrote.
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
