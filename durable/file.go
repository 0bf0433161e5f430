package durable

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver
)

// openFile opens the file with the one connection that is fastest, and in which every
// commit is on disk when it returns.
func openFile(path string) (*sql.DB, error) {
	if path == "" || path == ":memory:" {
		return nil, errors.New("is not the path of a file")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := private(absolute); err != nil {
		return nil, err
	}
	address := url.URL{Scheme: "file", Path: absolute, RawQuery: url.Values{
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	}.Encode()}
	db, err := sql.Open("sqlite", address.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := check(db, absolute); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// private makes a new file readable by its owner alone: payloads are in it.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the caller's own path
	if err != nil {
		return err
	}
	return f.Close()
}

const checkedUpTo = 256 << 20

// check refuses a file that is damaged, unless it is so large that looking would take long.
func check(db *sql.DB, path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() > checkedUpTo {
		return err
	}
	var verdict string
	if err := db.QueryRowContext(context.Background(), "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("the file is damaged: %s", verdict)
	}
	return nil
}
