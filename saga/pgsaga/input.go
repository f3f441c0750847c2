package pgsaga

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/safetill/safetill/saga"
)

const (
	maxID   = 255     // bytes
	maxJSON = 1 << 20 // bytes
)

func refuse(field, reason string) error { return &saga.InputError{Field: field, Reason: reason} }

func checkID(field, id string) error {
	switch {
	case id == "":
		return refuse(field, "is empty")
	case len(id) > maxID:
		return refuse(field, "is longer than 255 bytes")
	}
	return checkText(field, id)
}

// checkText refuses what PostgreSQL cannot keep as text.
func checkText(field, s string) error {
	switch {
	case !utf8.ValidString(s):
		return refuse(field, "is not UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return refuse(field, "contains a NUL byte")
	}
	return nil
}

func checkJSON(field string, b []byte) error {
	switch {
	case len(b) > maxJSON:
		return refuse(field, "is larger than 1 MiB")
	case !json.Valid(b):
		return refuse(field, "is not JSON")
	case !utf8.Valid(b): // which json.Valid lets pass within a string
		return refuse(field, "is not UTF-8")
	}
	return nil
}

// clean makes text of what may come from anywhere, such as an error's message: a
// checkpoint is not refused for that.
func clean(s string) string {
	if checkText("", s) == nil {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
