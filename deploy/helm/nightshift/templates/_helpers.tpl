{{/* The fixed facts of each service: its name, its database role, and what it talks to beside Kafka and PostgreSQL. */}}
{{- define "nightshift.facts" -}}
orchestrator: {name: orchestrator, role: orchestrator, model: true, objects: true}
sandboxGateway: {name: sandbox-gateway, role: sandbox_gateway, sandbox: true, snapshotKey: true, objects: true}
snapshotter: {name: snapshotter, role: snapshotter, sandbox: true, snapshotKey: true, objects: true}
budget: {name: budget, role: budget}
relay: {name: relay, role: relay, objects: true}
{{- end }}

{{- define "nightshift.labels" -}}
app.kubernetes.io/name: nightshift
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "nightshift.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The restricted Pod Security level. */}}
{{- define "nightshift.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "nightshift.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "nightshift.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "nightshift.dsn" -}}
{{- $p := .root.Values.postgres -}}
postgresql://{{ .user }}@{{ $p.host }}:{{ $p.port }}/{{ $p.database }}?sslmode={{ $p.sslmode }}
{{- if $p.caSecret }}&sslrootcert=/etc/nightshift/postgres/ca.crt{{ end }}
{{- end }}

{{- define "nightshift.kafkaUser" -}}
{{ .root.Values.kafka.secretPrefix | default .root.Release.Name }}-{{ .name }}
{{- end }}

{{/* Kafka, for a user named after a service. Needs root and name. */}}
{{- define "nightshift.kafkaEnv" -}}
{{- $k := .root.Values.kafka -}}
- {name: NIGHTSHIFT_KAFKA_BOOTSTRAP, value: {{ $k.bootstrap | quote }}}
- {name: NIGHTSHIFT_TOPIC_PREFIX, value: {{ $k.topicPrefix | quote }}}
- {name: NIGHTSHIFT_KAFKA_SECURITY_PROTOCOL, value: {{ $k.securityProtocol }}}
{{- if hasPrefix "SASL" $k.securityProtocol }}
- {name: NIGHTSHIFT_KAFKA_SASL_MECHANISM, value: {{ $k.saslMechanism }}}
- {name: NIGHTSHIFT_KAFKA_SASL_USERNAME, value: {{ include "nightshift.kafkaUser" . | quote }}}
- name: NIGHTSHIFT_KAFKA_SASL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "nightshift.kafkaUser" . }}, key: password}}
{{- end }}
{{- if $k.caSecret }}
- {name: NIGHTSHIFT_KAFKA_SSL_CA_FILE, value: /etc/nightshift/kafka/ca.crt}
{{- end }}
{{- end }}

{{- define "nightshift.objectEnv" -}}
{{- $o := .Values.objectStore -}}
- {name: NIGHTSHIFT_S3_BUCKET, value: {{ $o.bucket | quote }}}
- {name: NIGHTSHIFT_S3_REGION, value: {{ $o.region | quote }}}
{{- if $o.endpoint }}
- {name: NIGHTSHIFT_S3_ENDPOINT, value: {{ $o.endpoint | quote }}}
{{- end }}
{{- if $o.existingSecret }}
- name: NIGHTSHIFT_S3_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ $o.existingSecret }}, key: accessKey}}
- name: NIGHTSHIFT_S3_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ $o.existingSecret }}, key: secretKey}}
{{- end }}
{{- end }}

{{- define "nightshift.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 1Gi}}
- {name: home, emptyDir: {sizeLimit: 1Gi}}
{{- if .Values.kafka.caSecret }}
- {name: kafka-ca, secret: {secretName: {{ .Values.kafka.caSecret }}, items: [{key: ca.crt, path: ca.crt}]}}
{{- end }}
{{- if .Values.postgres.caSecret }}
- {name: postgres-ca, secret: {secretName: {{ .Values.postgres.caSecret }}, items: [{key: ca.crt, path: ca.crt}]}}
{{- end }}
{{- end }}

{{- define "nightshift.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /var/lib/nightshift}
{{- if .Values.kafka.caSecret }}
- {name: kafka-ca, mountPath: /etc/nightshift/kafka, readOnly: true}
{{- end }}
{{- if .Values.postgres.caSecret }}
- {name: postgres-ca, mountPath: /etc/nightshift/postgres, readOnly: true}
{{- end }}
{{- end }}

{{/* A role of the database with its password. Needs root and role. */}}
{{- define "nightshift.postgresEnv" -}}
- {name: NIGHTSHIFT_POSTGRES_DSN, value: {{ include "nightshift.dsn" (dict "root" .root "user" (printf "nightshift_%s" .role)) | quote }}}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ .root.Values.postgres.rolesSecret }}, key: {{ .role }}}}
{{- end }}
{{- define "nightshift.adminEnv" -}}
- name: PGUSER
  valueFrom: {secretKeyRef: {name: {{ .Values.postgres.adminSecret }}, key: username}}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ .Values.postgres.adminSecret }}, key: password}}
- {name: NIGHTSHIFT_POSTGRES_DSN, value: {{ include "nightshift.dsn" (dict "root" . "user" "$(PGUSER)") | quote }}}
{{- end }}
