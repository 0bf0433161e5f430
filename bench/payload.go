package main

import "strings"

type order struct {
	ID       string `json:"id"`
	Customer string `json:"customer"`
	Currency string `json:"currency"`
	Total    int    `json:"total"`
	Items    int    `json:"items"`
	Note     string `json:"note"`
}

// payload is 1 KiB of JSON.
var payload = order{ID: "o-1", Customer: "c-9", Currency: "EUR", Total: 1999, Items: 3, Note: strings.Repeat("lorem ipsum ", 78) + "do"}
