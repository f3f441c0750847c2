// Package strictjson decodes the JSON body of a request and refuses every
// document that two readers could understand differently.
//
// encoding/json keeps the last of two equal keys, takes "Customer_ID" for
// customer_id, skips keys that it does not know and turns broken text into
// U+FFFD. A gateway in front of the server, a signature check or an audit log
// may choose otherwise, and then two systems have seen two payments in one
// body. Here such a body is an [*Error] that names the field:
//
//   - an empty body, a body over the limit ([ErrTooLarge]), one that is not an
//     object, anything after the object, a syntax error;
//   - a key that is unknown, written twice (also as an escape, "\u0061" for
//     "a") or in another case, at any depth;
//   - a value of the wrong type, and null, which no field takes;
//   - invalid UTF-8, and escapes that stand for no character, such as half a
//     surrogate pair;
//   - more than 32 levels of objects and arrays.
//
// # Guaranteed
//
// What [Decode] accepts, encoding/json accepts too, with an equal result. The
// content of the destination after an error is undefined. No input panics, and
// the cost is linear in its size.
//
// # Not guaranteed
//
// A field that is absent is no error: which fields are required, and all rules
// on their values, belong to the caller. Since null is refused, a pointer field
// tells the cases apart: nil means that the key was absent, a pointer to "" that
// it was there and empty.
//
// A destination is built of structs, slices, pointers, strings, booleans,
// numbers, and types that read a string, number or boolean through their own
// UnmarshalJSON or UnmarshalText (time.Time, decimal.Decimal). Maps, interfaces
// and embedded fields are an error of the programmer: a strict document has no
// key that nobody declared.
package strictjson
