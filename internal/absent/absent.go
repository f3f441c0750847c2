// Package absent sees a dependency that is not there. A nil pointer of a type that satisfies an interface is not a nil interface, and is
// what is left by who does not look at the error of a constructor.
package absent

import "reflect"

// Is reports whether v is nil, or a nil pointer.
func Is(v any) bool {
	r := reflect.ValueOf(v)
	return !r.IsValid() || r.Kind() == reflect.Pointer && r.IsNil()
}
