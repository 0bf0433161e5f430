package durable

import "time"

// ShutIdleLanesAfter is a minute otherwise.
func (q *Queue) ShutIdleLanesAfter(d time.Duration) { q.lanes.idleFor = d }

// OpenLanes counts the lanes in which River looks for work.
func (q *Queue) OpenLanes() int {
	q.lanes.mu.Lock()
	defer q.lanes.mu.Unlock()
	count := 0
	for _, one := range q.lanes.byName {
		if one.state != shut {
			count++
		}
	}
	return count
}
