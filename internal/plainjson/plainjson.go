// Package plainjson encodes JSON without the escapes for HTML that encoding/json adds: "&"
// stays "&". A receiver that signs or compares what it would write itself then agrees.
package plainjson

import (
	"bytes"
	"encoding/json"
	"sync"
)

// encoders are kept, because one that is new costs two allocations.
var encoders = sync.Pool{New: func() any {
	e := new(encoder)
	e.json = json.NewEncoder(&e.buffer)
	e.json.SetEscapeHTML(false)
	return e
}}

type encoder struct {
	buffer bytes.Buffer
	json   *json.Encoder
}

const mostKept = 64 << 10 // bytes: one large payload must not be held for ever

// Marshal is [json.Marshal] but for those escapes.
func Marshal(v any) ([]byte, error) {
	e := encoders.Get().(*encoder)
	e.buffer.Reset()
	if err := e.json.Encode(v); err != nil {
		return nil, err
	}
	body := bytes.Clone(bytes.TrimSuffix(e.buffer.Bytes(), []byte{'\n'}))
	if e.buffer.Cap() <= mostKept {
		encoders.Put(e)
	}
	return body, nil
}
