package web_test

import (
	"context"
	"testing"

	"vitalwatch/alerting"
	"vitalwatch/alerting/ledger"
)

// An emergency that has eased is still found as one.
func TestAlerts_HighestSeverity(t *testing.T) {
	h := build(t, nil)
	h.alert("A-1", "P-1", alerting.Emergency)
	h.alert("A-2", "P-1", alerting.Warning)
	_, err := h.ledger.Commit(context.Background(), ledger.Batch{Transitions: []alerting.Transition{
		{AlertID: "A-1", Patient: "P-1", Rule: "r-A-1", Kind: alerting.Eased, Severity: alerting.Warning}}})
	check(t, err)
	var l list[struct {
		ID, Severity string
		Highest      string `json:"highest_severity"`
	}]
	h.ask(200, "coach", "GET", "/api/v1/alerts?highest_severity=emergency", "").into(t, &l)
	if len(l.Items) != 1 || l.Items[0].ID != "A-1" || l.Items[0].Severity != "warning" || l.Items[0].Highest != "emergency" {
		t.Errorf("%+v", l.Items)
	}
}
