package river

import "time"

// ShutIdleLanesAfter is a minute otherwise.
func (e *Engine) ShutIdleLanesAfter(d time.Duration) { e.lanes.idleFor = d }

// OpenLanes counts the lanes in which River looks for work.
func (e *Engine) OpenLanes() int {
	e.lanes.mu.Lock()
	defer e.lanes.mu.Unlock()
	count := 0
	for _, one := range e.lanes.byName {
		if one.state != shut {
			count++
		}
	}
	return count
}
