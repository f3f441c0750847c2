// Package sagatest tests sagas, and the stores that keep them.
//
// [CrashEverywhere] is for those who write sagas: it kills the process at every
// write and at every edge of a step, forward and back, has another process finish
// what is left, and looks whether anybody was charged twice or left unpaid. The
// providers of a [World] misbehave as real ones do: they charge and then time out,
// and answer after they were told to forget it.
//
// [Run] is for those who write a store: it holds a backend to the contract of
// [saga.Store]. A backend is tested by two lines:
//
//	func TestStore(t *testing.T) {
//		sagatest.Run(t, func(t testing.TB) saga.Store { return mystore.New(connect(t)) })
//		sagatest.RunEngine(t, func(t testing.TB) saga.Store { return mystore.New(connect(t)) }, 0)
//	}
//
// Run them with -race. Each test is given an empty store of its own.
package sagatest
