// Package fanouthttp has HTTP handlers around a [fanout.Dispatcher]: a gateway that
// turns each inbound request into one dispatch, and a page that shows operators how
// the targets are.
//
//	gateway, err := fanouthttp.NewHandler(dispatcher, fanouthttp.Config{})
//	if err != nil {
//		return err
//	}
//	mux.Handle("POST /events", gateway)
//	mux.Handle("GET /debug/fanout", fanouthttp.StatusHandler(dispatcher))
//
// [fanout.CorrelationMiddleware] is for handlers of your own: a [Handler] has it built in.
package fanouthttp
