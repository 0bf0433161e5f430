package otel

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// metrics holds the instruments. Users rely on their names: see the table in the README.
type metrics struct {
	requestDuration  metric.Float64Histogram
	deliveries       metric.Int64Counter
	deliveryDuration metric.Float64Histogram
	attempts         metric.Int64Counter
	retries          metric.Int64Counter
	refusedRetries   metric.Int64Counter
	transitions      metric.Int64Counter
	waits            metric.Float64Histogram
	submitted        metric.Int64Counter
	refused          metric.Int64Counter
	done             metric.Int64Counter
	drained          metric.Int64Counter
	dropped          metric.Int64Counter
	deadLetters      metric.Int64Counter
	compensations    metric.Int64Counter

	breakerState metric.Int64ObservableGauge
	inFlight     metric.Int64ObservableUpDownCounter
	waiting      metric.Int64ObservableUpDownCounter
	queueDepth   metric.Int64ObservableUpDownCounter
	queueOldest  metric.Float64ObservableGauge
	queueDead    metric.Int64ObservableUpDownCounter
	meter        metric.Meter
	registration metric.Registration
	attributes   sync.Map // label → metric.MeasurementOption
}

// requestBuckets are those that the conventions recommend for HTTP.
var (
	requestBuckets  = metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
	deliveryBuckets = metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
)

func (m *metrics) init(meter metric.Meter) {
	m.meter = meter
	var errs []error
	counter := func(into *metric.Int64Counter, name, unit, description string) {
		var err error
		*into, err = m.meter.Int64Counter("fanout."+name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
	}
	seconds := func(into *metric.Float64Histogram, name, description string, buckets metric.HistogramOption) {
		var err error
		*into, err = m.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), buckets)
		errs = append(errs, err)
	}
	upDown := func(into *metric.Int64ObservableUpDownCounter, name, unit, description string) {
		var err error
		*into, err = m.meter.Int64ObservableUpDownCounter("fanout."+name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
	}
	seconds(&m.requestDuration, "http.client.request.duration", "Duration of HTTP client requests.", requestBuckets)
	seconds(&m.deliveryDuration, "fanout.delivery.duration", "Duration of deliveries, waits and retries included.", deliveryBuckets)
	seconds(&m.waits, "fanout.wait.duration", "Time that deliveries waited for the rate limit, the bulkhead or a backoff.", deliveryBuckets)
	counter(&m.deliveries, "deliveries", "{delivery}", "Deliveries that ended.")
	counter(&m.attempts, "attempts", "{attempt}", "Attempts sent, retries included.")
	counter(&m.retries, "retries", "{attempt}", "Attempts sent after the first.")
	counter(&m.refusedRetries, "retry_budget.refusals", "{attempt}", "Retries not made because the target's budget was spent.")
	counter(&m.transitions, "breaker.transitions", "{transition}", "Changes of a circuit breaker's state.")
	counter(&m.submitted, "queue.submitted", "{delivery}", "Deliveries accepted by Submit.")
	counter(&m.refused, "queue.refused", "{dispatch}", "Dispatches that Submit refused because there was no room.")
	counter(&m.done, "queue.done", "{delivery}", "Submitted deliveries that ended for good.")
	counter(&m.drained, "queue.drained", "{delivery}", "Submitted deliveries that ended while the dispatcher was closing.")
	counter(&m.dropped, "queue.dropped", "{delivery}", "Submitted deliveries that Close returned as undelivered.")
	counter(&m.deadLetters, "dead_letters", "{delivery}", "Submitted deliveries that failed for good.")
	counter(&m.compensations, "compensations", "{compensation}", "Deliveries of failed sagas that were to be undone, and what came of it.")
	upDown(&m.inFlight, "bulkhead.in_use", "{attempt}", "Attempts under way.")
	upDown(&m.waiting, "bulkhead.waiting", "{attempt}", "Attempts that wait for the bulkhead.")
	upDown(&m.queueDead, "queue.dead_letters", "{delivery}", "Dead letters that a durable queue keeps.")
	upDown(&m.queueDepth, "queue.depth", "{delivery}", "Deliveries accepted and not done.")
	var err error
	m.breakerState, err = m.meter.Int64ObservableGauge("fanout.breaker.state", metric.WithDescription("State of the circuit breaker: 0 closed, 1 half-open, 2 open."))
	errs = append(errs, err)
	m.queueOldest, err = m.meter.Float64ObservableGauge("fanout.queue.oldest.age", metric.WithUnit("s"), metric.WithDescription("Age of the oldest delivery accepted and not done."))
	if err := errors.Join(append(errs, err)...); err != nil {
		otel.Handle(err)
	}
}

// Enabled reports whether anybody collects metrics of attempts.
func (m *metrics) Enabled(ctx context.Context) bool { return m.attempts.Enabled(ctx) }

// Gauges are the values of one target at the time of collection.
type Gauges struct {
	Label             string
	Breaker           int64 // 0 closed, 1 half-open, 2 open
	InFlight, Waiting int64
}

// Backlog is what a queue holds for one label.
type Backlog struct {
	Deliveries, DeadLetters int64
	Oldest                  time.Duration
}

// Observer is asked when metrics are collected. If a backlog cannot be read, Queue
// returns an error. Nothing is observed then, because zero would look like an empty
// queue.
type Observer struct {
	Targets func() []Gauges
	Queue   func(context.Context) (byLabel map[string]Backlog, err error)
}

