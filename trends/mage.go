package trends

import (
	"math"
	"time"
)

// Parameters of MAGE (Fernandes 2022, as in iglu 4.3.0): moving averages of 5 and 32 values on a five-minute grid, and
// gaps that are long enough to count what is before and after apart.
const (
	mageStep  = 5 * time.Minute
	mageShort = 5
	mageLong  = 32
	mageGap   = 180 * time.Minute
)

// MAGE returns the mean amplitude of glycaemic excursions: turning points are the extremes between crossings of a
// short and a long moving average, an excursion is one of at least 1 SD; upward and downward ones are averaged, and
// stretches between long gaps are weighted by their length. NaN where a stretch of 32 values is missing.
func MAGE(ps []Point, zone *time.Location) float64 { return mage(ps, zone, mageShort, mageLong) }

func mage(ps []Point, zone *time.Location, short, long int) float64 {
	v := NewGrid(ps, mageStep, zone).V
	var sum, weight float64
	for start := 0; start < len(v); {
		if math.IsNaN(v[start]) {
			start++
			continue
		}
		end, missing := start+1, 0
		for i := end; i < len(v) && missing <= int(mageGap/mageStep); i++ {
			if math.IsNaN(v[i]) {
				missing++
			} else {
				end, missing = i+1, 0
			}
		}
		if m := mageOf(v[start:end], short, long); !math.IsNaN(m) {
			sum += m * float64(end-start)
			weight += float64(end - start)
		}
		start = end
	}
	return sum / weight
}

func mageOf(v []float64, short, long int) float64 {
	if len(v) < long {
		return math.NaN()
	}
	present := make([]float64, 0, len(v))
	for _, x := range v {
		if !math.IsNaN(x) {
			present = append(present, x)
		}
	}
	sd := SD(present)
	s, l := trailingMean(v, short), trailingMean(v, long)
	delta := make([]float64, len(v))
	for i := range v {
		delta[i] = s[i] - l[i]
	}
	// Crossings of the two averages; the first and the last value always count as one.
	type crossing struct {
		at   int
		high bool
	}
	cross := []crossing{{0, delta[0] > 0}}
	prev := delta[0]
	for i := 1; i < len(v)-1; i++ {
		if math.IsNaN(delta[i]) {
			continue
		}
		if delta[i]*prev < 0 || delta[i] == 0 && delta[i+1]*prev < 0 {
			cross = append(cross, crossing{i, delta[i] >= prev})
		}
		if delta[i] != 0 {
			prev = delta[i]
		}
	}
	last := len(v) - 1
	cross = append(cross, crossing{last, delta[last] > 0})
	// The extreme of each stretch, searched from the extreme before.
	turns := make([]float64, 0, len(cross))
	from := 0
	for i := 0; i+1 < len(cross); i++ {
		best := -1
		for k := from; k <= cross[i+1].at; k++ {
			if !math.IsNaN(v[k]) && (best < 0 || cross[i].high && v[k] > v[best] || !cross[i].high && v[k] < v[best]) {
				best = k
			}
		}
		if best < 0 {
			continue
		}
		turns = append(turns, v[best])
		from = best
	}
	up, down := excursions(turns, sd, 1), excursions(turns, sd, -1)
	return Mean([]float64{up, down})
}

// excursions returns the mean height of rises (sign 1) or falls (sign −1) of at least sd between turning points.
func excursions(turns []float64, sd, sign float64) float64 {
	var heights []float64
	n := len(turns)
	at := func(i int) float64 { return sign * turns[i] }
	for j, prev := 0, 0; j < n; {
		start := prev
		for i := prev; i <= j; i++ {
			if at(i) < at(start) {
				start = i
			}
		}
		if at(j)-at(start) < sd {
			j++
			continue
		}
		for k := j; k < n; k++ {
			if at(k) > at(j) {
				j = k
			}
			if at(j)-at(k) >= sd || k == n-1 {
				heights = append(heights, at(j)-at(start))
				prev, j = k, k
				break
			}
		}
		if prev == n-1 {
			break
		}
	}
	return Mean(heights)
}

// trailingMean is the mean of the last k values that are there; before the k-th it is that of the first k.
func trailingMean(v []float64, k int) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		from := max(0, i-k+1)
		sum, n := 0.0, 0.0
		for _, x := range v[from : from+k] {
			if !math.IsNaN(x) {
				sum, n = sum+x, n+1
			}
		}
		out[i] = sum / n
	}
	return out
}
