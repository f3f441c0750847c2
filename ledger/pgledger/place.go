package pgledger

import (
	"encoding/binary"
	"strconv"
)

// place is where a row of ledger_accounts was left: its page, and which of that. To
// go there spares the way through the index. It is a guess like the account's
// other fields, and is checked: every update moves the row, and another one may be
// there by now.
type place struct {
	page uint32
	item uint16 // 0: the place is not known
}

// tidied says how often an account is looked up in the index all the same, each so
// many times. On that way PostgreSQL clears the page of old versions, which is as
// much work as the rest of the way. If it never does, the page fills up, and its rows
// go to other pages, with a new entry in each index. There is room for about as
// many old versions as there are accounts.
const tidied = 6

// places is the literal of a tid[].
type places struct{ literal }

func (l *places) add(p place) {
	if p.item == 0 {
		l.null()
		return
	}
	l.text = append(l.next(), `"(`...)
	l.text = append(strconv.AppendUint(l.text, uint64(p.page), 10), ',')
	l.text = append(strconv.AppendUint(l.text, uint64(p.item), 10), `)"`...)
}

// placesIn reads n places, each as tidsend writes it. nil: these are not so many.
func placesIn(b []byte, n int) []place {
	const size = 6
	if len(b) != n*size {
		return nil
	}
	list := make([]place, n)
	for i := range list {
		at := b[i*size:]
		list[i] = place{page: binary.BigEndian.Uint32(at), item: binary.BigEndian.Uint16(at[4:])}
	}
	return list
}
