{{/* Refuses a value that does not match: (list "redis.maxMemory" value pattern advice) */}}
{{- define "tenure.match" -}}
{{- if not (regexMatch (index . 2) (index . 1 | toString)) }}
{{- printf "%s is %q: %s" (index . 0) (index . 1 | toString) (index . 3) | fail }}
{{- end }}
{{- end -}}

{{/* Refuses what is neither empty nor the name of an object: (list "redis.auth.existingSecret" value) */}}
{{- define "tenure.match.name" -}}
{{- include "tenure.match" (list (index . 0) (index . 1) "^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)?$"
    "write a name of lower-case letters, digits, '-' and '.', of at most 253 characters, that begins and ends with a letter or a digit") }}
{{- end -}}

{{/* Refuses what is no duration. The units have the order that the controller asks for. */}}
{{- define "tenure.match.anyDuration" -}}
{{- $advice := index . 2 | default "write a number and a unit, such as 0s, 90s, 5m or 1h30m" }}
{{- include "tenure.match" (list (index . 0) (index . 1) "^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$" $advice) }}
{{- include "tenure.match" (list (index . 0) (index . 1) "." $advice) }}
{{- end -}}

{{/* Refuses what is no duration above zero. */}}
{{- define "tenure.match.duration" -}}
{{- $advice := "write a number above zero and a unit, such as 90s, 5m or 1h30m" }}
{{- include "tenure.match.anyDuration" (list (index . 0) (index . 1) $advice) }}
{{- include "tenure.match" (list (index . 0) (index . 1) "[1-9]" $advice) }}
{{- end -}}

{{/* Refuses what is not the name of a namespace: (list "watchNamespaces[0]" value) */}}
{{- define "tenure.match.namespace" -}}
{{- include "tenure.match" (list (index . 0) (index . 1) "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
    "write the name of a namespace, of lower-case letters, digits and '-', of at most 63 characters") }}
{{- end -}}

{{/* Refuses an image that cannot be written as one reference: (list "image" .Values.image) */}}
{{- define "tenure.match.image" -}}
{{- $path := index . 0 }}
{{- with index . 1 }}
{{- if contains "@" .repository }}
{{- printf "%s.repository is %q, with a digest: write the digest into %s.digest" $path .repository $path | fail }}
{{- end }}
{{- if regexMatch ":[^/]*$" .repository }}
{{- printf "%s.repository is %q, with a tag: write the tag into %s.tag" $path .repository $path | fail }}
{{- end }}
{{- include "tenure.match" (list (print $path ".repository") .repository "^[a-zA-Z0-9][-a-zA-Z0-9.]*(:[0-9]+)?(/[a-z0-9][-a-z0-9._]*)*$"
    "write the name of an image, such as registry.example/tenure/controller") }}
{{- include "tenure.match" (list (print $path ".tag") .tag "^(\\w[-.\\w]{0,127})?$"
    "write a tag of letters, digits, '_', '-' and '.', of at most 128 characters") }}
{{- include "tenure.match" (list (print $path ".digest") .digest "^(sha256:[0-9a-f]{64})?$"
    "write sha256: and 64 hexadecimal digits, as a registry shows it") }}
{{- end }}
{{- end -}}

{{/* Refuses what is no quantity of Kubernetes: (list "redis.persistence.size" value) */}}
{{- define "tenure.match.quantity" -}}
{{- include "tenure.match" (list (index . 0) (index . 1) "^[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+|m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"
    "write a quantity, such as 0.5, 500m, 256Mi or 1Gi") }}
{{- end -}}

{{/* Refuses requests and limits that are no quantities: (list "redis" .Values.redis) */}}
{{- define "tenure.match.resources" -}}
{{- $path := index . 0 }}
{{- range $kind, $quantities := (index . 1).resources }}
{{- range $resource, $quantity := $quantities }}
{{- include "tenure.match.quantity" (list (printf "%s.resources.%s.%s" $path $kind $resource) $quantity) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The bytes of a quantity of Kubernetes, such as 256Mi, or of Redis, such as 128mb, which has other units. */}}
{{- define "tenure.bytes" -}}
{{- $text := toString . }}
{{- $number := regexFind "^[0-9.]+([eE][+-]?[0-9]+)?" $text }}
{{- $factors := dict "" 1 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
    "Ki" 0x1p10 "Mi" 0x1p20 "Gi" 0x1p30 "Ti" 0x1p40 "Pi" 0x1p50 "Ei" 0x1p60 }}
{{- mulf (float64 $number) (get $factors (trimPrefix $number $text)) }}
{{- end -}}

{{- define "tenure.redis.bytes" -}}
{{- $number := regexFind "^[0-9]+" . }}
{{- mulf (float64 $number) (get (dict "k" 1e3 "kb" 0x1p10 "m" 1e6 "mb" 0x1p20 "g" 1e9 "gb" 0x1p30) (trimPrefix $number .)) }}
{{- end -}}
