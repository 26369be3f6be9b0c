{{- /* Refuses an installation that watches a namespace of another release, which would grant each seat twice. A release is found by the
role of its controller: a ClusterRole if it watches all namespaces, or a Role in each watched namespace. The look-up needs no right that
the installation itself does not need. `helm template` finds nothing. */}}
{{- define "tenure.others" -}}
{{- if .Values.watchNamespaces }}
{{- range .Values.watchNamespaces }}
{{- include "tenure.others.among" (list $ (lookup "rbac.authorization.k8s.io/v1" "Role" . "") "-watched") }}
{{- end }}
{{- else }}
{{- include "tenure.others.among" (list . (lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "") "-controller") }}
{{- include "tenure.others.among" (list . (lookup "rbac.authorization.k8s.io/v1" "Role" "" "") "-watched") }}
{{- end }}
{{- end -}}

{{- define "tenure.others.among" -}}
{{- $root := index . 0 }}
{{- $suffix := index . 2 }}
{{- range (index . 1).items }}
{{- $labels := .metadata.labels | default dict }}
{{- $annotations := .metadata.annotations | default dict }}
{{- $chart := get $labels "helm.sh/chart" | toString }}
{{- $release := get $annotations "meta.helm.sh/release-name" | toString }}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" | toString }}
{{- $isController := and (hasPrefix (print $root.Chart.Name "-") $chart) (eq (get $labels "app.kubernetes.io/component" | toString) "controller") (hasSuffix $suffix .metadata.name) }}
{{- $isOurs := and (eq $release $root.Release.Name) (eq $namespace $root.Release.Namespace) }}
{{- if and $isController $release (not $isOurs) }}
{{- printf "the release %s in the namespace %s manages the objects of %s: two releases with a Redis each would grant each seat twice. Upgrade that release, uninstall it (helm uninstall %s --namespace %s), or give each release namespaces of its own (watchNamespaces)" $release $namespace (.metadata.namespace | default "all namespaces") $release $namespace | fail }}
{{- end }}
{{- end }}
{{- end -}}
