package screen

import "testing"

func mgenView() *View {
	v := testView()
	v.ShowMGEN, v.HasMGEN = true, true
	v.MGEN = []MGENFlow{
		{
			ID: 101, Path: "n1:5001 → 10.0.0.2:5001", At: "gateway", Rate: Rate{98, 430_000}, Loss: Gauge{1.24, true},
			Delay: Gauge{0.0123, true}, Jitter: Gauge{0.0004, true}, Reordered: Gauge{3, true}, Duplicates: Gauge{0, true},
		},
		{ID: 299, Path: "n1:5001 → 224.1.2.3:5001", At: "b", Rate: Rate{50, 410_000}, Loss: Gauge{0, true}},
		{ID: 299, Path: "n1:5001 → 224.1.2.3:5001", At: "c", Rate: Rate{10, 82_000}, Loss: Gauge{80, true}, Delay: Gauge{-1.5, true}},
		{ID: 4294967295, Path: "10.0.0.9:1 → 10.0.0.10:2", Rate: Rate{5, 4000}},
	}
	return v
}

func TestPaintMGEN(t *testing.T) {
	var p Painter
	expectFrame(t, p.Paint(mgenView(), 120, 9), `
 recollect   2 of 4 agents connected   up 1:23   1 234 567 records                       12.3 k packets/s   98.8 Mbit/s

       flow  path                      at       packets/s       bits/s    loss     delay    jitter  reordered  dup.
        101  n1:5001 → 10.0.0.2:5001   gateway        98    430 kbit/s   1.2 %   12.3 ms    400 µs          3     0
        299  n1:5001 → 224.1.2.3:5001  b              50    410 kbit/s     0 %
                                       c              10   82.0 kbit/s    80 %   -1.50 s
 4294967295  10.0.0.9:1 → 10.0.0.10:2                  5   4.00 kbit/s  not seen arriving

 m hosts   q ends   c conversations`)
	expectFrame(t, p.Paint(mgenView(), 80, 7), `
 recollect   2 of 4 agents   up 1:23             12.3 k packets/s   98.8 Mbit/s

       flow  path                      at            bits/s    loss     delay
        101  n1:5001 → 10.0.0.2:5001   gateway   430 kbit/s   1.2 %   12.3 ms
        299  n1:5001 → 224.1.2.3:5001  b         410 kbit/s     0 %
                                       c        82.0 kbit/s    80 %   -1.50 s
 +1 more   a taller window shows them   m hosts   q ends   c conversations`)
	v := mgenView()
	v.MGEN = nil
	expectFrame(t, p.Paint(v, 80, 6), `
 recollect   2 of 4 agents   up 1:23             12.3 k packets/s   98.8 Mbit/s


 no MGEN flows in the last seconds

 m hosts   q ends   c conversations`)
}

// TestPaintLoss: flows have loss and delay as soon as something is known of
// any; where there is no room, the host's own gauges give way.
func TestPaintLoss(t *testing.T) {
	v := testView()
	v.HasMGEN = true
	v.Agents[0].Flows[1].Loss, v.Agents[0].Flows[1].Delay = Gauge{0.01, true}, Gauge{1.234, true}
	v.Agents = v.Agents[:1]
	var p Painter
	expectFrame(t, p.Paint(v, 110, 9), `
 recollect   1 of 1 agent connected   up 1:23   1 234 567 records              12.3 k packets/s   98.8 Mbit/s

   agent / flow          packets/s        bits/s    loss     delay    cpu    memory  0             100 Mbit/s
 ● a  10.0.0.1:7073         12.3 k   98.8 Mbit/s                     12 %   1.20 GB  ████████████████████████
    ■ 1   2000              10.0 k   50.0 Mbit/s                                     ████████████
    ■ 2   2020-2029, M7       345    25.0 Mbit/s   0.1 %    1.23 s                   ██████
    ■ 10  M1000                 0        0 bit/s
    ■ X   no flow           2.00 k   23.8 Mbit/s                                     █████▊
 m MGEN flows   q ends   c conversations`)
	expectFrame(t, p.Paint(v, 80, 8), `
 recollect   1 of 1 agent   up 1:23              12.3 k packets/s   98.8 Mbit/s

   agent / flow          packets/s        bits/s    loss     delay     to 100 M
 ● a  10.0.0.1:7073         12.3 k   98.8 Mbit/s                    ███████████
    ■ 1   2000              10.0 k   50.0 Mbit/s                    █████▌
    ■ 2   2020-2029, M7       345    25.0 Mbit/s   0.1 %    1.23 s  ██▊
    ■ 10  M1000                 0        0 bit/s
 +1 more   a taller window shows them   m MGEN flows   q ends`)
}

func TestDelay(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0 µs", 0.00000049: "0 µs", 0.000999: "999 µs", 0.0009996: "1.00 ms", 0.00999: "9.99 ms", 0.0123: "12.3 ms",
		0.4567: "457 ms", 0.9996: "1.00 s", 12.34: "12.3 s", 1234: "1234 s", -0.5: "-500 ms",
	} {
		if got := delay(Gauge{v, true}); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0 %", 0.0001: "0.1 %", 9.94: "9.9 %", 9.96: "10 %", 100: "100 %"} {
		if got := loss(Gauge{v, true}); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}
