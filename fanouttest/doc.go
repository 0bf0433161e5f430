// Package fanouttest has fake target APIs for tests of code that uses fanout. They are
// real HTTP servers. They answer by a script, fail as real servers do, and record what
// arrived.
//
// The test of a handler that signs users up looks like this:
//
//	func TestSignUp_ReachesTheCRMThoughItIsUnavailableAtFirst(t *testing.T) {
//		crm := fanouttest.NewTarget(t, fanouttest.Status(503), fanouttest.Status(201))
//		target := crm.Target("crm")
//		target.Retry.ThrottledBackoff = time.Millisecond
//		dispatcher, err := fanout.New(fanout.Config{Targets: []fanout.Target{target}})
//		require.NoError(t, err)
//
//		answer := httptest.NewRecorder()
//		signUp(dispatcher).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/signup", strings.NewReader(`{"name":"Ada"}`)))
//
//		require.Equal(t, 201, answer.Code)
//		require.Len(t, crm.Requests(), 2)
//		require.JSONEq(t, `{"name":"Ada"}`, string(crm.Requests()[1].Body))
//	}
//
// [NewTarget] listens on a loopback address. [NewMemoryTarget] works without a network.
// Within [testing/synctest], a test of timeouts and backoff with it takes no real time.
// [NewSender] is a fake for targets that are not HTTP.
//
// A script is a list of steps, one [Step] for each request. The last one is repeated. Any
// func(http.ResponseWriter, *http.Request) can be a step.
package fanouttest
