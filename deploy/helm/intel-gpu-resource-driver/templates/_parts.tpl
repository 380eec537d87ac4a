{{/* The image that everything runs. */}}
{{- define "gpu.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "gpu.labels" -}}
app.kubernetes.io/part-of: intel-gpu-resource-driver
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Objects of a file of the kustomization, in this release's namespace and with its labels. */}}
{{- define "gpu.file" -}}
{{- $root := .root }}
{{- $text := $root.Files.Get .file }}
{{- $text = $text | replace "namespace: intel-gpu-resource-driver" (printf "namespace: %s" $root.Release.Namespace) }}
{{- $text = $text | replace "system:serviceaccount:intel-gpu-resource-driver:" (printf "system:serviceaccount:%s:" $root.Release.Namespace) }}
{{- range splitList "\n---\n" $text }}
{{- $object := . | fromYaml }}
{{- $labels := include "gpu.labels" $root | fromYaml }}
{{- $_ := set $object.metadata "labels" (merge (default (dict) $object.metadata.labels) $labels) }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}

{{/* Flags as arguments, in their order: true is the name alone, false and null are left out. */}}
{{- define "gpu.args" -}}
{{- range $name, $value := . }}
{{- if kindIs "invalid" $value }}
{{- else if and (kindIs "bool" $value) (eq $name "rolling") }}
{{- if $value }}
- --rolling
{{- end }}
{{- else if kindIs "slice" $value }}
- {{ printf "--%s=%s" $name (join "," $value) | quote }}
{{- else }}
- {{ printf "--%s=%v" $name $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The port of ADDRESS:PORT or PORT: where the kubelet probes. */}}
{{- define "gpu.port" -}}
{{ regexFind "[0-9]+$" (toString .) }}
{{- end }}

{{/* "true" where a new node pod may start beside the old one. */}}
{{- define "gpu.rolling" -}}
{{- if and .Values.rolling (eq .Values.mode "structured") }}true{{ end }}
{{- end }}
