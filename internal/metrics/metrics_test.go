package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestWhatIsAskedForIsToldWhenItIsGathered(t *testing.T) {
	t.Parallel()
	gathered := prometheus.NewRegistry()
	r := New(gathered)
	age := 1.0
	r.GaugeFunc(About{Name: "age_seconds", Help: "An age.", Labels: []Label{Network()}}, func(tell Told) { tell(age, "eip155:1") })
	for range 2 {
		age++
		want := "# HELP facilitator_age_seconds An age.\n# TYPE facilitator_age_seconds gauge\nfacilitator_age_seconds{network=\"eip155:1\"} " +
			strings.TrimSpace(map[float64]string{2: "2", 3: "3"}[age]) + "\n"
		if err := testutil.GatherAndCompare(gathered, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
}

func TestACounterWhoseSeriesAreKnownBeginsAtZero(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		labels []Label
		series int
	}{
		"no label":           {nil, 1},
		"closed labels":      {[]Label{One("a", "1", "2"), One("b", "x", "y", "z")}, 6},
		"a configured label": {[]Label{One("a", "1", "2"), Network()}, 0},
	} {
		if n := testutil.CollectAndCount(New(prometheus.NewRegistry()).Counter(About{Name: "c_total", Help: "Things.", Labels: c.labels})); n != c.series {
			t.Errorf("%s: %d series, want %d", name, n, c.series)
		}
	}
}

func TestTheReferenceTellsTypesUnitsAndValues(t *testing.T) {
	t.Parallel()
	r := New(prometheus.NewRegistry())
	r.Counter(About{Name: "b_total", Unit: "things", Help: "Things.", Labels: []Label{One("kind", "x", "y"), Network()}})
	r.Gauge(About{Name: "a", Help: "First."})
	var b strings.Builder
	if err := r.WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| `facilitator_a` | gauge |  | First. |\n| `facilitator_b_total` | counter | things | Things. |\n",
		"\n### facilitator_b_total\n\n- `kind`: `x`, `y`\n- `network`: CAIP-2 name of a configured chain\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
