package fanoutfile_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/fanout-go/fanout/fanoutfile"
)

func ExampleLoad() {
	os.Setenv("EMAIL_TOKEN", "secret")
	_, err := fanoutfile.Load("../testdata/targets.json")
	fmt.Println(err)

	config, err := fanoutfile.Read(strings.NewReader(`{
		"defaults": {"timeout": "5s"},
		"targets": [{"name": "crm", "url": "https://crm.example", "retry": {"max_attempts": 5}}]
	}`))
	fmt.Println(config.Targets[0].Name, config.Targets[0].Retry.MaxAttempts, err)
	// Output:
	// fanout: ../testdata/targets.json:20:22: targets[1].header.X-Api-Key: /run/secrets/crm_key: no such file or directory
	// crm 5 <nil>
}
