// Package panics finds out where user code panicked.
package panics

import (
	"fmt"
	"runtime"
	"strings"
)

// Site is the function and line in which user code first panicked: what it calls may
// recover and panic again, as encoding/json does. It must be called by the deferred
// function that recovered.
func Site() string {
	const ours = "github.com/fanout-go/fanout."
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(0, callers)])
	site, panicking := "unknown place", false
	for {
		frame, more := frames.Next()
		switch {
		case frame.Function == "runtime.gopanic":
			site, panicking = "", true
		case strings.HasPrefix(frame.Function, "runtime."):
		case site == "":
			site = fmt.Sprintf("%s:%d", frame.Function, frame.Line)
		case panicking && strings.HasPrefix(frame.Function, ours):
			return site
		}
		if !more {
			return site
		}
	}
}
