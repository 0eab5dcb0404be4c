package wire

import "testing"

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"node 1/eth0":           "node 1/eth0",
		"Zürich-東京":             "Zürich-東京",
		"a\x1b[2Jb":             "a?[2Jb",
		"a\r\nb\tc":             "a??b?c",
		"del\x7f csi\u009b31m":  "del? csi?31m",
		"txt\u202egpj":          "txt?gpj",
		"line\u2028 end\u2029":  "line? end?",
		"not UTF-8 \xff\x9b31m": "not UTF-8 ??31m",
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