// Observe registers the functions that are called when metrics are collected.
func (m *metrics) Observe(from Observer) {
	var err error
	m.registration, err = m.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		for _, g := range from.Targets() {
			with := m.labels(label{target: g.Label})
			o.ObserveInt64(m.breakerState, g.Breaker, with)
			o.ObserveInt64(m.inFlight, g.InFlight, with)
			o.ObserveInt64(m.waiting, g.Waiting, with)
		}
		backlog, err := from.Queue(ctx)
		if err != nil {
			return err
		}
		for name, b := range backlog {
			with := m.labels(label{target: name})
			o.ObserveInt64(m.queueDepth, b.Deliveries, with)
			o.ObserveFloat64(m.queueOldest, b.Oldest.Seconds(), with)
			o.ObserveInt64(m.queueDead, b.DeadLetters, with)
		}
		return nil
	}, m.breakerState, m.inFlight, m.waiting, m.queueDepth, m.queueOldest, m.queueDead)
	if err != nil {
		otel.Handle(err)
	}
}

// Close ends what Observe began.
func (m *metrics) Close() {
	if m.registration != nil {
		_ = m.registration.Unregister() // nothing can be done about an error
	}
}

// label holds the attributes of one measurement.
type label struct {
	target, outcome, class, wait, state string
}

// labels makes an option for each combination of attributes once, and keeps it. There are
// only a few combinations.
func (m *metrics) labels(l label) metric.MeasurementOption {
	if option, ok := m.attributes.Load(l); ok {
		return option.(metric.MeasurementOption)
	}
	var attributes []attribute.KeyValue
	for key, value := range map[attribute.Key]string{targetKey: l.target, outcomeKey: l.outcome, semconv.ErrorTypeKey: l.class, waitKey: l.wait, stateKey: l.state} {
		if value != "" {
			attributes = append(attributes, key.String(value))
		}
	}
	option, _ := m.attributes.LoadOrStore(l, metric.WithAttributeSet(attribute.NewSet(attributes...)))
	return option.(metric.MeasurementOption)
}

func (m *metrics) count(ctx context.Context, counter metric.Int64Counter, l label) {
	if counter.Enabled(ctx) {
		counter.Add(ctx, 1, m.labels(l))
	}
}

func (m *metrics) time(ctx context.Context, histogram metric.Float64Histogram, d time.Duration, l label) {
	if histogram.Enabled(ctx) {
		histogram.Record(ctx, d.Seconds(), m.labels(l))
	}
}

// Waited measures how long a delivery waited.
func (m *metrics) Waited(ctx context.Context, target *Target, why string, d time.Duration) {
	m.time(ctx, m.waits, d, label{target: target.Label, wait: why})
}

// RetryRefused counts a retry that was not made because the budget was spent.
func (m *metrics) RetryRefused(ctx context.Context, target *Target) {
	m.count(ctx, m.refusedRetries, label{target: target.Label})
}

// Compensated counts a compensation that ended.
func (m *metrics) Compensated(ctx context.Context, target *Target, outcome string) {
	m.count(ctx, m.compensations, label{target: target.Label, outcome: outcome})
}

// BreakerChanged counts a change of a breaker's state.
func (m *metrics) BreakerChanged(ctx context.Context, target *Target, to string) {
	m.count(ctx, m.transitions, label{target: target.Label, state: to})
}

// Attempted counts and measures an attempt that was sent.
func (m *metrics) Attempted(ctx context.Context, target *Target, u *url.URL, again bool, status int, class string, d time.Duration) {
	l := label{target: target.Label}
	m.count(ctx, m.attempts, l)
	if again {
		m.count(ctx, m.retries, l)
	}
	if target.HTTP != nil && m.requestDuration.Enabled(ctx) {
		m.requestDuration.Record(ctx, d.Seconds(), metric.WithAttributeSet(attribute.NewSet(requestAttributes(target, u, status, class)...)))
	}
}

// requestAttributes returns the attributes of the conventions. If the target's name
// shares a series with others, its address is hidden too, because it would make a series
// of its own.
func requestAttributes(target *Target, u *url.URL, status int, class string) []attribute.KeyValue {
	attributes := target.HTTP.attributes(u)
	if target.Label == OtherLabel {
		attributes[1], attributes[2] = semconv.ServerAddress(OtherLabel), semconv.ServerPort(0)
	}
	switch {
	case status >= 400:
		attributes = append(attributes, semconv.HTTPResponseStatusCode(status), semconv.ErrorTypeKey.String(statusClass(status)))
	case status != 0:
		attributes = append(attributes, semconv.HTTPResponseStatusCode(status))
	case class != "":
		attributes = append(attributes, semconv.ErrorTypeKey.String(class))
	}
	return attributes
}

// Delivered counts and measures a delivery that ended.
func (m *metrics) Delivered(ctx context.Context, target *Target, outcome, class string, d time.Duration) {
	l := label{target: target.Label, outcome: outcome}
	m.time(ctx, m.deliveryDuration, d, l)
	l.class = class
	m.count(ctx, m.deliveries, l)
}

// Submitted counts a delivery that was accepted.
func (m *metrics) Submitted(ctx context.Context, targetLabel string) {
	m.count(ctx, m.submitted, label{target: targetLabel})
}

// Refused counts a submission that was refused because the queue was full.
func (m *metrics) Refused(ctx context.Context) { m.count(ctx, m.refused, label{}) }

// Done counts a submitted delivery that ended for good.
func (m *metrics) Done(ctx context.Context, targetLabel string, closing bool) {
	l := label{target: targetLabel}
	m.count(ctx, m.done, l)
	if closing {
		m.count(ctx, m.drained, l)
	}
}

// DeadLetter counts a delivery that failed for good and whose caller does not wait for
// it.
func (m *metrics) DeadLetter(ctx context.Context, targetLabel string) {
	m.count(ctx, m.deadLetters, label{target: targetLabel})
}

// Dropped counts a delivery that Close returned as undelivered.
func (m *metrics) Dropped(ctx context.Context, targetLabel string) {
	m.count(ctx, m.dropped, label{target: targetLabel})
}
