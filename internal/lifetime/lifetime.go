// Package lifetime tells code that is called for a delivery when the dispatcher that
// calls it has ended. What that code leaves running, such as a fetch of a token that
// others wait for, ends then.
package lifetime

import "context"

type key struct{}

// With adds the lifetime of a dispatcher: closing ends when it is closed.
func With(ctx, closing context.Context) context.Context {
	return context.WithValue(ctx, key{}, closing)
}

// Of returns the lifetime that With added, or [context.Background], which never ends.
func Of(ctx context.Context) context.Context {
	if closing, ok := ctx.Value(key{}).(context.Context); ok {
		return closing
	}
	return context.Background()
}
