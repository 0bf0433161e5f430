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

// openFile opens the file with a single connection, which is the fastest way to use
// SQLite. Every commit is on disk when it returns.
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

// private creates the file, if there is none, so that only its owner can read it. It will
// hold payloads.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the caller's own path
	if err != nil {
		return err
	}
	return f.Close()
}

// checkedUpTo is the size up to which a file is checked when it is opened. The check reads
// the whole file, which takes long for a large one.
const checkedUpTo = 256 << 20

// check refuses a file that is damaged. It does not look into a file larger than
// checkedUpTo.
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
