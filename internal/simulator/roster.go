package simulator

import "fmt"

// Patient is one virtual person and the device that measures them. Devices of one home send through one hub, so there
// is one device id for each person.
type Patient struct {
	// ID is what open registration would make of the device, so that a roster and an open server agree.
	ID     string
	Device string
	// Conditions are names of condition packs.
	Conditions []string
	// Name is invented, by language tag.
	Name map[string]string

	index int
}

// kinds is who lives in the simulated neighbourhood, over and over.
var kinds = [][]string{
	{"type1_diabetes"},
	{"hypertension"},
	{"copd"},
	{"type2_diabetes"},
	{"heart_failure"},
	{"hypertension"},
	{"type2_diabetes", "hypertension"},
	{"hypertension"},
	{"copd"},
	{"type2_diabetes"},
	{"heart_failure", "hypertension"},
	{"type1_diabetes"},
	{"hypertension"},
	{"type2_diabetes"},
}

var (
	surnames = [][2]string{{"林", "Lin"}, {"苏", "Su"}, {"沈", "Shen"}, {"顾", "Gu"}, {"陆", "Lu"}, {"江", "Jiang"}, {"温", "Wen"},
		{"白", "Bai"}, {"秦", "Qin"}, {"叶", "Ye"}, {"方", "Fang"}, {"乔", "Qiao"}, {"简", "Jian"}}
	givens = [][2]string{{"晓岚", "Xiaolan"}, {"志远", "Zhiyuan"}, {"玉梅", "Yumei"}, {"建国", "Jianguo"}, {"秀英", "Xiuying"}, {"文斌", "Wenbin"},
		{"春华", "Chunhua"}, {"海波", "Haibo"}, {"静怡", "Jingyi"}, {"德明", "Deming"}, {"雪琴", "Xueqin"}}
)

// Roster lists the patients that Run simulates with the same configuration.
func Roster(cfg Config) []Patient {
	cfg = cfg.withDefaults()
	out := make([]Patient, cfg.Patients)
	for i := range out {
		s, g := surnames[i%len(surnames)], givens[i%len(givens)]
		device := fmt.Sprintf("%s-%03d", cfg.DevicePrefix, i+1)
		out[i] = Patient{ID: "P-" + device, Device: device, Conditions: kinds[i%len(kinds)], index: i,
			Name: map[string]string{"zh-CN": s[0] + g[0], "en": g[1] + " " + s[1]}}
	}
	return out
}
