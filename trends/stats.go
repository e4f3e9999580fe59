package trends

import (
	"math"
	"slices"
)

// Mean returns the arithmetic mean, NaN for no values.
func Mean(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// SD returns the sample standard deviation (n−1), NaN below two values.
func SD(v []float64) float64 {
	if len(v) < 2 {
		return math.NaN()
	}
	m, sum := Mean(v), 0.0
	for _, x := range v {
		sum += (x - m) * (x - m)
	}
	return math.Sqrt(sum / float64(len(v)-1))
}

// ordered holds values in order of size, sorted once for all quantiles that are asked of them.
type ordered []float64

func inOrder(v []float64) ordered {
	s := slices.Clone(v)
	slices.Sort(s)
	return s
}

func (s ordered) quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// mad is MAD of the values.
func (s ordered) mad() float64 {
	m := s.quantile(0.5)
	d := make([]float64, len(s))
	for i, x := range s {
		d[i] = math.Abs(x - m)
	}
	slices.Sort(d)
	return 1.4826 * ordered(d).quantile(0.5)
}

// Quantile returns the q-quantile by linear interpolation between order statistics (R's default, type 7). It does not
// change v.
func Quantile(v []float64, q float64) float64 { return inOrder(v).quantile(q) }

// Median returns the middle value, NaN for no values.
func Median(v []float64) float64 { return Quantile(v, 0.5) }

// MAD returns 1.4826·median|v − median|, which estimates the standard deviation and minds no outlier.
func MAD(v []float64) float64 { return inOrder(v).mad() }

// ARV returns the average real variability: the mean absolute difference of successive values, NaN below two.
func ARV(v []float64) float64 {
	d := make([]float64, 0, len(v))
	for i := 1; i < len(v); i++ {
		d = append(d, math.Abs(v[i]-v[i-1]))
	}
	return Mean(d)
}

// SV returns the successive variation: the root of the mean squared difference of successive values.
func SV(v []float64) float64 {
	d := make([]float64, 0, len(v))
	for i := 1; i < len(v); i++ {
		d = append(d, (v[i]-v[i-1])*(v[i]-v[i-1]))
	}
	return math.Sqrt(Mean(d))
}

// TheilSen returns the median of the slopes of all pairs of points, and the median intercept. Pairs at one time have
// no slope. It needs the square of len(t) in time and memory.
func TheilSen(t, y []float64) (slope, intercept float64) {
	var s []float64
	for i := range t {
		for j := i + 1; j < len(t); j++ {
			if t[j] != t[i] {
				s = append(s, (y[j]-y[i])/(t[j]-t[i]))
			}
		}
	}
	slope = Median(s)
	rest := make([]float64, len(t))
	for i := range t {
		rest[i] = y[i] - slope*t[i]
	}
	return slope, Median(rest)
}

// Trend is the Mann–Kendall test: S counts rising less falling pairs; P is two-sided.
type Trend struct {
	S, Variance, Z, P float64
}

// MannKendall tests whether y, in order of time, has a monotonic trend.
func MannKendall(y []float64) Trend {
	var r Trend
	n := float64(len(y))
	for i := range y {
		for j := i + 1; j < len(y); j++ {
			switch {
			case y[j] > y[i]:
				r.S++
			case y[j] < y[i]:
				r.S--
			}
		}
	}
	r.Variance = n * (n - 1) * (2*n + 5)
	s := slices.Sorted(slices.Values(y))
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && s[j] == s[i] {
			j++
		}
		k := float64(j - i)
		r.Variance -= k * (k - 1) * (2*k + 5)
		i = j
	}
	r.Variance /= 18
	switch {
	case r.Variance <= 0:
	case r.S > 0:
		r.Z = (r.S - 1) / math.Sqrt(r.Variance)
	case r.S < 0:
		r.Z = (r.S + 1) / math.Sqrt(r.Variance)
	}
	r.P = math.Erfc(math.Abs(r.Z) / math.Sqrt2)
	return r
}

// EWMA returns the exponentially weighted moving average of x that starts at mu, and its control limits mu±L·σ_z of
// each step (facts C3: λ 0.2, L 3).
func EWMA(x []float64, mu, sigma, lambda, l float64) (z, upper, lower []float64) {
	last, decay := mu, 1.0
	for _, v := range x {
		last = lambda*v + (1-lambda)*last
		decay *= (1 - lambda) * (1 - lambda)
		w := l * sigma * math.Sqrt(lambda/(2-lambda)*(1-decay))
		z, upper, lower = append(z, last), append(upper, mu+w), append(lower, mu-w)
	}
	return z, upper, lower
}

// CUSUM returns the upper and lower cumulative sums of x against mu with slack k·sigma; a sum beyond h·sigma (h 4 to 5)
// signals a shift (facts C3: k 0.5).
func CUSUM(x []float64, mu, sigma, k float64) (high, low []float64) {
	var h, l float64
	for _, v := range x {
		h = max(0, v-(mu+k*sigma)+h)
		l = max(0, (mu-k*sigma)-v+l)
		high, low = append(high, h), append(low, l)
	}
	return high, low
}

// RobustZ returns how many robust standard deviations x lies from the median of the baseline.
func RobustZ(baseline []float64, x float64) float64 { return (x - Median(baseline)) / MAD(baseline) }
