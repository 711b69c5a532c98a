package store

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"facilitator/internal/coalesce"
	"facilitator/internal/payment"
)

const (
	groupSize    = 64
	groupsAtOnce = 2
)

// query is a statement that returns one payment or none.
type query struct {
	sql  string
	args []any
	// mine, where it is set, says that sql takes an array for each argument and does
	// all that wait at once, and which of the rows it returns is this query's.
	// Statements of one row each would have their constraints prepared for every row.
	mine func(*paymentRow) bool
	// order of the locks it takes among those of others: two groups that take
	// theirs in the same order never wait for each other.
	order string
	// promises, where it is set, is the balance of which it promises something. Its
	// row is locked before all queries of the transaction begin.
	promises *purse
}

// found is the payment that a query returned, if it did.
type found struct {
	payment payment.Payment
	ok      bool
}

// lookUp reads one payment together with others, or payment.ErrNotFound.
func (s *Store) lookUp(ctx context.Context, q query) (payment.Payment, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	f, err := s.lookups.Do(ctx, q)
	if err == nil && !f.ok {
		err = payment.ErrNotFound
	}
	return f.payment, unavailable(err)
}

// write changes one payment together with others, in one transaction. It is
// committed once there is no error; after one, it may be committed or not.
func (s *Store) write(ctx context.Context, q query) (found, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	f, err := s.writes.Do(ctx, q)
	return f, unavailable(err)
}

func (s *Store) lookUpTogether(ctx context.Context, qs []query) []coalesce.Result[found] {
	return s.together(ctx, qs, func(int) { s.pool.reads.Add(1) })
}

func (s *Store) writeTogether(ctx context.Context, qs []query) []coalesce.Result[found] {
	return s.together(ctx, qs, func(rows int) {
		if rows > 0 { // nothing is written otherwise
			s.commits.Add(1)
		}
	})
}

// together runs queries in one transaction and tells count of it. If one query
// spoils it, each runs by itself, so that no caller suffers for another.
func (s *Store) together(ctx context.Context, qs []query, count func(rows int)) []coalesce.Result[found] {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	results := make([]coalesce.Result[found], len(qs))
	order := make([]int, len(qs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(qs[a].order, qs[b].order) })
	run := func(members []int) error {
		rows, err := s.send(ctx, qs, members)
		if err != nil {
			return err
		}
		hits := 0
		for i, row := range rows {
			if row == nil {
				continue
			}
			hits++
			r := &results[members[i]]
			r.Value.payment, r.Err = row.payment()
			r.Value.ok = r.Err == nil
		}
		count(hits)
		return nil
	}
	err := run(order)
	if err == nil {
		return results
	}
	alone := len(order) > 1 && faultOfOne(err)
	for at := range order {
		if alone {
			err = run(order[at : at+1])
			alone = err == nil || faultOfOne(err) // what else fails, fails for the rest as well
		}
		if err != nil {
			results[order[at]] = coalesce.Result[found]{Err: err}
		}
	}
	return results
}

// send runs the members' queries in one round trip and one transaction: the
// protocol makes one of all that is sent up to a sync.
func (s *Store) send(ctx context.Context, qs []query, members []int) ([]*paymentRow, error) {
	rows := make([]*paymentRow, len(members))
	var batch pgx.Batch
	var purses []purse
	for _, i := range members {
		if p := qs[i].promises; p != nil {
			purses = append(purses, *p)
		}
	}
	lockPayers(&batch, purses)
	sets := make(map[string][]int) // by statement, the places in members
	for at, i := range members {
		q := &qs[i]
		if q.mine != nil {
			sets[q.sql] = append(sets[q.sql], at)
			continue
		}
		batch.Queue(q.sql, q.args...).QueryRow(func(answer pgx.Row) error {
			row := new(paymentRow)
			err := row.scan(answer)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			rows[at] = row
			return err
		})
	}
	for _, sql := range slices.Sorted(maps.Keys(sets)) {
		places := sets[sql]
		batch.Queue(sql, columns(qs, members, places)...).Query(func(answers pgx.Rows) error {
			defer answers.Close()
			for answers.Next() {
				row := new(paymentRow)
				if err := row.scan(answers); err != nil {
					return err
				}
				for _, at := range places {
					if qs[members[at]].mine(row) {
						rows[at] = row
					}
				}
			}
			return answers.Err()
		})
	}
	return rows, s.pool.SendBatch(ctx, &batch).Close() // committed, or not
}

// columns are the arguments of queries with one statement, an array for each.
func columns(qs []query, members, places []int) []any {
	arrays := make([]any, len(qs[members[places[0]]].args))
	for n := range arrays {
		column := make([]any, len(places))
		for k, at := range places {
			column[k] = qs[members[at]].args[n]
		}
		arrays[n] = column
	}
	return arrays
}

// faultOfOne says whether a transaction failed for what one statement of it
// asked: bad data, a broken constraint, or a deadlock.
func faultOfOne(err error) bool {
	pg := (*pgconn.PgError)(nil)
	if !errors.As(err, &pg) || len(pg.Code) != 5 {
		return false
	}
	class := pg.Code[:2]
	return class == "22" || class == "23" || class == "40"
}
