// Package page drives the web page in a real Chromium: the whole daemon on a host
// of its own made of namespaces, guests that are namespaces too, and a browser on
// that host, steered by page.mjs with Playwright.
//
// Start reading at TestPage in page_test.go for the host, and at the end of
// page.mjs for what is tried. Pictures of the page come into shots/.
package page
