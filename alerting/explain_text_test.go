package alerting

import (
	"testing"
	"time"
)

func TestTexts_durationsAndRatesInWords(t *testing.T) {
	for _, x := range []struct {
		d                    time.Duration
		zh, en, zhPer, enPer string
	}{
		{time.Second, "1秒", "1 second", "每秒", " per second"},
		{90 * time.Second, "90秒", "90 seconds", "每90秒", " per 90 seconds"},
		{time.Minute, "1分钟", "1 minute", "每分钟", " per minute"},
		{5 * time.Minute, "5分钟", "5 minutes", "每5分钟", " per 5 minutes"},
		{time.Hour, "1小时", "1 hour", "每小时", " per hour"},
		{90 * time.Minute, "90分钟", "90 minutes", "每90分钟", " per 90 minutes"},
		{24 * time.Hour, "24小时", "24 hours", "每24小时", " per 24 hours"},
		{72 * time.Hour, "3天", "3 days", "每3天", " per 3 days"},
	} {
		if zh, en := zhDuration(x.d), enDuration(x.d); zh != x.zh || en != x.en {
			t.Errorf("%v is %q, %q; want %q, %q", x.d, zh, en, x.zh, x.en)
		}
		if zh, en := zhPer(x.d), enPer(x.d); zh != x.zhPer || en != x.enPer {
			t.Errorf("per %v is %q, %q; want %q, %q", x.d, zh, en, x.zhPer, x.enPer)
		}
	}
	for v, want := range map[float64]float64{0.23920265780730897: 0.239, 2.1000000000000085: 2.1, 0.11: 0.11, 99.96: 100, 1234.4: 1234, 0: 0} {
		if got := significant(v); got != want {
			t.Errorf("significant(%v) = %v, want %v", v, got, want)
		}
	}
}
