package alerting

import (
	"encoding/json"
	"slices"
	"strings"

	"vitalwatch/vitals"
)

// Nature says what an alert is about. The two are never mixed: no rule of a pack makes a technical alert, and no device
// error opens, worsens or ends a clinical one.
type Nature string

// The natures.
const (
	Clinical  Nature = "clinical"  // a person's values
	Technical Nature = "technical" // a device that could not measure
)

// TechnicalCondition is the condition of technical alerts. No pack may have the name.
const TechnicalCondition = "technical"

// Technical alerts are built in: what a device error means does not depend on the person's conditions. Their rule is
// device_error/CLASS/DEVICE, so that each device has an episode of its own, and what ends it is known from the alert
// alone: a good reading of the same indicator by the same device, taken after the error that opened it. So the engine
// remembers nothing of device errors that the ledger does not have, and readings stores need not keep them.

// TechnicalPrefix begins the rules of technical alerts.
const TechnicalPrefix = "device_error/"

// TechnicalRule is the rule of a class of device errors on a device.
func TechnicalRule(class string, device vitals.DeviceID) RuleID {
	return RuleID(TechnicalPrefix + class + "/" + string(device))
}

// Nature tells the rules of packs, whose ids have no slash, from the built-in technical ones.
func (id RuleID) Nature() Nature {
	if strings.HasPrefix(string(id), TechnicalPrefix) {
		return Technical
	}
	return Clinical
}

// technicalVersion changes with what the built-in rules decide; it stands in explanations.
const technicalVersion = "1"

// technicalSource: facts on alarm design keep technical alerts as their own kind; the severities are ours.
var technicalSource = Source{Text: "device error codes by class; severities are a proposal of this project", Mark: "P"}

// faultText is what is told of a class of device errors: warning (same day) where the device cannot measure any more until
// somebody does something about it, info where measuring again is enough.
type faultText struct {
	severity Severity
	zh, en   string // what is wrong, in the middle of a sentence
	adviceZh string
	adviceEn string
}

var faultTexts = map[string]faultText{
	"cuff":        {Warning, "袖带错误", "cuff error", "请检查袖带和气管是否插紧、有无漏气，重新绑好后再测。", "Check that cuff and tube are plugged in and do not leak; wrap the cuff again and measure once more."},
	"motion":      {Info, "测量时移动", "movement while measuring", "请静坐休息5分钟，保持不动、不说话后重测。", "Sit still for five minutes, do not move or talk, and measure again."},
	"battery":     {Warning, "电池电量不足", "battery low", "请更换电池或充电后重测。", "Replace or charge the battery and measure again."},
	"sensor":      {Warning, "传感器错误", "sensor error", "请按设备说明检查传感器的佩戴、启动或校准；持续出现请更换传感器，并改用备用仪器测量。", "Check that the sensor is worn, started and calibrated as its guide says; if it goes on change the sensor and measure with another device meanwhile."},
	"sample":      {Info, "血样不足", "not enough blood", "请换新试纸，一次吸足血量后重测。", "Take a new strip, fill it in one go and measure again."},
	"strip":       {Info, "试纸错误", "strip error", "请换用与仪器匹配的新试纸，重新插入后再测。", "Take a new strip that belongs to the meter, insert it again and measure."},
	"temperature": {Info, "环境温度过高或过低", "too warm or too cold to measure", "请在室温下放置约30分钟后重测。", "Let the device come to room temperature for about half an hour and measure again."},
	"range":       {Info, "超出设备测量范围", "beyond what the device can measure", "请按使用说明重新测量；若身体不适，请联系健康管理师或拨打120。", "Measure again as the guide says; if you feel unwell call your coach or emergency services."},
	"clock":       {Info, "设备时钟错误", "clock error", "请校准设备时间。", "Set the device's clock."},
	"memory":      {Info, "设备存储错误", "memory error", "请同步数据后清理设备存储。", "Upload what is stored and clear the device's memory."},
	"signal":      {Info, "信号不良", "poor signal", "请检查佩戴与接触，保持设备靠近手机或网关后重测。", "Check how it is worn, keep it near the phone or gateway, and measure again."},
	"hardware":    {Warning, "设备故障", "device fault", "请重新开机再试；仍出现请联系客服或更换设备。", "Switch it off and on; if it comes again contact the maker or change the device."},

	vitals.UnknownFault: {Info, "测量失败", "measurement failed", "请按设备说明书查看错误代码的含义后重测。", "See in the device's manual what the code means, and measure again."},
}

func faultOf(class string) faultText {
	if t, ok := faultTexts[class]; ok {
		return t
	}
	return faultTexts[vitals.UnknownFault]
}

