// Package helm pins the program that renders the chart.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
