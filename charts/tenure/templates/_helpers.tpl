{{/* The name of the chart in names and labels. */}}
{{- define "tenure.chart" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{/* What the names of all objects begin with. */}}
{{- define "tenure.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "tenure.chart" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tenure.chart" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The Lease that identifies the installation. */}}
{{- define "tenure.installation" -}}
{{ .Release.Namespace }}/{{ include "tenure.name" . }}
{{- end -}}

{{/* The service account of the controller. */}}
{{- define "tenure.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (printf "%s-controller" (include "tenure.name" .)) -}}
{{- end -}}

{{/* Labels that tell the pods of a component: (list . "redis") */}}
{{- define "tenure.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "tenure.chart" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object of a component: (list . "redis") */}}
{{- define "tenure.labels" -}}
{{- $root := index . 0 -}}
{{ include "tenure.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end -}}

{{/* An image of ours, which has the chart's version unless told otherwise: (list . .Values.image) */}}
{{- define "tenure.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The fields of a pod that choose its node: .Values.controller */}}
{{- define "tenure.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Who the processes of a pod are: (list uid) */}}
{{- define "tenure.podSecurity" -}}
{{- $uid := index . 0 -}}
runAsNonRoot: true
runAsUser: {{ $uid }}
runAsGroup: {{ $uid }}
fsGroup: {{ $uid }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tenure.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "tenure.redis.name" -}}
{{ include "tenure.name" . }}-redis
{{- end -}}

{{- define "tenure.redis.url" -}}
{{- if include "tenure.replicated" . -}}
{{ include "tenure.replicated.url" . }}
{{- else -}}
{{ ternary "rediss" "redis" .Values.redis.tls.enabled }}://{{ include "tenure.redis.name" . }}.{{ .Release.Namespace }}.svc:6379
{{- end -}}
{{- end -}}

{{/* The Secret with the key `password`. */}}
{{- define "tenure.redis.secret" -}}
{{ .Values.redis.auth.existingSecret | default (include "tenure.redis.name" .) }}
{{- end -}}

{{/* An object that outlives the release: Helm, and Argo CD, leave it. */}}
{{- define "tenure.keep" -}}
helm.sh/resource-policy: keep
argocd.argoproj.io/sync-options: Delete=false,Prune=false
{{- end -}}

{{/* How a program that uses the library finds Redis. */}}
{{- define "tenure.redis.env" -}}
{{- if .Values.redis.enabled -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "tenure.redis.secret" . }}
      key: password
- name: TENURE_REDIS_URL
  value: {{ include "tenure.redis.url" . | replace "://" "://:$(REDIS_PASSWORD)@" }}
{{- if .Values.redis.tls.enabled }}
- name: TENURE_REDIS_CA
  valueFrom:
    secretKeyRef:
      name: {{ include "tenure.redis.certificate" . }}
      key: ca.crt
{{- end }}
{{- else -}}
{{- include "tenure.externalRedis.env" (list . (.Values.externalRedis.podSecret | default .Values.externalRedis.existingSecret)) -}}
{{- end -}}
{{- end -}}

{{/* The same for another Redis, with the URL in this Secret: (list . "my-redis") */}}
{{- define "tenure.externalRedis.env" -}}
{{- with (index . 0).Values.externalRedis -}}
- name: TENURE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ index $ 1 }}
      key: url
{{- if ne .keyPrefix "tenure" }}
- {name: TENURE_REDIS_KEY_PREFIX, value: {{ .keyPrefix }}}
{{- end }}
{{- if .tls.existingSecret }}
{{- $folder := include "tenure.redis.tls" (index $ 0) }}
{{- if .tls.caKey }}
- {name: TENURE_REDIS_CA_FILE, value: {{ $folder }}/{{ .tls.caKey }}}
{{- end }}
{{- if .tls.certKey }}
- {name: TENURE_REDIS_CLIENT_CERT_FILE, value: {{ $folder }}/{{ .tls.certKey }}}
- {name: TENURE_REDIS_CLIENT_KEY_FILE, value: {{ $folder }}/{{ .tls.keyKey }}}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Where it finds the files for TLS. */}}
{{- define "tenure.redis.tls" -}}
/run/secrets/tenure-redis-tls
{{- end -}}

{{/* The volumes with which it finds Redis, and where they are mounted: nothing, if the environment says it all. */}}
{{- define "tenure.redis.volumes" -}}
{{- with .Values.externalRedis.tls }}
{{- if .existingSecret -}}
- name: redis-tls
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items:
      {{- range compact (list .caKey .certKey .keyKey) }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tenure.redis.mounts" -}}
{{- with .Values.externalRedis.tls }}
{{- if .existingSecret -}}
- {name: redis-tls, mountPath: {{ include "tenure.redis.tls" . }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}
