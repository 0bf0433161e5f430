// Package cloudevent makes payloads in the form of CloudEvents 1.0.
package cloudevent

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
	"unicode"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/internal/ids"
	"github.com/fanout-go/fanout/internal/panics"
	"github.com/fanout-go/fanout/internal/plainjson"
)

// Event is an event of the CloudEvents 1.0 specification. It is for targets that accept
// events in that form:
//
//	payload, err := cloudevent.Event{Source: "/shop", Type: "shop.order.placed", Data: order}.Binary()
//	...
//	results, err := d.Dispatch(ctx, payload)
//
// For an invalid event, [Event.Binary] and [Event.Structured] return an
// [*fanout.InvalidError] that names the field.
type Event struct {
	// Source says where the event comes from, as a URI reference. Type says what kind of
	// event it is. Both are required.
	Source, Type string
	// ID is different for every event of the same Source. Default: a random one. If you set
	// it, the idempotency key of the payload is made from Source and ID. Sending the same
	// event again then repeats the key.
	ID string
	// Subject says what the event is about, within its Source. Default none.
	Subject string
	// Time is when the event happened. Default: now.
	Time time.Time
	// DataSchema is the URI of a schema for Data. Default none.
	DataSchema string
	// Extensions are further attributes. Their names consist of lower-case letters and
	// digits. Default none.
	Extensions map[string]string
	// Data is encoded as JSON. It must be nil if Body is set. Default none.
	Data any
	// Body is data that is already encoded, in the form that ContentType describes. If it is
	// set, Data must be nil, and ContentType is required. Default none.
	Body []byte
	// ContentType describes Body or Data. For Data the default is "application/json".
	ContentType string
}

// Binary returns the event in binary mode of the HTTP protocol binding: the attributes
// are headers, and the data is the body.
func (e Event) Binary() (fanout.Payload, error) {
	attributes, err := e.attributes()
	if err != nil {
		return fanout.Payload{}, err
	}
	p := e.payload()
	p.Value, p.Body, p.ContentType = e.Data, e.Body, e.ContentType
	p.Header = make(http.Header, len(attributes))
	for name, value := range attributes {
		p.Header["Ce-"+strings.ToUpper(name[:1])+name[1:]] = []string{percentEncoded(value)}
	}
	return p, nil
}

// Structured returns the event in structured mode: attributes and data are one document
// in the JSON event format. A Body that is not JSON is encoded as base64 in it.
func (e Event) Structured() (fanout.Payload, error) {
	attributes, err := e.attributes()
	if err != nil {
		return fanout.Payload{}, err
	}
	document := make(map[string]any, len(attributes)+2)
	for name, value := range attributes {
		document[name] = value
	}
	switch {
	case e.Body != nil && isJSON(e.ContentType):
		document["data"], document["datacontenttype"] = json.RawMessage(e.Body), e.ContentType
	case e.Body != nil:
		document["data_base64"], document["datacontenttype"] = base64.StdEncoding.EncodeToString(e.Body), e.ContentType
	case e.Data != nil:
		document["data"], document["datacontenttype"] = e.Data, cmp.Or(e.ContentType, "application/json")
	}
	p := e.payload()
	if p.Body, err = marshal(document); err != nil {
		return fanout.Payload{}, &fanout.InvalidError{Field: "CloudEvent.Data", Err: err}
	}
	p.ContentType = "application/cloudevents+json"
	return p, nil
}

// marshal turns a panic in the data's own MarshalJSON into an error.
func marshal(v any) (body []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &fanout.PanicError{Value: p, Stack: debug.Stack(), Where: panics.Site()}
		}
	}()
	return plainjson.Marshal(v)
}

func isJSON(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.TrimSpace(mediaType)
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// payload sets the same key each time the same event is sent. Source and ID together
// identify an event.
func (e Event) payload() fanout.Payload {
	if e.ID == "" {
		return fanout.Payload{}
	}
	return fanout.Payload{Key: ids.Hash(e.Source + "\x00" + e.ID)}
}

func (e Event) attributes() (map[string]string, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	when := e.Time
	if when.IsZero() {
		when = time.Now()
	}
	all := map[string]string{
		"specversion": "1.0", "id": cmp.Or(e.ID, ids.New()), "source": e.Source, "type": e.Type,
		"time": when.UTC().Format(time.RFC3339Nano), "subject": e.Subject, "dataschema": e.DataSchema,
	}
	maps.Copy(all, e.Extensions)
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return all, nil
}

func (e Event) check() error {
	bad := func(field, text string) error {
		return &fanout.InvalidError{Field: "CloudEvent." + field, Err: errors.New(text)}
	}
	_, sourceErr := url.Parse(e.Source)
	switch {
	case e.Source == "":
		return bad("Source", "empty")
	case sourceErr != nil:
		return bad("Source", "not a URI-reference")
	case e.Type == "":
		return bad("Type", "empty")
	case e.Data != nil && e.Body != nil:
		return bad("Body", "set together with Data")
	case e.Body != nil && e.ContentType == "":
		return bad("ContentType", "required with Body")
	}
	for field, value := range map[string]string{"Source": e.Source, "Type": e.Type, "ID": e.ID, "Subject": e.Subject} {
		if strings.ContainsFunc(value, unicode.IsControl) {
			return bad(field, "has a control character")
		}
	}
	for name := range e.Extensions {
		if !extensionName(name) {
			return bad("Extensions", fmt.Sprintf("%.40q is not lower-case letters and digits, or an attribute of the specification", name))
		}
	}
	return nil
}

func extensionName(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	switch name {
	case "", "specversion", "id", "source", "type", "time", "subject", "dataschema", "datacontenttype", "data":
		return false
	}
	return true
}

// percentEncoded encodes a value as the HTTP protocol binding, section 3.1.3.2, says. It
// encodes, byte by byte, the characters that are not printable ASCII, and space, quote
// and percent.
func percentEncoded(value string) string {
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c > '~' || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
