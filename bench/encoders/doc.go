// Package encoders holds no code: its benchmark is what encoding a record
// costs, in wire/ipfix and in a library. It is a module of its own, so that the
// library and the dozens of modules behind it are not the project's.
package encoders
