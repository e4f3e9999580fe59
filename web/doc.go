// Package web is the HTTP side of the house: the API of contract section 4 with its OpenAPI document, health,
// metrics and the console's place, accounts, sessions and keys, who may see whom, and the record of who did. It
// owns no reading, alert or patient: it asks the domain packages through the interfaces in deps.go. Alerts reach
// browsers through web/feed.
//
// Every way to a patient's data leads through a view, which holds a principal and denies by default; handlers have no
// other way. Concurrency: a Server and an Auth may be used by any number of goroutines.
package web
