// Package panics finds the place where user code panicked.
package panics

import (
	"fmt"
	"runtime"
	"strings"
)

// Site returns the function and line in which user code panicked first. Code in between,
// such as encoding/json, may have recovered and panicked again. Site must be called by
// the deferred function that recovered.
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
