package pgsaga

import "github.com/safetill/safetill/saga"

// saveColumns are the parameters of a single checkpoint's UPDATE.
func saveColumns(i *item) []any {
	return []any{i.id, i.token, i.revision, i.status, i.undoing, i.progress, i.failed, i.error, i.crashes, i.data, i.due, i.seen}
}

// stepColumns are those of saveColumns that saveStepSQL has.
func stepColumns(i *item) []any {
	return []any{i.id, i.token, i.revision, i.progress, i.data}
}

// column is an array with one element for each item.
func column[T any](items []*item, of func(*item) T) []T {
	values := make([]T, len(items))
	for n, i := range items {
		values[n] = of(i)
	}
	return values
}

// birthsColumns are the parameters of new sagas' INSERT, as arrays.
func birthsColumns(items []*item) []any {
	return []any{
		column(items, func(i *item) string { return i.id }),
		column(items, func(i *item) int64 { return i.token }),
		column(items, func(i *item) int64 { return i.birth.lease }),
		column(items, func(i *item) int64 { return i.birth.deadline }),
		column(items, func(i *item) int64 { return i.birth.version }),
		column(items, func(i *item) int64 { return i.crashes }),
		column(items, func(i *item) bool { return i.undoing }),
		column(items, func(i *item) string { return i.status }),
		column(items, func(i *item) []byte { return i.birth.fingerprint[:] }),
		column(items, func(i *item) string { return i.birth.definition }),
		column(items, func(i *item) string { return i.birth.business }),
		column(items, func(i *item) string { return i.birth.parent }),
		column(items, func(i *item) string { return i.birth.owner }),
		column(items, func(i *item) string { return i.birth.plan }),
		column(items, func(i *item) string { return i.progress }),
		column(items, func(i *item) string { return i.failed }),
		column(items, func(i *item) string { return i.error }),
		column(items, func(i *item) string { return i.data }),
	}
}

// alike tells whether two new sagas differ in nothing but what alikeColumns has as
// arrays.
func (i *item) alike(o *item) bool {
	a, b := *i.birth, *o.birth
	a.business, a.fingerprint, b.business, b.fingerprint = "", [32]byte{}, "", [32]byte{}
	return a == b && i.token == o.token && i.status == o.status && i.progress == o.progress && i.well() && o.well()
}

// alikeColumns are those of birthsColumns in which the sagas differ, and then the others.
func alikeColumns(items []*item) []any {
	i, b := items[0], items[0].birth
	return []any{
		column(items, func(i *item) string { return i.id }),
		column(items, func(i *item) []byte { return i.birth.fingerprint[:] }),
		column(items, func(i *item) string { return i.birth.business }),
		column(items, func(i *item) string { return i.data }),
		i.token, b.lease, b.deadline, b.version, i.status, b.definition, b.parent, b.owner, b.plan, i.progress,
	}
}

// savesColumns are the same as saveColumns, as arrays.
func savesColumns(items []*item) []any {
	return []any{
		column(items, func(i *item) string { return i.id }),
		column(items, func(i *item) int64 { return i.token }),
		column(items, func(i *item) int64 { return i.revision }),
		column(items, func(i *item) string { return i.status }),
		column(items, func(i *item) bool { return i.undoing }),
		column(items, func(i *item) string { return i.progress }),
		column(items, func(i *item) string { return i.failed }),
		column(items, func(i *item) string { return i.error }),
		column(items, func(i *item) int64 { return i.crashes }),
		column(items, func(i *item) string { return i.data }),
		column(items, func(i *item) int64 { return i.due }),
		column(items, func(i *item) int64 { return i.seen }),
	}
}

// well tells whether nothing has gone wrong with a saga.
func (i *item) well() bool { return !i.undoing && i.failed == "" && i.error == "" && i.crashes == 0 }

// plain tells whether a checkpoint has only what plainColumns has. How many signals its
// owner knows of matters where it is released.
func (i *item) plain() bool {
	return i.well() && i.status == plainStatus(i.due).String() && (i.seen == 0 || i.due < sleep) && len(i.events)+len(i.messages) == 0
}

// plainStatus is what a saga that is well has come to, by what
// becomes of its time of wake-up.
func plainStatus(due int64) saga.Status {
	switch due {
	case keep:
		return saga.Running
	case over:
		return saga.Completed
	}
	return saga.Suspended
}

// plainColumns are those of savesColumns that differ.
func plainColumns(items []*item) []any {
	return []any{
		column(items, func(i *item) string { return i.id }),
		column(items, func(i *item) int64 { return i.token }),
		column(items, func(i *item) int64 { return i.revision }),
		column(items, func(i *item) string { return i.progress }),
		column(items, func(i *item) string { return i.data }),
		column(items, func(i *item) int64 { return i.due }),
	}
}

// extraColumns are the events and then the messages of all items, which refer to
// their saga by its id.
func extraColumns(items []*item) []any {
	var ids, kinds, steps, actors, texts, sagas, from, topics, keys []string
	var numbers, attempts []int64
	var payloads [][]byte
	for _, i := range items {
		for no, e := range i.events {
			ids, numbers, attempts = append(ids, i.id), append(numbers, int64(no)), append(attempts, int64(e.Attempt))
			kinds, steps, actors, texts = append(kinds, string(e.Kind)), append(steps, e.Step), append(actors, e.Actor), append(texts, e.Text)
		}
		for _, m := range i.messages {
			sagas, from, topics, keys = append(sagas, i.id), append(from, m.Step), append(topics, m.Topic), append(keys, m.Key)
			payloads = append(payloads, m.Payload)
		}
	}
	return []any{ids, numbers, kinds, steps, attempts, actors, texts, sagas, from, topics, keys, payloads}
}
