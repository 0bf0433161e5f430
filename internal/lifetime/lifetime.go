// Package lifetime tells code that is called for a delivery when the dispatcher is
// closed. Work that such code leaves running then ends. An example is a token request
// that several deliveries wait for.
package lifetime

import "context"

type key struct{}

// With adds the lifetime of a dispatcher to a context: closing ends when the dispatcher
// is closed.
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
