package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

// other is an error of another type that knows what to do.
type other struct{ hint string }

func (other) Error() string  { return "other" }
func (o other) Hint() string { return o.hint }

func TestHintAndCode(t *testing.T) {
	plain := errors.New("plain")
	for _, tt := range []struct {
		name string
		err  error
		hint string
		code int
	}{
		{"none", nil, "", 0},
		{"plain", plain, "", 1},
		{"hint", WithHint(plain, "do"), "do", 1},
		{"code", WithCode(7, plain), "", 7},
		{"hint below code", WithCode(7, fmt.Errorf("x: %w", WithHint(plain, "do"))), "do", 7},
		{"code below hint", WithHint(fmt.Errorf("x: %w", WithCode(7, plain)), "do"), "do", 7},
		{"the outer ones", WithCode(8, WithHint(WithCode(7, WithHint(plain, "inner")), "outer")), "outer", 8},
		{"another type", WithCode(7, other{"see"}), "see", 7},
		{"another type without", WithHint(other{}, "do"), "do", 1},
		{"below another type without", errors.Join(plain, WithHint(WithCode(7, plain), "do")), "do", 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Hint(tt.err); got != tt.hint {
				t.Errorf("hint %q, want %q", got, tt.hint)
			}
			if got := Code(tt.err); got != tt.code {
				t.Errorf("code %d, want %d", got, tt.code)
			}
		})
	}
}

// TestTransparent: what an error says and what it wraps stay as they are.
func TestTransparent(t *testing.T) {
	err := WithCode(7, WithHint(fmt.Errorf("cannot open: %w", fs.ErrNotExist), "do"))
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != "cannot open: file does not exist" {
		t.Errorf("got %v, want what was wrapped", err)
	}
}
