// Package journal writes a ledger's postings for other programs: as CSV, and as
// the plain-text journals of hledger and Beancount.
//
//	txs := journal.Read(ctx, l, "bank", "ada", "fees")
//	err := journal.WriteHledger(w, txs, nil)
//
// # What is guaranteed
//
//   - A posting that two of the accounts share is written once.
//   - What is read is the state of one moment, also while others post: of a
//     transaction either all postings of the named accounts are there or none.
//   - Each transaction sums to 0 in each currency, in each format. Amounts are
//     written with all decimal places of their currency and are never rounded.
//   - An id can be told from what was written, byte for byte.
//
// # What is not
//
// A posting between two accounts that are not named is not written: a transaction
// can have others than those that are shown. A ledger lists no accounts; who
// opens them knows them. Transactions are ordered by time, then by id, and
// within one moment that need not be the order in which they were posted. If the
// store's clock was set back, transactions of that time may come later than
// their time says, in two parts. Holds are not written before they are captured.
//
// # Names
//
// An account's name in a journal is its root and its id. The root is by default
// Assets for an account that grows by debits and Liabilities for another. Colons
// in the id stay and make a tree; where a part between them would be empty, they
// are escaped like everything else.
//
// For hledger, letters and digits of any script and - _ . / @ + stay; of others
// each byte becomes %XX, as in a URL.
//
// Beancount takes less. A part begins with its first letter in upper case
// ("wallet:ada" is Liabilities:Wallet:Ada), or has 0-- in front where it begins
// neither with a-z nor with 0-9 ("Ada" is 0--Ada). A-Z, a-z and 0-9 stay; of others
// each byte becomes -XX. A currency that begins with a digit or is a single
// letter has X. in front.
//
// Written for hledger 1.25 and Beancount 2.3, and read by both. Beancount itself
// counts with 28 digits: beyond that its sums are rounded and its queries fail.
//
// # When the store is down
//
// The store's error is returned, wrapped. What was written before is whole
// transactions, but not all of them: throw it away.
package journal
