package coalesce_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"facilitator/internal/coalesce"
)

func double(_ context.Context, ins []int) []coalesce.Result[int] {
	out := make([]coalesce.Result[int], len(ins))
	for i, n := range ins {
		out[i].Value = 2 * n
	}
	return out
}

func TestEveryCallerGetsItsOwn(t *testing.T) {
	t.Parallel()
	g := coalesce.New(16, 3, double)
	var callers sync.WaitGroup
	for n := range 1000 {
		callers.Go(func() {
			if got, err := g.Do(t.Context(), n); err != nil || got != 2*n {
				t.Errorf("Do(%d) = %d, %v", n, got, err)
			}
		})
	}
	callers.Wait()
}

// What waits while a run is under way goes into the next, the cap observed.
func TestWaitersShareARun(t *testing.T) {
	t.Parallel()
	var sizes []int
	entered, proceed := make(chan struct{}), make(chan struct{})
	g := coalesce.New(4, 1, func(ctx context.Context, ins []int) []coalesce.Result[int] {
		sizes = append(sizes, len(ins))
		entered <- struct{}{}
		<-proceed
		return double(ctx, ins)
	})
	var callers sync.WaitGroup
	call := func(n int) {
		callers.Go(func() {
			if _, err := g.Do(t.Context(), n); err != nil {
				t.Error(err)
			}
		})
	}
	call(0)
	<-entered
	for n := range 6 {
		call(n)
	}
	g.AwaitWaiting(6)
	for range 2 {
		proceed <- struct{}{}
		<-entered
	}
	proceed <- struct{}{}
	callers.Wait()
	if len(sizes) != 3 || sizes[0] != 1 || sizes[1] != 4 || sizes[2] != 2 {
		t.Errorf("runs of %v, want 1, 4 and 2", sizes)
	}
}

// Beyond parallel a run is begun once enough wait, and not before; the bound of
// all holds however many wait.
func TestCrowdsGetMoreRuns(t *testing.T) {
	t.Parallel()
	const parallel, crowd, crowded = 1, 2, 3
	entered, proceed := make(chan int), make(chan struct{})
	g := coalesce.New(64, parallel, func(ctx context.Context, ins []int) []coalesce.Result[int] {
		entered <- len(ins)
		<-proceed
		return double(ctx, ins)
	}).Crowded(crowd, crowded)
	var callers sync.WaitGroup
	defer callers.Wait()
	waiting := 0
	// come adds a caller and returns the size of the run that this begins, if any.
	come := func(begins bool) int {
		callers.Go(func() {
			if _, err := g.Do(t.Context(), 1); err != nil {
				t.Error(err)
			}
		})
		waiting++
		if begins {
			waiting = 0
			return <-entered
		}
		g.AwaitWaiting(waiting)
		select {
		case n := <-entered:
			t.Errorf("a run of %d with %d waiting", n, waiting)
			return n
		default:
			return 0
		}
	}
	sizes := []int{come(true)}                                               // parallel
	sizes = append(sizes, come(false), come(true))                           // 2 for 1 under way
	sizes = append(sizes, come(false), come(false), come(false), come(true)) // 4 for 2
	for range 10 {
		sizes = append(sizes, come(false)) // as many as may be
	}
	if want := []int{1, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}; !slices.Equal(sizes, want) {
		t.Errorf("runs of %v, want %v", sizes, want)
	}
	proceed <- struct{}{} // its place goes to those that wait
	if n := <-entered; n != 10 {
		t.Errorf("a run of %d, want 10", n)
	}
	close(proceed)
}

func TestCallerThatLeaves(t *testing.T) {
	t.Parallel()
	var ran []int
	entered, proceed := make(chan struct{}), make(chan struct{})
	g := coalesce.New(4, 1, func(ctx context.Context, ins []int) []coalesce.Result[int] {
		ran = append(ran, ins...)
		entered <- struct{}{}
		<-proceed
		return double(ctx, ins)
	})
	var callers sync.WaitGroup
	callers.Go(func() { _, _ = g.Do(t.Context(), 1) })
	<-entered
	gone := errors.New("gone")
	ctx, leave := context.WithCancelCause(t.Context())
	callers.Go(func() {
		if _, err := g.Do(ctx, 2); !errors.Is(err, gone) {
			t.Errorf("error %v, want the cause", err)
		}
	})
	g.AwaitWaiting(1)
	leave(gone)
	callers.Go(func() { _, _ = g.Do(t.Context(), 3) })
	g.AwaitWaiting(2)
	proceed <- struct{}{}
	<-entered
	proceed <- struct{}{}
	callers.Wait()
	if len(ran) != 2 || ran[1] != 3 {
		t.Errorf("ran %v: nobody waits for 2", ran)
	}
	if _, err := g.Do(ctx, 4); !errors.Is(err, gone) {
		t.Errorf("error %v, want the cause", err)
	}
}

func TestTooFewResults(t *testing.T) {
	t.Parallel()
	g := coalesce.New(4, 1, func(context.Context, []int) []coalesce.Result[int] { return nil })
	if _, err := g.Do(t.Context(), 1); !errors.Is(err, coalesce.ErrShort) {
		t.Errorf("error %v", err)
	}
}
