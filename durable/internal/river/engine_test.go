package river_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/fanout-go/fanout/durable/internal/river"
)

func TestOpenPostgres_ReturnsWhatRiverRefuses(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://nowhere.invalid/nothing") // it is not used
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	db := stdlib.OpenDBFromPool(pool)
	_, err = river.OpenPostgres(pool, db, strings.Repeat("s", 47), config)
	require.ErrorContains(t, err, "Schema length must be less than or equal to 46 characters")
	require.NoError(t, db.Close())
}
