package durable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fanout-go/fanout"
)

// insertTimeout bounds the wait for a database that is busy, or that the caller keeps busy.
const insertTimeout = 10 * time.Second

// Submit implements [fanout.Queue]. When it returns nil, the deliveries are on disk, or will be
// when the caller's transaction is committed.
func (q *Queue) Submit(ctx context.Context, s *fanout.Submission) error {
	q.mu.Lock()
	closed := q.closed
	q.mu.Unlock()
	if closed {
		return fanout.ErrClosed
	}
	if err := q.acceptable(s); err != nil {
		return err
	}
	jobs, err := q.jobs(ctx, s)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	if s.Tx() != nil {
		if err := q.guard.owns(ctx, s.Tx()); err != nil {
			return err
		}
	}
	if _, err := q.engine.insert(ctx, s.Tx(), jobs); err != nil {
		return q.notAccepted(err)
	}
	if q.delivers() {
		q.wake(jobs, s.OrderKey())
	}
	return nil
}

func (q *Queue) wake(jobs []river.InsertManyParams, orderKey string) {
	for _, j := range jobs {
		args := j.Args.(job) //nolint:forcetypeassert // jobs made them
		q.lanes.wake(j.InsertOpts.Queue, args.names())
		if orderKey != "" {
			q.order.look(orderedLane{j.InsertOpts.Queue, orderKey})
		}
	}
}

func (q *Queue) acceptable(s *fanout.Submission) error {
	if given := s.Given(); len(given) > 0 {
		return &fanout.InvalidError{Target: given[0], Field: "ToTargets", Err: errors.New("a durable queue finds targets by name: configure it, or name it and have Config.Lookup find it")}
	}
	if s.OrderKey() != "" && s.Chained() {
		return &fanout.InvalidError{Field: "InOrder", Err: errors.New("is not for targets that depend on each other")}
	}
	size := len(s.Body)
	for name, values := range s.Header {
		all := strings.Join(values, "")
		if !utf8.ValidString(all) {
			return &fanout.InvalidError{Field: "Payload.Header", Err: fmt.Errorf("%s: not UTF-8, which a durable queue cannot keep", name)}
		}
		size += len(name) + len(all)
	}
	if !utf8.ValidString(s.ContentType) {
		return &fanout.InvalidError{Field: "Payload.ContentType", Err: errors.New("not UTF-8, which a durable queue cannot keep")}
	}
	if most := q.config.MaxPayloadBytes; most > 0 && size > most {
		return &fanout.InvalidError{Field: "Payload.Body", Err: fmt.Errorf("%w: %d bytes with its header, and the queue takes %d", fanout.ErrPayloadTooLarge, size, most)}
	}
	return nil
}

func (q *Queue) notAccepted(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && q.store.db.Stats().MaxOpenConnections == 1 {
		return fmt.Errorf("durable: not accepted, as the database's one connection was busy: does a transaction of yours wait for this Submit, which needs InTx then? %w", err)
	}
	return fmt.Errorf("durable: not accepted: %w", err)
}

func (q *Queue) jobs(ctx context.Context, s *fanout.Submission) ([]river.InsertManyParams, error) {
	j, err := q.jobOf(ctx, s)
	if err != nil {
		return nil, err
	}
	metadata, err := orderMetadata(s.OrderKey())
	if err != nil {
		return nil, err
	}
	if s.Chained() {
		j.Set = laneOf(slices.Sorted(slices.Values(s.Targets)))
		return []river.InsertManyParams{q.params(j, s, metadata)}, nil
	}
	jobs := make([]river.InsertManyParams, len(s.Targets))
	for i, name := range s.Targets {
		j.Target = name
		jobs[i] = q.params(j, s, metadata)
	}
	return jobs, nil
}

func (q *Queue) params(j job, s *fanout.Submission, metadata []byte) river.InsertManyParams {
	names := j.names()
	opts := &river.InsertOpts{
		Queue:       laneOf(names),
		MaxAttempts: len(q.config.schedule(names[0])) + 1,
		Metadata:    metadata,
		Pending:     metadata != nil,
	}
	if s.Named() {
		opts.UniqueOpts = river.UniqueOpts{ByArgs: true, ByState: everyState}
	}
	return river.InsertManyParams{Args: j, InsertOpts: opts}
}

var everyState = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStateCancelled, rivertype.JobStateCompleted, rivertype.JobStateDiscarded,
	rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// names are the targets that a job is for.
func (j *job) names() []string {
	if j.Target != "" {
		return []string{j.Target}
	}
	return j.Targets
}

// laneOf names the queue of River for a target, or for several that are made
// together: readable, and unlike any other's.
func laneOf(names []string) string {
	all := strings.Join(names, "\x00")
	sum := sha256.Sum256([]byte(all))
	readable := strings.FieldsFunc(strings.ToLower(strings.Join(names, "_")), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	slug := strings.Join(readable, "_")
	slug = strings.TrimSuffix(slug[:min(len(slug), 32)], "_")
	return strings.Join(append(strings.Fields(idleLane+" "+slug), hex.EncodeToString(sum[:6])), "_")
}

const orderField = "fanout_order"

func orderMetadata(key string) ([]byte, error) {
	if key == "" {
		return nil, nil
	}
	return json.Marshal(map[string]string{orderField: key})
}
