package auth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/fanout-go/fanout"
	"github.com/fanout-go/fanout/auth"
)

// printing is an API that prints a header of its requests.
func printing(header string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get(header))
	}))
}

func ExampleTokens() {
	crm := printing("Authorization")
	defer crm.Close()
	fetched := 0
	fetch := func(context.Context) (auth.Token, error) { // or oauth.ClientCredentials
		fetched++
		return auth.Token{Value: auth.NewSecret(fmt.Sprint("t-", fetched)), Expires: time.Now().Add(time.Hour)}, nil
	}
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "crm", URL: crm.URL, Auth: auth.Tokens(auth.TokenSourceFunc(fetch))},
	}})
	ctx := context.Background()
	defer d.Close(ctx)

	_, first := d.Dispatch(ctx, "Ada")
	_, second := d.Dispatch(ctx, "Grace")
	fmt.Println(first, second, fetched)
	// Output:
	// Bearer t-1
	// Bearer t-1
	// <nil> <nil> 1
}

func ExampleHeader() {
	crm := printing("X-Api-Key")
	defer crm.Close()
	_ = os.Setenv("CRM_KEY", "k-1")
	d, _ := fanout.New(fanout.Config{Targets: []fanout.Target{
		{Name: "crm", URL: crm.URL, Auth: auth.Header("X-Api-Key", auth.Env("CRM_KEY"))},
	}})
	ctx := context.Background()
	defer d.Close(ctx)

	_, _ = d.Dispatch(ctx, "Ada")
	_ = os.Setenv("CRM_KEY", "k-2") // rotated
	_, _ = d.Dispatch(ctx, "Grace")
	// Output:
	// k-1
	// k-2
}

func ExampleSecret() {
	config := struct {
		User     string
		Password auth.Secret
	}{"shop", auth.NewSecret("s3cr3t")}

	fmt.Printf("%+v\n", config)
	encoded, _ := json.Marshal(config)
	fmt.Println(string(encoded))
	fmt.Println(config.Password.Reveal())
	// Output:
	// {User:shop Password:[redacted]}
	// {"User":"shop","Password":"[redacted]"}
	// s3cr3t
}
