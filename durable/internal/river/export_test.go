package river

import "time"

// ShutIdleLanesAfter replaces the time of one minute, after which an idle lane is shut.
func (e *Engine) ShutIdleLanesAfter(d time.Duration) { e.lanes.idleFor = d }

// OpenLanes counts the lanes that are not shut.
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
