{{/* What the pods of all roles have in common. */}}

{{- define "shoal.podMetadata" -}}
{{- $values := index .root.Values .role -}}
labels:
  {{- include "shoal.selectorLabels" . | nindent 2 }}
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # A new configuration is a new pod.
  checksum/config: {{ include "shoal.config" . | sha256sum }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "shoal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "shoal.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "shoal.podSpec" -}}
{{- $values := index .root.Values .role -}}
{{- $leaving := add (default 0 $values.preStopSeconds) (include "shoal.stopGrace" . | float64 | ceil) -}}
{{- if le (int64 $values.terminationGracePeriodSeconds) (int64 $leaving) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %v: more than preStopSeconds and stop_grace_s together, %v, would be right" .role $values.terminationGracePeriodSeconds $leaving) -}}
{{- end -}}
{{- include "shoal.checkAuthentication" . -}}
serviceAccountName: {{ include "shoal.serviceAccountName" .root }}
automountServiceAccountToken: false
# A Service named shoal would bring a variable SHOAL_PORT=tcp://…, which is a setting of ours.
enableServiceLinks: false
securityContext:
  {{- include "shoal.podSecurity" . | nindent 2 }}
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $spread := default dict $values.spread }}
{{- if or $spread.hosts $spread.zones }}
topologySpreadConstraints:
  {{- range $key, $whenUnsatisfiable := dict "kubernetes.io/hostname" $spread.hosts "topology.kubernetes.io/zone" $spread.zones }}
  {{- if $whenUnsatisfiable }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: {{ $whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "shoal.selectorLabels" $ | nindent 8 }}
    {{- if eq $.role "gateway" }}
    # Or pods of the release before would count, which are about to go.
    matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Health answers in plaintext on a port of its own, because probes speak nothing else. */}}
{{- define "shoal.container" -}}
{{- $values := index .root.Values .role -}}
{{- $ports := include "shoal.ports" .role | fromJson -}}
name: {{ .role }}
image: {{ include "shoal.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "shoal.containerSecurity" . | nindent 2 }}
ports:
  - {name: grpc, containerPort: {{ $ports.port }}, protocol: TCP}
  - {name: health, containerPort: {{ $ports.health_port }}, protocol: TCP}
  - {name: metrics, containerPort: {{ $ports.metrics_port }}, protocol: TCP}
# "live" is served by a process that still recovers, waits for others, or ends in order: killing it
# would only take longer.
startupProbe:
  grpc: {port: {{ $ports.health_port }}, service: live}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  grpc: {port: {{ $ports.health_port }}, service: live}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  grpc: {port: {{ $ports.health_port }}}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
{{- $snapshots := .root.Values.snapshots }}
{{- if ne .role "gateway" }}
{{- with $snapshots.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- with $snapshots.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/shoal, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- if .root.Values.tls.cluster.secretName }}
  - {name: cluster-tls, mountPath: /etc/shoal-tls/cluster, readOnly: true}
  {{- end }}
  {{- if and (eq .role "gateway") .root.Values.tls.public.secretName }}
  - {name: public-tls, mountPath: /etc/shoal-tls/public, readOnly: true}
  {{- end }}
  {{- if and (eq .role "coordinator") .root.Values.auth.bootstrapKey.secretName }}
  - {name: bootstrap-key, mountPath: /etc/shoal-auth, readOnly: true}
  {{- end }}
  {{- if ne .role "gateway" }}
  - {name: data, mountPath: /var/lib/shoal}
  {{- if $snapshots.claimName }}
  - {name: snapshots, mountPath: /var/lib/shoal-snapshots}
  {{- end }}
  {{- end }}
{{- end -}}

{{- define "shoal.volumes" -}}
- name: config
  configMap:
    name: {{ include "shoal.fullname" .root }}-{{ .role }}
- name: tmp
  emptyDir: {}
{{- with .root.Values.tls.cluster.secretName }}
- name: cluster-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if eq .role "gateway" }}
{{- with .root.Values.tls.public.secretName }}
- name: public-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- if ne .role "gateway" }}
{{- with .root.Values.snapshots.claimName }}
- name: snapshots
  persistentVolumeClaim: {claimName: {{ . }}}
{{- end }}
{{- end }}
{{- if eq .role "coordinator" }}
{{- with .root.Values.auth.bootstrapKey }}
{{- if .secretName }}
- name: bootstrap-key
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items: [{key: {{ .key | quote }}, path: api-key}]
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "shoal.volumeClaim" -}}
{{- $persistence := (index .root.Values .role).persistence -}}
metadata:
  name: data
  labels:
    {{- include "shoal.selectorLabels" . | nindent 4 }}
  {{- with $persistence.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  accessModes: {{ toJson $persistence.accessModes }}
  {{- with $persistence.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ $persistence.size }}
{{- end -}}
