// Package fanouthttp has HTTP handlers for a [fanout.Dispatcher]. One is a gateway that
// turns each inbound request into one dispatch. The other is a page that shows operators
// the state of the targets.
//
//	gateway, err := fanouthttp.NewHandler(dispatcher, fanouthttp.Config{})
//	if err != nil {
//		return err
//	}
//	mux.Handle("POST /events", gateway)
//	mux.Handle("GET /debug/fanout", fanouthttp.StatusHandler(dispatcher))
//
// A [Handler] already includes [fanout.CorrelationMiddleware]. Use that for handlers of
// your own.
package fanouthttp
