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
{{- with .root.Values.tls.cluster.secretName -}}
{{- $own = merge $own (dict "cluster_cert" "/etc/shoal-tls/cluster/tls.crt" "cluster_key" "/etc/shoal-tls/cluster/tls.key" "cluster_ca" "/etc/shoal-tls/cluster/ca.crt") -}}
{{- end -}}
{{- if ne .role "gateway" -}}
{{- $own = set $own "data_dir" (printf "/var/lib/shoal/%s" .role) -}}
{{- end -}}
{{- if eq .role "coordinator" -}}
{{- $own = set $own "expected_workers" .root.Values.worker.replicas -}}
{{- with include "shoal.snapshotStore" .root -}}
{{- $own = set $own "snapshot_store" . -}}
{{- end -}}
{{- if .root.Values.auth.bootstrapKey.secretName -}}
{{- $own = set $own "bootstrap_key_file" "/etc/shoal-auth/api-key" -}}
{{- end -}}
{{- else -}}
{{- $own = set $own "coordinator" (include "shoal.coordinatorAddress" .root) -}}
{{- end -}}
{{- if eq .role "gateway" -}}
{{- $own = set $own "auth" .root.Values.auth.enabled -}}
{{- if .root.Values.tls.public.secretName -}}
{{- $own = merge $own (dict "tls_cert" "/etc/shoal-tls/public/tls.crt" "tls_key" "/etc/shoal-tls/public/tls.key") -}}
{{- if .root.Values.tls.public.requireClientCertificates -}}
{{- $own = set $own "tls_client_ca" "/etc/shoal-tls/public/ca.crt" -}}
{{- end -}}
{{- end -}}
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

{{/* Where snapshots lie; empty: nowhere. */}}
{{- define "shoal.snapshotStore" -}}
{{- $snapshots := .Values.snapshots -}}
{{- if and $snapshots.store $snapshots.claimName -}}
{{- fail "snapshots.store and snapshots.claimName are two places: give one" -}}
{{- end -}}
{{- if and .Values.backup.enabled (not (or $snapshots.store $snapshots.claimName)) -}}
{{- fail "backup.enabled without a place for backups: give snapshots.store or snapshots.claimName" -}}
{{- end -}}
{{- if $snapshots.claimName }}/var/lib/shoal-snapshots{{ else }}{{ $snapshots.store }}{{ end -}}
{{- end -}}

{{/* Fails where a role would refuse to start because anybody could do everything. */}}
{{- define "shoal.checkAuthentication" -}}
{{- $values := index .root.Values .role -}}
{{- $public := .root.Values.tls.public -}}
{{- if and $public.requireClientCertificates (not $public.secretName) -}}
{{- fail "tls.public.requireClientCertificates without tls.public.secretName: give the secret, too" -}}
{{- end -}}
{{- if and .root.Values.auth.bootstrapKey.secretName (not .root.Values.auth.enabled) -}}
{{- fail "auth.bootstrapKey.secretName without auth.enabled: no key would be asked for" -}}
{{- end -}}
{{- $insecure := get (merge (dict) $values.config .root.Values.config (dict "insecure" false)) "insecure" -}}
{{- $authenticates := ternary (or .root.Values.auth.enabled $public.requireClientCertificates) .root.Values.tls.cluster.secretName (eq .role "gateway") -}}
{{- if not (or $insecure $authenticates) -}}
{{- $wanted := ternary "auth.enabled" "tls.cluster.secretName" (eq .role "gateway") -}}
{{- fail (printf "callers of the %s are not authenticated: give %s, or %s.config.insecure=true (or config.insecure=true for all roles) if everybody who reaches it may do everything" .role $wanted .role) -}}
{{- end -}}
{{- end -}}

{{/* Seconds that a role's calls get to end, as the code's own default is where nobody says. */}}
{{- define "shoal.stopGrace" -}}
{{- $values := index .root.Values .role -}}
{{- get (merge (dict) $values.config .root.Values.config (dict "stop_grace_s" 10)) "stop_grace_s" -}}
{{- end -}}
