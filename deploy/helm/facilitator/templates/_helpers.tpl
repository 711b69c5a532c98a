{{- define "facilitator.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "facilitator.selector" -}}
app.kubernetes.io/name: facilitator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "facilitator.labels" -}}
{{ include "facilitator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "facilitator.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The configuration file. What the cluster must agree with is set here. */}}
{{- define "facilitator.config" -}}
{{- $text := toYaml .Values.config }}
{{- if regexMatch "(?m)^[\\s-]*(private_key|url|rpc_url|ws_url|password|token|headers):" $text }}
{{- fail "config holds a secret: name the Secret that has it in secrets" }}
{{- end }}
{{- $listeners := dict "http" (dict "address" ":4020") "metrics" (dict "address" ":9402") }}
{{- $config := mergeOverwrite (deepCopy .Values.config) $listeners }}
{{- if eq .Values.migrate "start" }}
{{- $config = mergeOverwrite $config (dict "database" (dict "migrate" true)) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* Nine tenths of the memory limit, at which Go begins to collect more eagerly; nothing
where the limit is not in Mi or Gi. */}}
{{- define "facilitator.memoryLimit" -}}
{{- $limit := dig "limits" "memory" "" .Values.resources | toString }}
{{- if regexMatch "^[1-9][0-9]*[MG]i$" $limit }}
{{- $mi := regexFind "^[0-9]+" $limit | int64 }}
{{- if hasSuffix "Gi" $limit }}{{ $mi = mul $mi 1024 }}{{ end }}
{{- div (mul $mi 9) 10 }}MiB
{{- end }}
{{- end }}

{{/* The secrets of the service, and those of what needs the database alone. */}}
{{- define "facilitator.databaseSecrets" -}}
{{- $secrets := list }}
{{- range .Values.secrets }}{{ if hasPrefix "FACILITATOR_DATABASE_" .setting }}{{ $secrets = append $secrets . }}{{ end }}{{ end }}
{{- toYaml $secrets }}
{{- end }}

{{/* The environment of a container: where the configuration and each secret are. Given the
root and the secrets. */}}
{{- define "facilitator.env" -}}
- name: FACILITATOR_CONFIG
  value: /etc/facilitator/facilitator.yaml
{{- with include "facilitator.memoryLimit" .root }}
- name: GOMEMLIMIT
  value: {{ . }}
{{- end }}
{{- range .secrets }}
- name: {{ .setting }}_FILE
  value: /run/secrets/facilitator/{{ .setting }}
{{- end }}
{{- end }}

{{- define "facilitator.mounts" -}}
- name: config
  mountPath: /etc/facilitator
  readOnly: true
- name: secrets
  mountPath: /run/secrets/facilitator
  readOnly: true
{{- end }}

{{/* Volumes; given the name of the ConfigMap and the secrets. */}}
{{- define "facilitator.volumes" -}}
- name: config
  configMap:
    name: {{ .configMap }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
    {{- range .secrets }}
    - secret:
        name: {{ .secret }}
        items:
        - key: {{ .key }}
          path: {{ .setting }}
    {{- end }}
{{- end }}

{{/* The service account of the pods; empty for the namespace's default. */}}
{{- define "facilitator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "facilitator.name" .) }}{{ else }}{{ .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "facilitator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "facilitator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
