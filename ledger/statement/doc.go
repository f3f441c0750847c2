// Package statement tells what happened on an account: its entries in a period,
// the balance before and after, and all of it as one HTML page with a chart.
//
//	s, err := statement.Read(ctx, l, "wallet:ada", &statement.Options{From: january, To: february})
//	err = statement.WriteHTML(w, s, nil)
//
// # What is guaranteed
//
//   - Opening balance, entries and closing balance add up: each entry follows
//     from the one before, else Read returns a [*ledger.HistoryError].
//   - A period begins with the balance that the one before it has ended with, and each
//     entry is in one of them. Where the store's clock was set back over the moment
//     between the two, an entry may be in the one that its time is not of.
//   - The page needs nothing else: no script, font, image or style from elsewhere,
//     and its own policy forbids any. Ids are text in it, whatever they hold.
//   - The chart shows every extreme: where there are more entries than it has
//     columns, each column keeps its first, least, greatest and last balance.
//
// # What is not
//
// A statement is held in memory, and its page lists every entry: for a hundred
// thousand of them choose shorter periods. Holds have no entries and are not
// shown. A period that is not over yet may gain entries.
//
// # When the store is down
//
// [Read] returns the store's error, wrapped. [WriteHTML] needs no store.
package statement
