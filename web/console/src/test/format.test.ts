import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, convert, indicatorName, shown, unitName, valueText } from "../format";
import { chooseLang, fill } from "../i18n";
import { parseRoute, to } from "../route";

// Without a browser the language is zh-CN.

test("glucose is mmol/L with one decimal, with what was sent beside it", () => {
  const s = shown("glucose", { value: 51 }, "mg/dL");
  assert.deepEqual([s.value, s.unit, s.sent], ["2.8", "mmol/L", "51 mg/dL"]);
  assert.equal(shown("glucose", { value: 7.8 }, "mmol/L").sent, "");
  // Rounding, too, is told: 3.86 is below 3.9 though it shows as 3.9.
  assert.deepEqual([shown("glucose", { value: 3.86 }, "mmol/L").value, shown("glucose", { value: 3.86 }, "mmol/L").sent], ["3.9", "3.86 mmol/L"]);
  // 8.50 for 8.5 is no rounding.
  assert.deepEqual([shown("sleep", { total: 8.5 }, "h").value, shown("sleep", { total: 8.5 }, "h").sent], ["8.50", ""]);
});

test("blood pressure stays together, the pulse beside it in its own unit", () => {
  const s = shown("blood_pressure", { systolic: 142, diastolic: 91, pulse: 72 }, "mm[Hg]");
  assert.deepEqual([s.value, s.unit, s.also], ["142/91", "mmHg", "脉率 72 次/分"]);
  assert.equal(shown("blood_pressure", { systolic: 18.9, diastolic: 12.1, pulse: 72 }, "kPa").also, "脉率 72 次/分");
});

test("units and names that are not known are shown as they are", () => {
  assert.equal(unitName("ug/L"), "ug/L");
  assert.equal(indicatorName("grip_strength"), "grip strength");
  assert.equal(valueText("rhythm", { value: 1 }, "1"), "1");
  assert.equal(valueText("spo2", { value: 84 }, "%"), "84%");
});

test("conversions are those of the server", () => {
  assert.equal(convert(10, "mmol/L", "mg/dL"), 180.1559);
  assert(Math.abs(convert(98.6, "[degF]", "Cel") - 37) < 1e-9);
  assert.equal(convert(80, "[jin]", "kg"), 40);
  assert.equal(convert(5, "mm[Hg]", "kg"), 5);
});

test("how long ago", () => {
  const s = 1000, now = 1_000_000_000;
  for (const [ms, want] of [[0, "刚刚"], [9 * s, "刚刚"], [59 * s, "59 秒前"], [60 * s, "1 分钟前"], [3599 * s, "59 分钟前"], [3600 * s, "1 小时前"], [47 * 3600 * s, "47 小时前"], [50 * 3600 * s, "2 天前"], [-61 * s, "晚于当前时间"], [-30 * s, "刚刚"]] as const) {
    assert.equal(ago(now - ms, now), want);
  }
});

test("plural forms and placeholders", () => {
  const en = new Intl.PluralRules("en"), zh = new Intl.PluralRules("zh-CN");
  assert.equal(fill({ one: "{n} hour", other: "{n} hours" }, { n: 1 }, en), "1 hour");
  assert.equal(fill({ one: "{n} hour", other: "{n} hours" }, { n: 0 }, en), "0 hours");
  assert.equal(fill({ other: "{n} 小时" }, { n: 1 }, zh), "1 小时");
  assert.equal(fill("{a} {b}", { a: "{b}", b: 2 }, en), "{b} 2", "an argument is not a template");
});

test("the first language: session, then browser, then zh-CN", () => {
  assert.equal(chooseLang("", ["en-GB", "zh"]), "en");
  assert.equal(chooseLang("", ["fr", "zh-TW"]), "zh-CN");
  assert.equal(chooseLang("", ["de"]), "zh-CN");
  assert.equal(chooseLang("en", ["zh-CN"]), "en");
});

test("routes there and back", () => {
  assert.deepEqual(parseRoute(to.patient("P/1 ?")), { name: "patient", id: "P/1 ?" });
  assert.deepEqual(parseRoute(to.alert("a")), { name: "alert", id: "a" });
  for (const bad of ["", "#", "#/patients/", "#/patients/%E0%A4%A", "#/nowhere"]) assert.deepEqual(parseRoute(bad), { name: "home" });
});
