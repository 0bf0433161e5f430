// Package ability finds what a value can do besides what its interface says.
package ability

// Of finds an optional ability of part, or of what part wraps and returns from a method
// Unwrap() Part, and so on. It is not found in nil.
func Of[Ability, Part any](part Part) (Ability, bool) {
	for {
		if able, ok := any(part).(Ability); ok {
			return able, true
		}
		wrapper, ok := any(part).(interface{ Unwrap() Part })
		if !ok {
			var none Ability
			return none, false
		}
		part = wrapper.Unwrap()
	}
}
