package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/fanout-go/fanout"
)

// send sends the payload to all targets and waits until it has ended for all.
type send func(context.Context, any) error

// contender is one way to send a payload to several targets. If transport is nil, make
// uses a transport of its own.
type contender struct {
	name string
	make func(urls []string, transport http.RoundTripper) (send, func())
}

var contenders = []contender{
	{"floor", floor},
	{"hand-rolled", handRolled},
	{"fanout", withFanout},
	{"go-retryablehttp", withRetryablehttp},
	{"failsafe-go", withFailsafe},
}

func orNew(transport http.RoundTripper) (http.RoundTripper, func()) {
	if transport != nil {
		return transport, func() {}
	}
	own := newTransport()
	return own, own.(*http.Transport).CloseIdleConnections
}

// post sends one request with plain net/http: without retries, limits and keys.
func post(ctx context.Context, client *http.Client, url string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.ReadAll(answer.Body); err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return errors.New(answer.Status)
	}
	return nil
}

// floor is the least code that does it: net/http and a WaitGroup.
func floor(urls []string, transport http.RoundTripper) (send, func()) {
	transport, done := orNew(transport)
	return throughClients(urls, func(string) *http.Client { return &http.Client{Transport: transport} }), done
}

func throughClients(urls []string, clientFor func(url string) *http.Client) send {
	clients := make([]*http.Client, len(urls))
	for i, url := range urls {
		clients[i] = clientFor(url)
	}
	return func(ctx context.Context, payload any) error {
		body, err := json.Marshal(payload)
		if err != nil {
			return err
		}
		errs := make([]error, len(urls))
		var all sync.WaitGroup
		for i, url := range urls {
			all.Go(func() { errs[i] = post(ctx, clients[i], url, body) })
		}
		all.Wait()
		return errors.Join(errs...)
	}
}

// handRolled is what a careful engineer writes with the libraries on which fanout is
// built.
func handRolled(urls []string, transport http.RoundTripper) (send, func()) {
	transport, done := orNew(transport)
	targets := make([]*handRolledTarget, len(urls))
	for i, url := range urls {
		targets[i] = &handRolledTarget{
			url: url, client: &http.Client{Transport: transport}, permits: semaphore.NewWeighted(64),
			breaker: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
				Name: url, Interval: time.Minute, Timeout: 5 * time.Second,
				ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
			}),
		}
	}
	return func(ctx context.Context, payload any) error {
		body, err := json.Marshal(payload)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		var mu sync.Mutex
		results := make(map[string]error, len(targets))
		var group errgroup.Group
		for _, t := range targets {
			group.Go(func() error {
				err := t.send(ctx, body)
				mu.Lock()
				defer mu.Unlock()
				results[t.url] = err
				return nil
			})
		}
		_ = group.Wait()
		for _, err := range results {
			if err != nil {
				return err
			}
		}
		return nil
	}, done
}

type handRolledTarget struct {
	url     string
	client  *http.Client
	permits *semaphore.Weighted
	breaker *gobreaker.CircuitBreaker[struct{}]
}

func (t *handRolledTarget) send(ctx context.Context, body []byte) error {
	key := rand.Text()
	waits := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxElapsedTime(0))
	return backoff.Retry(func() error {
		if err := t.permits.Acquire(ctx, 1); err != nil {
			return err
		}
		defer t.permits.Release(1)
		_, err := t.breaker.Execute(func() (struct{}, error) { return struct{}{}, t.attempt(ctx, key, body) })
		return err
	}, backoff.WithContext(backoff.WithMaxRetries(waits, 2), ctx))
}

func (t *handRolledTarget) attempt(ctx context.Context, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", key)
	answer, err := t.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20)); err != nil {
		return err
	}
	switch {
	case answer.StatusCode/100 == 2:
		return nil
	case answer.StatusCode >= 500, answer.StatusCode == http.StatusTooManyRequests:
		return errors.New(answer.Status)
	default:
		return backoff.Permanent(errors.New(answer.Status))
	}
}

// withFanout has every policy switched on, also the rate limit, which is off by default.
func withFanout(urls []string, transport http.RoundTripper) (send, func()) {
	config := fanout.Config{Transport: transport, Defaults: fanout.Policy{RateLimit: fanout.RateLimit{PerSecond: 1e9}}}
	for i, url := range urls {
		config.Targets = append(config.Targets, fanout.Target{Name: fmt.Sprint("target-", i), URL: url})
	}
	d, err := fanout.New(config)
	if err != nil {
		panic(err)
	}
	return func(ctx context.Context, payload any) error {
		_, err := d.Dispatch(ctx, payload)
		return err
	}, func() { _ = d.Close(context.Background()) }
}

// withRetryablehttp has retries, but no other policy.
func withRetryablehttp(urls []string, transport http.RoundTripper) (send, func()) {
	transport, done := orNew(transport)
	return throughClients(urls, func(string) *http.Client {
		client := retryablehttp.NewClient()
		client.HTTPClient = &http.Client{Transport: transport}
		client.Logger, client.RetryMax = nil, 2
		return client.StandardClient()
	}), done
}

func withFailsafe(urls []string, transport http.RoundTripper) (send, func()) {
	transport, done := orNew(transport)
	return throughClients(urls, func(string) *http.Client {
		return &http.Client{Transport: failsafehttp.NewRoundTripper(transport,
			failsafehttp.NewRetryPolicyBuilder().WithMaxAttempts(3).WithBackoff(100*time.Millisecond, 20*time.Second).Build(),
			circuitbreaker.NewBuilder[*http.Response]().WithFailureThreshold(5).WithDelay(5*time.Second).Build(),
			bulkhead.New[*http.Response](64),
			timeout.New[*http.Response](10*time.Second),
		)}
	}), done
}
