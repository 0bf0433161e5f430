// Package ability finds optional abilities of a value: methods that its interface does
// not have.
package ability

// Of looks for an optional ability, an interface, in part. If part does not have it and
// has a method Unwrap() Part, Of looks in what Unwrap returns, and so on. It reports
// whether it found the ability. A nil part has none.
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
