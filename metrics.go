package fanout

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// maxLabels is how many targets have time series of their own. All others, and
// those given in a call, share one: a million webhooks must not flood a metrics
// store.
const maxLabels, otherLabel = 1000, "_other"

// metrics is the instruments. Their names are a promise: see the README's table.
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
	attributes   sync.Map // labels → metric.MeasurementOption
}

// The first are those the conventions give for HTTP.
var (
	requestBuckets  = metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
	deliveryBuckets = metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
)

func newMetrics(provider metric.MeterProvider) *metrics {
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	m := &metrics{meter: provider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))}
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
	if err := join(append(errs, err)...); err != nil {
		otel.Handle(err)
	}
	return m
}

// observe has the states read when metrics are collected.
func (m *metrics) observe(d *Dispatcher) {
	var err error
	m.registration, err = m.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		for t := range withOthers(d.registry.everything().targets) {
			if t.label == otherLabel {
				continue
			}
			with := m.labels(label{target: t.label})
			o.ObserveInt64(m.breakerState, stateValues[t.gates.breaker.state()], with)
			o.ObserveInt64(m.inFlight, t.gates.tally.inFlight.Load(), with)
			o.ObserveInt64(m.waiting, t.gates.bulkhead.queued(), with)
		}
		return m.observeQueue(ctx, d, o)
	}, m.breakerState, m.inFlight, m.waiting, m.queueDepth, m.queueOldest, m.queueDead)
	if err != nil {
		otel.Handle(err)
	}
}

var stateValues = map[BreakerState]int64{BreakerClosed: 0, BreakerHalfOpen: 1, BreakerOpen: 2}

func (m *metrics) observeQueue(ctx context.Context, d *Dispatcher, o metric.Observer) error {
	reporter, ok := d.queue.(BacklogReporter)
	if !ok {
		return nil
	}
	backlog, err := reporter.Backlog(ctx)
	depth, oldest, dead := map[string]int64{}, map[string]time.Duration{}, map[string]int64{}
	for _, name := range d.TargetNames() {
		depth[d.labelOf(name)] = 0
	}
	for _, b := range backlog {
		name := d.labelOf(b.Target)
		depth[name] += int64(b.Deliveries)
		dead[name] += int64(b.DeadLetters)
		if b.Deliveries > 0 {
			oldest[name] = max(oldest[name], time.Since(b.Oldest))
		}
	}
	for name, n := range depth {
		with := m.labels(label{target: name})
		o.ObserveInt64(m.queueDepth, n, with)
		o.ObserveFloat64(m.queueOldest, oldest[name].Seconds(), with)
		if n, ok := dead[name]; ok {
			o.ObserveInt64(m.queueDead, n, with)
		}
	}
	return err
}

func (d *Dispatcher) labelOf(name string) string {
	if t, ok := d.registry.get(name); ok {
		return t.label
	}
	return otherLabel
}

func (m *metrics) close() {
	if m.registration != nil {
		_ = m.registration.Unregister() // there is nothing to be done about it
	}
}

// label is what a measurement says of a delivery.
type label struct {
	target, outcome, class, wait, state string
}

// labels are made once for each combination, of which there are few.
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

func (m *metrics) waited(ctx context.Context, target string, why Wait, d time.Duration) {
	m.time(ctx, m.waits, d, label{target: target, wait: string(why)})
}

func (m *metrics) refusedRetry(ctx context.Context, target string) {
	m.count(ctx, m.refusedRetries, label{target: target})
}

func (m *metrics) compensated(ctx context.Context, target string, outcome Outcome) {
	m.count(ctx, m.compensations, label{target: target, outcome: outcome.String()})
}

func (m *metrics) breakerChanged(ctx context.Context, target string, to BreakerState) {
	m.count(ctx, m.transitions, label{target: target, state: string(to)})
}

func (m *metrics) attempted(ctx context.Context, dl *delivery, a *Attempt) {
	l := label{target: dl.target.label}
	m.count(ctx, m.attempts, l)
	if len(dl.attempts) > 1 {
		m.count(ctx, m.retries, l)
	}
	if e := dl.target.endpoint; e != nil && m.requestDuration.Enabled(ctx) {
		m.requestDuration.Record(ctx, a.Duration.Seconds(), metric.WithAttributeSet(attribute.NewSet(dl.requestAttributes(a)...)))
	}
}

// requestAttributes are those of the conventions; of a target whose name has no
// series of its own, the address has none either.
func (dl *delivery) requestAttributes(a *Attempt) []attribute.KeyValue {
	attributes := dl.target.endpoint.conventions.attributes(dl.request.URL)
	if dl.target.label == otherLabel {
		attributes[1], attributes[2] = semconv.ServerAddress(otherLabel), semconv.ServerPort(0)
	}
	switch {
	case a.StatusCode >= 400:
		attributes = append(attributes, semconv.HTTPResponseStatusCode(a.StatusCode), semconv.ErrorTypeKey.String(statusClass(a.StatusCode)))
	case a.StatusCode != 0:
		attributes = append(attributes, semconv.HTTPResponseStatusCode(a.StatusCode))
	case a.Err != nil:
		attributes = append(attributes, semconv.ErrorTypeKey.String(ErrorClass(a.Err)))
	}
	return attributes
}

func (m *metrics) delivered(ctx context.Context, dl *delivery) {
	if !m.deliveries.Enabled(ctx) && !m.deliveryDuration.Enabled(ctx) {
		return
	}
	l := label{target: dl.target.label, outcome: dl.outcome.String()}
	m.time(ctx, m.deliveryDuration, dl.duration, l)
	l.class = ErrorClass(dl.err)
	m.count(ctx, m.deliveries, l)
}

func (m *metrics) submittedTo(ctx context.Context, s *Submission, err error) {
	switch {
	case errors.Is(err, ErrFull):
		m.count(ctx, m.refused, label{})
	case err == nil && m.submitted.Enabled(ctx):
		for _, t := range s.targets {
			m.count(ctx, m.submitted, label{target: t.label})
		}
	}
}

func (m *metrics) finished(ctx context.Context, target string, r Result, closing bool) {
	l := label{target: target}
	m.count(ctx, m.done, l)
	if closing {
		m.count(ctx, m.drained, l)
	}
	if r.dead() {
		m.count(ctx, m.deadLetters, l)
	}
}
