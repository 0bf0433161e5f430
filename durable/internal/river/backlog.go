package river

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Waiting counts the deliveries to one target that are stored.
type Waiting struct {
	Jobs   int
	Oldest time.Time // when the oldest of Jobs was submitted; zero if there are none
	Dead   int
}

const backlogQuery = `SELECT dead, count(*), min(born), min(target), min(targets) FROM (
	SELECT queue, CASE WHEN state IN ('discarded', 'cancelled') THEN 1 ELSE 0 END AS dead, %s AS born,
		args->>'target' AS target, args->>'targets' AS targets
	FROM @job WHERE kind = 'fanout' AND state IN ('available', 'pending', 'retryable', 'running', 'scheduled', 'discarded', 'cancelled')
) AS kept GROUP BY queue, dead`

// backlog counts the undelivered deliveries and dead letters of each target. A job for
// several targets counts for each of them.
func (t *tables) backlog(ctx context.Context) (map[string]Waiting, error) {
	byTarget := map[string]Waiting{}
	err := t.each(ctx, fmt.Sprintf(backlogQuery, t.epoch("created_at")), nil, func(rows *sql.Rows) error {
		var all string
		var dead, n int
		var born float64
		var target sql.NullString
		if err := rows.Scan(&dead, &n, &born, &target, &all); err != nil {
			return err
		}
		names := []string{target.String}
		if target.String == "" {
			if err := json.Unmarshal([]byte(all), &names); err != nil {
				return err
			}
		}
		for _, name := range names {
			one := byTarget[name]
			if dead == 1 {
				one.Dead += n
			} else {
				one.add(n, fromEpoch(born))
			}
			byTarget[name] = one
		}
		return nil
	})
	if err != nil {
		return nil, err // half of the counts would look like the whole
	}
	return byTarget, nil
}

func (w *Waiting) add(n int, oldest time.Time) {
	if w.Jobs == 0 || oldest.Before(w.Oldest) {
		w.Oldest = oldest
	}
	w.Jobs += n
}
