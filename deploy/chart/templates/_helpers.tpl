{{- define "herald.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "herald.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "herald.labels" -}}
{{ include "herald.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "herald.serviceAccountName" -}}
{{- with .Values.speaker.serviceAccount -}}
{{- if .create }}{{ default (include "herald.fullname" $) .name }}{{ else }}{{ default "default" .name }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "herald.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* MetalLB's names for the two ends. */ -}}
{{- define "herald.logLevel" -}}
{{- get (dict "all" "trace" "none" "off") .Values.speaker.logLevel | default .Values.speaker.logLevel -}}
{{- end -}}

{{- define "herald.webhook" -}}
{{- if eq .Values.controller.webhookMode "enabled" }}true{{ end -}}
{{- end -}}

{{- /* Whether anything outside the node is to read the metrics. */ -}}
{{- define "herald.scraped" -}}
{{- with .Values.prometheus -}}
{{- if or .scrapeAnnotations .podMonitor.enabled .serviceMonitor.enabled }}true{{ end -}}
{{- end -}}
{{- end -}}

{{- define "herald.metricsBindAddress" -}}
{{- .Values.prometheus.metricsBindAddress | default (ternary "0.0.0.0" "127.0.0.1" (eq (include "herald.scraped" .) "true")) -}}
{{- end -}}

{{- define "herald.metricsListener" -}}
{{- $address := include "herald.metricsBindAddress" . -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end }}:{{ .Values.prometheus.metricsPort }}
{{- end -}}

{{- /* The address at which a kubelet finds its node's agent. */ -}}
{{- define "herald.probeHost" -}}
{{- $address := include "herald.metricsBindAddress" . -}}
{{- get (dict "0.0.0.0" "127.0.0.1" "::" "::1") $address | default $address -}}
{{- end -}}

{{- /* Values of MetalLB's chart that were given and have no meaning here, one a line. */ -}}
{{- define "herald.ignored" -}}
{{- range $key := list "frrk8s" "frr-k8s" "tls" }}
{{- if hasKey $.Values $key }}
{{ $key }}
{{- end }}
{{- end }}
{{- range $key, $_ := .Values.controller }}
{{- if ne $key "webhookMode" }}
controller.{{ $key }}
{{- end }}
{{- end }}
{{- $ignored := dict
  "speaker" (list "frr" "reloader" "frrMetrics" "frrStatus" "memberlist" "image" "command" "secretName" "bgpDebounceTimeout" "wanConfig" "securityContext" "startupProbe")
  "prometheus" (list "secureMetricsPort" "speakerMetricsTLSSecret" "controllerMetricsTLSSecret" "rbacProxy")
  "networkpolicies" (list "defaultDeny") }}
{{- range $section, $keys := $ignored }}
{{- range $key := $keys }}
{{- if hasKey (index $.Values $section) $key }}
{{ $section }}.{{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* What the two kinds of monitors have in common. */ -}}
{{- define "herald.scrape" -}}
path: /metrics
scheme: http
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
