{{/* Not empty if the chart runs three pods of Redis with Sentinels. */}}
{{- define "tenure.replicated" -}}
{{- if and .Values.redis.enabled (eq .Values.redis.mode "replicated") -}}
yes
{{- end -}}
{{- end -}}

{{/* Another name than in the standalone mode, because the fields of a StatefulSet cannot be changed. */}}
{{- define "tenure.replicated.name" -}}
{{ include "tenure.redis.name" . }}-node
{{- end -}}

{{/* The Secret with the key `node-password` that the controller fills, if it is not one of the user's. */}}
{{- define "tenure.replicated.secret" -}}
{{- if and (include "tenure.replicated" .) (not .Values.redis.auth.existingSecret) -}}
{{ include "tenure.replicated.name" . }}
{{- end -}}
{{- end -}}

{{/* The names of the pods, as a list in YAML. */}}
{{- define "tenure.replicated.hosts" -}}
{{- $name := include "tenure.replicated.name" . }}
{{- range $ordinal := until 3 }}
- {{ $name }}-{{ $ordinal }}.{{ $name }}.{{ $.Release.Namespace }}.svc
{{- end }}
{{- end -}}

{{- define "tenure.replicated.url" -}}
{{- $sentinels := list }}
{{- range include "tenure.replicated.hosts" . | fromYamlArray }}
{{- $sentinels = printf "%s:26379" . | append $sentinels }}
{{- end -}}
redis+sentinel://{{ join "," $sentinels }}/tenure
{{- end -}}

{{/* The environment of the scripts. */}}
{{- define "tenure.replicated.env" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: NODE_HOST, value: $(POD_NAME).{{ include "tenure.replicated.name" . }}.{{ .Release.Namespace }}.svc}
- {name: NODE_HOSTS, value: {{ include "tenure.replicated.hosts" . | fromYamlArray | join " " }}}
- {name: DOWN_AFTER, value: {{ .Values.redis.replicated.downAfterSeconds | quote }}}
- name: NODE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.auth.existingSecret | default (include "tenure.replicated.name" .) }}
      key: node-password
{{- end -}}

{{- define "tenure.replicated.conf" -}}
{{ include "tenure.redis.conf" . }}
# A replica without the data of its master answers with an error.
replica-serve-stale-data no
# A master that was cut off refuses writes before the Sentinels have made another one, so that a lease is not renewed by two.
min-replicas-to-write 1
min-replicas-max-lag {{ sub .Values.redis.replicated.downAfterSeconds 2 }}
# Without a pause for more replicas to come.
repl-diskless-sync-delay 0
# After a failover the others go on from here, without all of the data.
repl-backlog-size 16mb
{{- end -}}

{{/* The files of the pods. */}}
{{- define "tenure.replicated.checksum" -}}
{{- $all := include "tenure.replicated.conf" . }}
{{- range $path, $content := .Files.Glob "files/replicated/*" }}
{{- $all = print $all $path (toString $content) }}
{{- end }}
{{- sha256sum $all }}
{{- end -}}