// failure takes a device error. Only a live one is news; one that the same device has overtaken with a newer reading
// has been mended before it came. While the episode is open, more errors of the class change nothing.
func (p *Patient) failure(r *vitals.Reading, out *Decisions) {
	if out == nil || r.Freshness != vitals.Live {
		return
	}
	for i := range p.series {
		if s := &p.series[i]; s.indicator == r.Indicator && s.device == r.Device && s.newest > r.TakenAt {
			return
		}
	}
	class := r.Extra.Fault.Class
	rule := TechnicalRule(class, r.Device)
	for _, st := range p.rules {
		if st.alert != nil && st.alert.Rule == rule {
			return
		}
	}
	f := faultOf(class)
	a := &alert{OpenAlert: OpenAlert{ID: alertID(p.id, rule, r), Rule: rule, Condition: TechnicalCondition, Severity: f.severity,
		State: Open, OpenedAt: r.ReceivedAt, Device: r.Device, Indicator: r.Indicator, FailedAt: wholeMilli(r.TakenAt)}}
	p.insert(&ruleState{alert: a})
	ev := newEvidence(r)
	out.Transitions = append(out.Transitions, Transition{AlertID: a.ID, Patient: p.id, Rule: rule, Condition: TechnicalCondition,
		Kind: Opened, Severity: f.severity, At: r.ReceivedAt, Title: Text{"zh-CN": "设备技术提示：" + f.zh, "en": "Device: " + f.en},
		Trigger: ev.trigger(), Explanation: explainFailure(rule, Opened, f, ev), ReceivedAt: r.ReceivedAt})
	p.schedule()
}

// measured ends the device errors that a good reading of the same device proves over.
func (p *Patient) measured(r *vitals.Reading, out *Decisions) {
	for i := 0; i < len(p.rules); i++ {
		st := p.rules[i]
		if st.c != nil || st.alert == nil || st.alert.Device != r.Device || st.alert.Indicator != r.Indicator ||
			st.alert.Rule.Nature() != Technical || wholeMilli(r.TakenAt) <= st.alert.FailedAt {
			continue
		}
		a := st.alert
		f := faultOf(strings.Split(string(a.Rule), "/")[1])
		ev := newEvidence(r)
		out.Transitions = append(out.Transitions, Transition{AlertID: a.ID, Patient: p.id, Rule: a.Rule, Condition: a.Condition,
			Kind: ResolvedBy, Severity: a.Severity, At: r.ReceivedAt, Actor: ByValues, Title: Text{"zh-CN": "设备技术提示：" + f.zh, "en": "Device: " + f.en},
			Trigger: ev.trigger(), Explanation: explainFailure(a.Rule, ResolvedBy, f, ev), ReceivedAt: r.ReceivedAt})
		p.rules = slices.Delete(p.rules, i, i+1)
		i--
	}
}

// wholeMilli is a time as alerts carry it: what the ledger gives back must compare like what never left memory.
func wholeMilli(m vitals.Micros) vitals.Micros {
	if m < 0 {
		return m
	}
	return m - m%vitals.Millisecond
}

// The words of Explanation.Reasons for technical alerts.
const (
	ReasonDeviceError = "device_error"   // the device said that a measurement failed
	ReasonMeasured    = "measured_again" // the device has measured since
)

func explainFailure(rule RuleID, kind Kind, f faultText, ev *evidence) json.RawMessage {
	x := Explanation{Rule: rule, Pack: Pack{Name: TechnicalCondition, Version: technicalVersion}, Decided: kind, Severity: f.severity,
		Readings: []ExplainedValue{ev.explained()}, Reasons: []string{ReasonDeviceError}, Suspect: "confirm", Source: technicalSource,
		ClearText: Text{"zh-CN": "该设备下一次成功测量同一指标后自动解除。", "en": "Ends with the device's next good measurement of the same kind."}}
	name, en := names[ev.indicator][0], names[ev.indicator][1]
	if kind == ResolvedBy {
		x.Reasons = []string{ReasonMeasured}
		x.Text = Text{"zh-CN": "该设备已再次成功测量" + name + "，已自动解除。", "en": "The device has measured " + en + " again; ended."}
		return encode(&x)
	}
	x.Text = Text{"zh-CN": "设备报告" + name + "测量失败：" + f.zh + "。", "en": "The device reports that measuring " + en + " failed: " + f.en + "."}
	if ev.fault != nil && ev.fault.Code != "" {
		code := ev.fault.Code
		x.Text = Text{"zh-CN": "设备报告" + name + "测量失败：" + f.zh + "（错误代码 " + code + "）。", "en": "The device reports that measuring " + en + " failed: " + f.en + " (code " + code + ")."}
	}
	x.Advice = Text{"zh-CN": f.adviceZh, "en": f.adviceEn}
	return encode(&x)
}
