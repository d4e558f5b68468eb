{{/* Ports and the configuration file of a role. */}}

{{- define "shoal.ports" -}}
{{- if eq . "gateway" }}{ "port": 7700, "health_port": 7701, "metrics_port": 7702 }
{{- else if eq . "coordinator" }}{ "port": 7710, "health_port": 7711, "metrics_port": 7712 }
{{- else }}{ "port": 7720, "health_port": 7721, "metrics_port": 7722 }
{{- end }}
{{- end -}}

{{- define "shoal.coordinatorAddress" -}}
{{- printf "%s-coordinator.%s.svc.%s:7710" (include "shoal.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{/*
A role's file: what the chart decides, and what the user sets for every role and for this one. Helm
holds all numbers as floats, and its own toToml would write 1024 as 1024.0, which is no integer.
*/}}
{{- define "shoal.config" -}}
{{- $values := index .root.Values .role -}}
{{- $own := dict "host" .root.Values.listenAddress -}}
{{- $own = merge $own (include "shoal.ports" .role | fromJson) -}}
{{- if ne .role "gateway" -}}
{{- $own = set $own "data_dir" (printf "/var/lib/shoal/%s" .role) -}}
{{- end -}}
{{- if eq .role "coordinator" -}}
{{- $own = set $own "expected_workers" .root.Values.worker.replicas -}}
{{- else -}}
{{- $own = set $own "coordinator" (include "shoal.coordinatorAddress" .root) -}}
{{- end -}}
{{- $all := merge $own $values.config .root.Values.config -}}
[{{ .role }}]
{{- range $key := keys $all | sortAlpha }}
{{- $value := get $all $key }}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{ $key }} = {{ printf "%d" (int64 $value) }}
{{- else }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{ end -}}

{{/* Seconds that a role's calls get to end, as the code's own default is where nobody says. */}}
{{- define "shoal.stopGrace" -}}
{{- $values := index .root.Values .role -}}
{{- get (merge (dict) $values.config .root.Values.config (dict "stop_grace_s" 10)) "stop_grace_s" -}}
{{- end -}}
