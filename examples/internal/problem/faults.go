package problem

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// Faults collects what is wrong with the fields of a request, so that its sender
// learns of all of it at once. The zero value is empty.
type Faults []Field

// Required returns a field that has to be there and to pass check, which says
// what is wrong with it; "" for nothing. nil is a field that is absent.
func (f *Faults) Required(field string, value *string, check func(string) string) string {
	reason := "is required"
	if value != nil {
		if reason = check(*value); reason == "" {
			return *value
		}
	}
	*f = append(*f, Field{field, reason})
	return ""
}

// Int returns a number that has to be there, from least to most.
func (f *Faults) Int(field string, value *int, least, most int) int {
	if value == nil || *value < least || *value > most {
		*f = append(*f, Field{field, fmt.Sprintf("must be a whole number from %d to %d", least, most)})
		return 0
	}
	return *value
}

// Query returns a number of the query, from least to most, or otherwise where
// the query has none.
func (f *Faults) Query(c *gin.Context, name string, otherwise, least, most int) int {
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	switch {
	case err != nil: // what it skips may have been this
		*f = append(*f, Field{name, "cannot be read in this query"})
		return 0
	case len(query[name]) > 1:
		*f = append(*f, Field{name, "must be given once"})
		return 0
	case len(query[name]) == 0:
		return otherwise
	}
	n, err := strconv.Atoi(query.Get(name))
	if err != nil {
		return f.Int(name, nil, least, most)
	}
	return f.Int(name, &n, least, most)
}

// Err returns a problem with the faults, or nil if there are none.
func (f Faults) Err(status int, detail string) error {
	if len(f) == 0 {
		return nil
	}
	return New(status, detail, f...)
}

// PathID returns the [Identifier] of this name in the path.
func PathID(c *gin.Context, name string) (string, error) {
	var f Faults
	text := c.Param(name)
	id := f.Required(name, &text, Identifier)
	return id, f.Err(http.StatusBadRequest, "the path has faults")
}

var identifier = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$`)

// Identifier says what is wrong with a name that came from outside. What passes
// is safe in a path, a log and a file name, and has no second way to be written.
func Identifier(s string) string {
	switch {
	case s == "":
		return "must not be empty"
	case len(s) > 64:
		return "must have at most 64 characters"
	case !identifier.MatchString(s):
		return "must be letters, digits and . _ : - and begin with a letter or digit"
	}
	return ""
}

// OneOf returns a check for [Faults.Required]: that a text is one of these.
func OneOf(texts ...string) func(string) string {
	return func(s string) string {
		if slices.Contains(texts, s) {
			return ""
		}
		return "must be one of " + strings.Join(texts, ", ")
	}
}

// DateTime says what is wrong with a date and time that has no zone. Year 0,
// which PostgreSQL does not have, is refused.
func DateTime(s string) string {
	// Parse takes more than the layout says, such as a blank for a zero.
	if t, err := time.Parse(time.DateTime, s); err != nil || t.Format(time.DateTime) != s || t.Year() < 1 {
		return "must be a date and time like 2025-11-07 14:54:16"
	}
	return ""
}

// 13 digits of naira keep an amount's kobo within int64 a thousand times over.
var plainAmount = regexp.MustCompile(`^[0-9]{1,13}(\.[0-9]{1,2})?$`)

// Amount says what is wrong with an amount of money. What passes is more than 0
// and has no sign, exponent or separator.
func Amount(s string) string {
	switch {
	case !plainAmount.MatchString(s):
		return "must be a plain decimal number with at most 13 digits and 2 decimals, like 10000 or 99.50"
	case strings.Trim(s, "0.") == "":
		return "must be more than 0"
	}
	return ""
}
